"""Opens a report in headless Chromium: check_report.py REPORT.html SCREENSHOT.png JSON, where JSON says what must be there:
{"curves": N, "windows": N, "texts": [..]}. Fails on any console error, on a request to anywhere, and on blank charts."""

import json
import os
import struct
import sys

from browser import Browser

page, screenshot, wanted = sys.argv[1:]
wanted = json.loads(wanted)
with open(page) as file:
    html = file.read()
assert "http://" not in html.replace("http://www.w3.org/", "") and 'src="' not in html, "it fetches something"
INKED = """[...document.querySelectorAll("canvas")].map(canvas => {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let inked = 0;
  for (let i = 3; i < pixels.length; i += 4) inked += pixels[i] > 0;
  return inked;
})"""
with Browser() as browser:
    browser.open("file://" + os.path.abspath(page))
    curves, windows = (browser.evaluate(f'document.querySelectorAll("[data-{kind}] canvas").length') for kind in ("curve", "window"))
    assert (curves, windows) == (wanted["curves"], wanted["windows"]), (curves, windows)
    browser.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    inked = browser.evaluate(INKED)
    assert all(count > 200 for count in inked), inked
    text = browser.evaluate("document.body.innerText")
    for piece in wanted["texts"]:
        assert piece in text, f"{piece!r} is not in {text[:2000]}"
    for width, dark in [(1200, False), (600, True)]:
        browser.screenshot(screenshot, width=width, dark=dark)
        with open(screenshot, "rb") as file:
            png = file.read()
        # Wider than its window, it could not be read without scrolling.
        assert struct.unpack(">I", png[16:20])[0] == width, width
    # The cursor shows values.
    browser.call("Emulation.clearDeviceMetricsOverride")
    if windows:
        browser.evaluate("""document.querySelector("[data-window] .u-over").dispatchEvent(
            new MouseEvent("mousemove", {clientX: 120, clientY: 60, bubbles: true}))""")
    browser.screenshot(screenshot, width=1200)
    assert not browser.errors(), browser.errors()
print(f"ok: {curves} curves, {windows} window charts")
