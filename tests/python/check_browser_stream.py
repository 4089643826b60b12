"""docs/examples/stream.js in headless Chromium against docs/examples/stream.py: check_browser_stream.py JSON TOOLS, where
JSON is what `emg-train export --streaming --json` printed."""
import json
import os
import shutil
import sys
import tempfile

import numpy as np
from browser import Browser, serve

examples = os.path.join(os.path.dirname(__file__), "../../docs/examples")
sys.path.insert(0, examples)
from stream import stream

PAGE = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
<script type="importmap">{"imports": {"onnxruntime-web": "./ort.wasm.bundle.min.mjs"}}</script>
<script type="module">
import { stream } from "./stream.js";
import * as ort from "onnxruntime-web";
ort.env.wasm.numThreads = 1;
window.run = async about => {
  const emg = new Float32Array(await (await fetch("emg.bin")).arrayBuffer());
  return Array.from(await stream("model.onnx", emg, about));
};
</script>"""

said, tools = sys.argv[1:]
with open(said) as file:
    about = json.load(file)
model = about["model"]
emg = np.random.default_rng(3).normal(size=(2345, 16)).astype(np.float32)
expected = stream(model, emg)
assert np.abs(expected).max() > 0.05
with tempfile.TemporaryDirectory() as site:
    for name in ["ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"]:
        os.symlink(os.path.join(tools, "onnxruntime-web", name), os.path.join(site, name))
    shutil.copy(os.path.join(examples, "stream.js"), site)
    shutil.copy(model, os.path.join(site, "model.onnx"))
    emg.tofile(os.path.join(site, "emg.bin"))
    with open(os.path.join(site, "index.html"), "w") as page:
        page.write(PAGE)
    with serve(site) as address, Browser() as browser:
        browser.open(address + "/index.html")
        browser.wait("window.run")
        got = np.array(browser.evaluate(f"run({json.dumps(about)})"), np.float32).reshape(-1, expected.shape[1])
        assert not browser.errors(), browser.errors()
assert got.shape == expected.shape, (got.shape, expected.shape)
worst = np.abs(got - expected).max()
assert worst < 1e-5, worst
print(f"{len(got)} rows in Chromium, worst {worst:.1e} rad from Python's")
