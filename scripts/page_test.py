"""Test the live page in headless Chromium, which it drives over the DevTools protocol.

A decoder (by default one that is trained here within seconds) decodes a session in real time, bin
by bin. The page has to show the numbers of the bins, to draw on every canvas, to say when the
decoder is gone, and to go on when it is back. Exit code 0: all seen; 1: not; 77: no Chromium.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from bci_decode.data.simulate import simulated_session
from bci_decode.errors import run_cli
from bci_decode.options import CommandParser, clock_time, number, path
from bci_decode.realtime.bins import Bin, Decoded
from bci_decode.realtime.decoder import StreamingDecoder
from bci_decode.realtime.interfaces.page import PageSink
from bci_decode.runs.estimator import train
from bci_decode.runs.load import load_run
from bci_decode.runs.loaded_run import LoadedRun

LIMIT = 60  # s after which something that does not come is given up
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PAINTED = """[...document.querySelectorAll("canvas")].map(canvas => {
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let drawn = 0;
  for (let at = 3; at < data.length; at += 4) drawn += data[at] > 0;
  return [canvas.id, drawn / (data.length / 4)];
})"""


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--run", metavar="RUN", help="a run's folder; default: trained here")
    parser.add_argument("--session", metavar="FILE", help="what it decodes; default: simulated")
    parser.add_argument("--start", type=clock_time, default=0.0, metavar="S", help="first bin, s")
    parser.add_argument("--screenshot", type=path, metavar="PNG", help="keep the page as picture")
    parser.add_argument("--dark", action="store_true", help="in the dark theme")
    parser.add_argument("--seconds", type=number(0, 600), default=6.0, help="before the picture; 6")
    options = parser.parse_args()
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        print(f"page test not run: none of {', '.join(PROGRAMS)} is installed")
        sys.exit(77)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = options.session or simulated_session(folder, seed=0, minutes=1.0, channels=48)
        run = load_run(options.run) if options.run else quick_run(Path(folder), file)
        live = Live(run, file, options.start)
        with browser(program, Path(folder)) as page:
            look(page, live, options)
        live.stop()
    print("page test passed")


def quick_run(folder: Path, file: str | Path) -> LoadedRun:
    words = [f"output_dir={folder}", "data.bin_width=0.02"]
    return train(session=file, model="wiener", overrides=words, progress=False)


class Live:
    """Decodes a session in real time, again and again, and shows it on a page."""

    def __init__(self, run: LoadedRun, file: str | Path, start: float):
        self.decoder, binned = StreamingDecoder(run), run.bin(file)
        first = int(start / run.config.bin_width)
        columns = run.match_units(binned)
        self._counts = binned.counts[first:, columns]
        self._true = binned.kinematics[first:]
        self.port = 0
        self.start()

    def start(self) -> None:
        self.page = PageSink(self.decoder, port=self.port)
        self.port, self.url = self.page.port, self.page.url
        self._go = True
        self._thread = threading.Thread(target=self._decode, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._go = False
        self._thread.join()
        self.page.close()

    def _decode(self) -> None:
        width, began = self.decoder.bin_width, time.perf_counter()
        rows = itertools.cycle(zip(self._counts, self._true, strict=True))
        for index, (counts, true) in enumerate(rows):
            if not self._go:
                return
            due = began + (index + 1) * width
            time.sleep(max(0.0, due - time.perf_counter()))
            arrived = time.perf_counter()
            output = self.decoder.step(counts)
            latency = time.perf_counter() - arrived
            bin_ = Bin(index, (index + 1) * width, counts, true, arrived=arrived)
            self.page.write(Decoded(bin_, output, latency, latency > width))


def look(page: Page, live: Live, options: argparse.Namespace) -> None:
    """Everything that the page has to show."""
    scheme = "dark" if options.dark else "light"
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.call("Emulation.setEmulatedMedia", features=features)
    size = {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.call("Emulation.setDeviceMetricsOverride", **size)
    page.call("Page.navigate", url=live.url)
    page.wait("the first bins", "Number(document.querySelector('#bin')?.textContent) > 10")
    first = int(page.value("document.querySelector('#bin').textContent"))
    page.wait("later bins", f"Number(document.querySelector('#bin')?.textContent) > {first + 10}")
    for name in ("p50", "p99", "latency"):
        text = page.value(f"document.querySelector('#{name}').textContent")
        expect(f"{name} is {text}", re.fullmatch(r"[\d.]+ (µs|ms)", text) is not None)
    page.wait("that it is live", "document.querySelector('#status').textContent === 'live'")
    for canvas, share in page.value(PAINTED):
        expect(f"canvas {canvas}: {share:.1%} drawn", share > 0.005)
    if options.screenshot:
        time.sleep(options.seconds)
        shot = page.call("Page.captureScreenshot", format="png")["data"]
        options.screenshot.write_bytes(base64.b64decode(shot))
        print(f"wrote {options.screenshot}")
    live.stop()
    page.wait("that the decoder is gone", "document.querySelector('#status').className === 'lost'")
    live.start()
    page.wait("that it is back", "document.querySelector('#status').textContent === 'live'")
    expect(f"no error on the page: {page.errors}", not page.errors)


def expect(what: str, seen: bool) -> None:
    print(what if seen else f"NOT: {what}")
    if not seen:
        sys.exit(1)


class Page:
    """A tab of the browser."""

    def __init__(self, connection: ClientConnection):
        self._connection, self._ids, self._session = connection, itertools.count(1), None
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._connection.send(json.dumps(message))
        while True:
            answer = json.loads(self._connection.recv(timeout=LIMIT))
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(answer["params"]["exceptionDetails"])[:500])
            if answer.get("method") == "Log.entryAdded":
                entry = answer["params"]["entry"]
                away = "WebSocket connection" in entry["text"]  # while the decoder is gone
                if entry["level"] == "error" and not away:
                    self.errors.append(entry["text"])
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def value(self, script: str) -> Any:
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"])
        return found["result"].get("value")

    def wait(self, what: str, script: str) -> None:
        stop = time.monotonic() + LIMIT
        while not self.value(script):
            if time.monotonic() > stop:
                expect(f"the page shows {what}; errors: {self.errors}", False)
            time.sleep(0.1)
        expect(f"the page shows {what}", True)


@contextmanager
def browser(program: str, folder: Path) -> Iterator[Page]:
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command = [program, *words, "--remote-debugging-port=0", f"--user-data-dir={folder}/profile"]
    with (folder / "chromium.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with connect(address(folder / "chromium.log"), max_size=None) as connection:
            yield Page(connection)
    finally:
        process.terminate()
        process.wait()


def address(log: Path) -> str:
    """Where the browser listens, which it logs."""
    stop = time.monotonic() + LIMIT
    while time.monotonic() < stop:
        found = re.search(r"DevTools listening on (ws://\S+)", log.read_text())
        if found:
            return found[1]
        time.sleep(0.1)
    sys.exit(f"Chromium did not start:\n{log.read_text()[-2000:]}")


if __name__ == "__main__":
    run_cli(main)
