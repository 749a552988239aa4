"""Measure how long it takes to read a large NWB file, and how much memory.

Makes a file of 25 minutes and 200 units in --folder once, filled up with raw data, and keeps it;
that needs pynwb. Each reading is in a process of its own. Prints seconds and the largest resident
memory, above that after the imports and in all (on Linux, because it is read from /proc).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from timing import check_positive

from bci_decode.errors import run_cli

MINUTES, UNITS, RATE = 25, 200, 15.0  # spikes of a unit per s
READ = """
import sys, time
from bci_decode.data.session import read_session
def megabytes(field):
    lines = open("/proc/self/status")
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024
before, start = megabytes("VmRSS"), time.perf_counter()
session = read_session(sys.argv[1], source="cursor_vel")
seconds = time.perf_counter() - start
print(seconds, megabytes("VmHWM") - before, megabytes("VmHWM"),
      len(session.units), sum(map(len, session.spike_times)), len(session.t))
"""
WITH_PYNWB = """
import sys, time
start = time.perf_counter()
import pynwb
imported = time.perf_counter()
with pynwb.NWBHDF5IO(sys.argv[1], "r") as file:
    there = file.read()
    spikes = there.units["spike_times"].target.data[:]
    moved = there.processing["behavior"]["cursor_vel"].data[:]
print(imported - start, time.perf_counter() - imported)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--size", type=int, default=1000, help="MB of the file (default: 1000)")
    parser.add_argument("--rounds", type=int, default=3, help="readings (default: 3)")
    arguments = parser.parse_args()
    check_positive(rounds=arguments.rounds, size=arguments.size)
    for compression in (None, "gzip"):
        name = f"{arguments.size}MB{'_' + compression if compression else ''}.nwb"
        file = made(arguments.folder / name, arguments.size, compression)
        print(f"{file.name}: {file.stat().st_size / 1e6:.0f} MB, {MINUTES} minutes")
        for _ in range(arguments.rounds):
            seconds, above, whole, units, spikes, samples = _run(READ, file)
            print(
                f"  {seconds:.3f} s, {above:.0f} MB above the imports, {whole:.0f} MB in all: "
                f"{units:.0f} units, {spikes / 1e6:.1f} million spikes, {samples:.0f} samples"
            )
        imported, read = _run(WITH_PYNWB, file)
        print(f"  pynwb: {imported:.3f} s to import, {read:.3f} s to open and read the same")


def _run(program: str, file: Path) -> list[float]:
    command = [sys.executable, "-c", program, str(file)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [float(word) for word in printed.split()]


def made(path: Path, megabytes: int, compression: str | None) -> Path:
    """A file as a laboratory has it: position and velocity at 1 kHz, raw data of 32 electrodes."""
    if path.is_file():
        return path
    import pynwb
    from hdmf.backends.hdf5 import H5DataIO

    path.parent.mkdir(parents=True, exist_ok=True)
    rng, seconds = np.random.default_rng(0), MINUTES * 60
    file = pynwb.NWBFile("a benchmark", path.stem, datetime(2017, 2, 2, tzinfo=timezone.utc))
    device = file.create_device("array")
    group = file.create_electrode_group("array", "96", "M1", device)
    for number in range(96):
        file.add_electrode(id=number, location="M1", group=group)
    observed = [[0.0, float(seconds)]]
    for number in range(UNITS):
        times = np.sort(rng.uniform(0, seconds, int(RATE * seconds)))
        file.add_unit(spike_times=times, electrodes=[number % 96], obs_intervals=observed)
    module = file.create_processing_module("behavior", "the hand")
    t = np.arange(1000 * seconds) / 1000

    def stored(values: np.ndarray) -> object:
        return H5DataIO(values, compression=compression) if compression else values

    position = np.cumsum(rng.normal(size=(len(t), 2)), axis=0) * 0.01
    for name, values, unit in (("cursor_pos", position, "mm"), ("cursor_vel", position, "mm/s")):
        series = pynwb.TimeSeries(name=name, data=stored(values), unit=unit, timestamps=stored(t))
        module.add(series)
    rows = int((megabytes * 1e6 - 8 * (6 * len(t) + UNITS * RATE * seconds)) / 64)
    raw = rng.integers(-200, 200, (max(rows, 1), 32)).astype(np.int16)
    file.add_acquisition(pynwb.TimeSeries(name="raw", data=raw, unit="volts", rate=rows / seconds))
    start = time.perf_counter()
    with pynwb.NWBHDF5IO(str(path), "w") as out:
        out.write(file)
    print(f"wrote {path} in {time.perf_counter() - start:.1f} s", file=sys.stderr)
    return path


if __name__ == "__main__":
    run_cli(main)
