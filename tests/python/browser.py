"""Drive headless Chromium through its DevTools pipe: standard library only, no port, no driver."""
import base64
import contextlib
import functools
import http.server
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

NAMES = ("chromium-headless-shell", "chromium", "chromium-shell")  # Debian's packages, smallest first
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe""".split()
FLAGS.append("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1")  # no way out
NO_DIALOGS = "alert = confirm = prompt = text => console.error('dialog:', text)"  # they would block the page


class Browser(contextlib.AbstractContextManager):
    """One browser with one page. Use as a context manager; what fails raises RuntimeError."""

    def __init__(self, binary=None, timeout=30, flags=()):
        self._timeout, self._sent, self._loads, self._buffer, self._errors, self._session = timeout, 0, 0, b"", [], {}
        self._profile = tempfile.mkdtemp(prefix="browser-")
        self._socket, theirs = socket.socketpair()
        with theirs, open(f"{self._profile}/log.txt", "wb") as log:  # Chromium reads 3, writes 4
            self._process = subprocess.Popen(
                ["bash", "-c", f'exec "$@" 3<&{theirs.fileno()} 4>&{theirs.fileno()}', "browser",
                 binary or next(filter(shutil.which, NAMES), "chromium"), *FLAGS, f"--user-data-dir={self._profile}",
                 *flags], pass_fds=[theirs.fileno()], start_new_session=True, stdout=log, stderr=log)
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = {"sessionId": attached["sessionId"]}
            for domain in ("Page", "Runtime", "Log"):
                self.call(domain + ".enable")
            self.call("Page.addScriptToEvaluateOnNewDocument", source=NO_DIALOGS)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_):
        os.killpg(self._process.pid, signal.SIGKILL)  # the group: Debian's command is a shell script around the binary
        self._process.wait()
        self._socket.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, url):
        """Load a URL (http://127.0.0.1:..., file:///...) and wait for its load event."""
        loads, end = self._loads, time.monotonic() + self._timeout
        if failure := self.call("Page.navigate", url=url).get("errorText"):
            raise RuntimeError(f"{url}: {failure}")
        while self._loads == loads:
            self._receive(end, f"loading {url}")

    def evaluate(self, js):
        """The value of a JavaScript expression, by JSON; a promise is awaited."""
        reply = self.call("Runtime.evaluate", expression=js, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in reply:
            raise RuntimeError(_thrown(reply["exceptionDetails"]))
        return reply["result"].get("value")

    def wait(self, js, timeout=None):
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + (timeout or self._timeout)
        while not self.evaluate(f"Boolean({js})"):
            if time.monotonic() > end:
                raise RuntimeError(f"never true: {js}; errors: {self._errors}")
            time.sleep(0.05)

    def errors(self):
        """All so far: console.error, failed asserts, uncaught exceptions, failed loads, dialogs."""
        self.evaluate("new Promise(done => setTimeout(done))")  # what was queued before arrives before the reply
        return list(self._errors)

    def screenshot(self, path, width=1280, height=800, dark=False):
        """Write the whole page, in a viewport of this size and this colour scheme, as a PNG."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        # What follows its place's size has done so after a frame or two.
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        clip = {**self.call("Page.getLayoutMetrics")["cssContentSize"], "scale": 1}
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(data))

    def call(self, method, **params):
        """Send one DevTools command and return its result."""
        self._sent, end = self._sent + 1, time.monotonic() + self._timeout
        message = {"id": self._sent, "method": method, "params": params, **self._session}
        self._socket.settimeout(self._timeout)
        with contextlib.suppress(OSError):  # a dead browser: _receive will say so
            self._socket.sendall(json.dumps(message).encode() + b"\0")
        while (message := self._receive(end, method)).get("id") != self._sent:
            pass
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']['message']}")
        return message["result"]

    def _receive(self, end, what):
        """Take in and return one message: a reply or an event."""
        while b"\0" not in self._buffer:
            self._socket.settimeout(max(0.001, end - time.monotonic()))
            try:
                if not (chunk := self._socket.recv(1 << 20)):
                    raise ConnectionResetError("the browser ended")
                self._buffer += chunk
            except OSError as error:
                log = pathlib.Path(self._profile, "log.txt").read_text(errors="replace").strip()[-1000:]
                raise RuntimeError(f"{what}: {error}; {self._errors}; {log}") from None
        data, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(data)
        event, params = message.get("method"), message.get("params", {})
        if event == "Page.loadEventFired":
            self._loads += 1
        elif event == "Runtime.exceptionThrown":
            self._errors.append(_thrown(params["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self._errors.append("console: " + " ".join(map(_shown, params["args"])))
        elif event == "Log.entryAdded" and params["entry"]["level"] == "error":
            self._errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        return message


class _Files(http.server.SimpleHTTPRequestHandler):
    extensions_map = {".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serve(folder):
    """Serve a folder's files on this machine; gives the address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Files, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def _shown(value):
    return str(value.get("value", value.get("description", value["type"])))


def _thrown(details):
    return details["text"] + (" " + _shown(details["exception"]) if "exception" in details else "")
