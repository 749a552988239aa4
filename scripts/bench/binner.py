"""Measure `SpikeBinner`: microseconds to bin a piece of events, one piece for each bin."""

from __future__ import annotations

import argparse
from time import perf_counter

import numpy as np
from timing import check_positive

from bci_decode.errors import run_cli
from bci_decode.realtime.stream.binner import SpikeBinner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    option = parser.add_argument
    option("--units", type=int, default=192)
    option("--events", type=int, default=15, help="in a bin, on average (default: 15)")
    option("--bins", type=int, default=50_000)
    arguments = parser.parse_args()
    check_positive(units=arguments.units, events=arguments.events, bins=arguments.bins)
    for tolerance in (0.0, 0.05):
        seconds = binning_times(arguments.units, arguments.events, arguments.bins, tolerance)
        p50, p99 = np.percentile(1e6 * seconds, [50, 99])
        about = f"{arguments.units} units, {arguments.events} events a bin, tolerance {tolerance} s"
        print(f"{about}: p50 {p50:.1f} us, p99 {p99:.1f} us a bin")


def binning_times(units: int, events: int, bins: int, tolerance: float) -> np.ndarray:
    """Seconds of each call that takes the events of a bin and gives the last complete one."""
    rng, width = np.random.default_rng(0), 0.02
    times = np.sort(rng.uniform(0, bins * width, events * bins))
    columns = rng.integers(0, units, len(times))
    cuts = times.searchsorted(width * np.arange(bins + 1))
    binner, seconds = SpikeBinner(units, width, start=0.0, tolerance=tolerance), np.empty(bins)
    for number in range(bins):
        piece = slice(cuts[number], cuts[number + 1])
        began = perf_counter()
        binner.add(times[piece], columns[piece])
        binner.advance((number + 1) * width)
        seconds[number] = perf_counter() - began
    return seconds


if __name__ == "__main__":
    run_cli(main)
