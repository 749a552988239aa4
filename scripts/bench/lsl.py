"""Measure Lab Streaming Layer on loopback: from counts in to velocity out.

This process pushes bins of counts at their rate and receives what is decoded; the decoder runs in
another process, as `bci-decode stream RUN --lsl-in --lsl-out` does. The latency of a bin is the
time from before its push until its output is received. Printed beside it: the same way without a
decoder, from push to pull in one other process and back.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from timing import check_positive, processor

from bci_decode.errors import BciDecodeError, run_cli

TIMEOUT = 60.0  # s for a stream to appear
FIRST = 50  # bins that are not counted: connections and caches warm up
ECHO = """
import sys
from bci_decode.realtime.interfaces.lsl_inlet import pylsl, find_stream
lsl, (name, out, channels) = pylsl(), sys.argv[1:]
inlet = lsl.StreamInlet(find_stream(name, 60.0), max_chunklen=1)
info = lsl.StreamInfo(out, "Echo", 2, 0, "double64", source_id=out)
outlet = lsl.StreamOutlet(info, chunk_size=1)
while True:
    sample, stamp = inlet.pull_sample()
    outlet.push_sample(sample[:2], stamp)
"""
NAMES = ("p50", "p95", "p99", "max")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a finished run")
    parser.add_argument("--bins", type=int, default=2000, help="bins to send; 2000")
    parser.add_argument("--engine", default="fast", help="of the decoder; fast")
    parser.add_argument("--rate", type=int, default=50, help="bins per second; 50")
    options = parser.parse_args()
    check_positive(bins=options.bins, rate=options.rate)
    print(f"{processor()}, {options.bins} bins at {options.rate} Hz, one decoder thread\n")
    print("| counts in, velocity out over LSL | p50 us | p95 us | p99 us | max us |")
    print("|---|---|---|---|---|")
    for what in ("no decoder", options.engine):
        found = measure(options.run, options.bins, options.rate, what)
        print(
            f"| {what} | " + " | ".join(f"{found[name]:.0f}" for name in NAMES) + " |", flush=True
        )


def measure(run: str, bins: int, rate: int, engine: str = "fast") -> dict[str, float]:
    """Percentiles in us of the latency on loopback; "no decoder" for LSL's own part of it."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LSLAPICFG"] = str(private_configuration(Path(folder)))
        latencies = round_trips(run, bins, rate, engine, Path(folder))
    values = np.percentile(1e6 * latencies[FIRST:], [50, 95, 99, 100])
    return dict(zip(NAMES, values.tolist(), strict=True))


def private_configuration(folder: Path) -> Path:
    """Settings of LSL that keep the streams to this computer and apart from others."""
    path = folder / "lsl_api.cfg"
    session = f"bci_decode_bench_{os.getpid()}"
    path.write_text(
        f"[multicast]\nResolveScope = machine\n[lab]\nSessionID = {session}\n[log]\nlevel = -3\n"
    )
    return path


def round_trips(run: str, bins: int, rate: int, engine: str, folder: Path) -> np.ndarray:
    """Seconds of each bin from here to the decoder's process and back."""
    from bci_decode.realtime.interfaces.lsl_inlet import find_stream, pylsl
    from bci_decode.runs.load import load_run

    lsl, loaded = pylsl(), load_run(run)
    name, out, channels = f"counts {engine}", f"velocity {engine}", len(loaded.units)
    nominal = 1 / loaded.config.bin_width
    info = lsl.StreamInfo(name, "Counts", channels, nominal, "float32", source_id=name)
    outlet = lsl.StreamOutlet(info, chunk_size=1)
    command = ["-m", "bci_decode.stream", run, "--lsl-in", name, "--lsl-out", out]
    command += ["--engine", engine, "--timeout", str(TIMEOUT), "--output", str(folder)]
    if engine == "no decoder":
        command = ["-c", ECHO, name, out, str(channels)]
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        inlet = lsl.StreamInlet(find_stream(out, TIMEOUT), max_chunklen=1)
        inlet.open_stream(TIMEOUT)
        outlet.wait_for_consumers(TIMEOUT)
        arrived = np.full(bins, np.nan)
        receiving = threading.Thread(target=receive, args=(inlet, arrived))
        receiving.start()
        sent = send(outlet, bins, channels, rate, loaded.config.bin_width)
        receiving.join()
    finally:
        process.terminate()
        process.wait()
    if np.isnan(arrived).any():
        raise BciDecodeError(f"{int(np.isnan(arrived).sum())} of {bins} bins did not come back")
    return arrived - sent


def send(outlet: Any, bins: int, channels: int, rate: int, width: float) -> np.ndarray:
    """Push bins at their rate, stamped as bins in a row; returns when each was pushed."""
    counts = np.random.default_rng(0).poisson(0.3, (bins, channels)).astype(np.float32)
    sent, began = np.empty(bins), time.perf_counter()
    gc.disable()
    for number, row in enumerate(counts):
        time.sleep(max(0.0, began + number / rate - time.perf_counter()))
        sent[number] = time.perf_counter()
        outlet.push_chunk(row[None], 1000 + width * number)
    gc.enable()
    return sent


def receive(inlet: Any, arrived: np.ndarray) -> None:
    """Note when each bin comes back, in the order that it was sent."""
    for number in range(len(arrived)):
        sample, _ = inlet.pull_sample(TIMEOUT)
        if sample is None:
            return
        arrived[number] = time.perf_counter()


if __name__ == "__main__":
    run_cli(main)
