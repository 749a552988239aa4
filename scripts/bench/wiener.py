"""Measure a Wiener filter's fit to a long session with many units: seconds and peak memory.

The counts are float32, as training makes them, from units that share slow rates. With a validation
part the penalties are chosen on it; without, a second fit follows the choice on the last tenth.
Peak memory is that of the whole process, libraries and counts included.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from scipy.signal import lfilter
from threadpoolctl import threadpool_limits
from timing import check_positive, processor

from bci_decode.errors import run_cli
from bci_decode.models.wiener import ALPHAS, WienerFilter

BIN = 0.064  # s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default, meaning in (
        ("minutes", 25, "length of the session"),
        ("units", 480, "units"),
        ("history", 20, "bins of history"),
        ("threads", 1, "threads of the linear algebra"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{meaning}; {default}")
    options = vars(parser.parse_args())
    check_positive(**options)
    threads = options.pop("threads")
    with threadpool_limits(threads):
        measure(**options, threads=threads)


def measure(minutes: int, units: int, history: int, threads: int) -> None:
    counts, velocity = session(round(60 * minutes / BIN), units)
    print(
        f"{processor()}, threads: {threads}; bins: {len(counts)}, inputs: {history * units}, "
        f"penalties: {len(ALPHAS)}\n"
    )
    print("| | wall s | processor s | peak GB |\n|---|---|---|---|")
    tenth = len(counts) // 10
    validation = counts[:tenth], velocity[:tenth]
    for name, parts in (("with a validation part", validation), ("without", ())):
        wall, spent = time.perf_counter(), time.process_time()
        WienerFilter(history=history).fit(counts, velocity, *parts)
        wall, spent = time.perf_counter() - wall, time.process_time() - spent
        print(f"| {name} | {wall:.1f} | {spent:.1f} | {peak_gigabytes():.2f} |")


def session(bins: int, units: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts (T, N) of units with slow shared rates, and the velocity (T, 2) behind two of them."""
    rng = np.random.default_rng(0)
    slow = lfilter([0.44], [1, -0.9], rng.normal(size=(bins, 6)), axis=0)
    weights, base = rng.normal(size=(6, units)) * 0.3, rng.normal(-1, 1, units)
    counts = np.empty((bins, units), np.float32)
    for first in range(0, bins, 1000):
        rates = np.exp(base + slow[first : first + 1000] @ weights)
        counts[first : first + 1000] = rng.poisson(rates.clip(max=20))
    return counts, slow[:, :2] + 0.3 * rng.normal(size=(bins, 2))


def peak_gigabytes() -> float:
    """Peak memory of this process, without that of the one which started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


if __name__ == "__main__":
    run_cli(main)
