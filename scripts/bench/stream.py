"""Measure live decoding: the time from the spikes of a bin to its decoded velocity, and endurance.

One thread, one stream. The latency of a bin begins when its spikes are in hand and ends when its
output is: binning and scaling are included. Afterwards the decoder prepares the next step, which
live decoding does while it waits; "in one go" counts that as well. In each round the engines take
turns. The weights are random, as times do not depend on them.

`--minutes 60` then streams an hour at full speed and reports memory, speed and drift: whether the
last minute is as fast as the first, and how far the outputs are from those of passes over whole
minutes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig
from timing import check_positive, processor

from bci_decode.config import DataConfig
from bci_decode.errors import BciDecodeError, run_cli
from bci_decode.realtime.bins import Bin, Decoded
from bci_decode.realtime.decoder import StreamingDecoder
from bci_decode.realtime.engines import ENGINES
from bci_decode.realtime.stream.binner import SpikeBinner
from bci_decode.realtime.stream.loop import LiveSummary, run_live
from bci_decode.runs.build import build_model
from bci_decode.runs.load import load_run
from bci_decode.runs.loaded_run import LoadedRun
from bci_decode.training.checkpoint import FORMAT, save_checkpoint

RATE = 20.0  # spikes of a unit per second
ROUNDS = 10
MODELS = {"gru": "GRU", "lngru": "LayerNormGRU"}


def main() -> None:
    arguments = parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    width = arguments.bin_width
    sizes = f"{arguments.units} units, {arguments.layers} x {arguments.hidden}, bins of {width} s"
    print(f"{processor()}, torch {torch.__version__}, one thread, wall time; {sizes}\n")
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: untrained_run(Path(folder, name), name, arguments) for name in MODELS}
        if arguments.bins:
            steps(runs, arguments)
        if arguments.minutes:
            endurance(runs[arguments.model], arguments)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("--units", type=int, default=192)
    option("--hidden", type=int, default=256)
    option("--layers", type=int, default=2)
    option("--bin-width", type=float, default=0.004, metavar="S")
    option("--bins", type=int, default=20_000, help="of each engine; 0: none (default: 20000)")
    option("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    option("--minutes", type=int, default=0, help="of a stream by the fast engine (default: none)")
    option("--model", choices=list(MODELS), default="gru", help="of that stream (default: gru)")
    arguments = parser.parse_args()
    check_positive(units=arguments.units, hidden=arguments.hidden, layers=arguments.layers)
    if not 0.001 <= arguments.bin_width <= 1:
        raise BciDecodeError("choose 0.001 to 1 s", field="--bin-width")
    if min(arguments.bins, arguments.minutes) < 0 or 0 < arguments.bins < ROUNDS:
        raise BciDecodeError(f"choose 0, or {ROUNDS} bins or more", field="--bins, --minutes")
    return arguments


def untrained_run(folder: Path, name: str, arguments: argparse.Namespace) -> LoadedRun:
    """A run with random weights, as a folder that is loaded as any other."""
    layer = {
        "_target_": f"bci_decode.layers.{MODELS[name]}",
        "_partial_": True,
        "hidden_size": arguments.hidden,
        "num_layers": arguments.layers,
    }
    settings = {
        "_target_": "bci_decode.models.decoder.Decoder",
        "recurrent": layer,
        "head": {"_target_": "torch.nn.Linear", "_partial_": True},
    }
    sizes = {"input_size": arguments.units, "output_size": 2}
    mean = np.full(arguments.units, RATE * arguments.bin_width)
    state = {
        "format": FORMAT,
        "names": {"experiment": "bench", "model": name},
        "model": {"settings": settings, "members": 1, **sizes},
        "data": asdict(DataConfig(bin_width=arguments.bin_width)),
        "session": {"name": "random", "md5": "", "split_bins": {}},
        "units": [[f"M1 {number:03d}", "M1", 1] for number in range(arguments.units)],
        "axes": ["x", "y"],
        "mean": {"counts": torch.from_numpy(mean), "target": torch.zeros(2).double()},
        "std": {"counts": torch.from_numpy(np.sqrt(mean)), "target": 80 * torch.ones(2).double()},
        "epoch": 0,
        "decoder": build_model(DictConfig(settings), *sizes.values()).state_dict(),
    }
    folder.mkdir()
    save_checkpoint(folder / "best.pt", state, sync=False)
    return load_run(folder)


class Spikes(NamedTuple):
    """Events of some bins: time (E,), unit (E,), and the first event of each bin (T + 1,)."""

    times: np.ndarray
    units: np.ndarray
    cuts: np.ndarray


def spikes(seed: int, first: int, bins: int, arguments: argparse.Namespace) -> Spikes:
    """Spikes at random in bins from `first` on."""
    rng, width = np.random.default_rng([seed, first]), arguments.bin_width
    each = rng.poisson(RATE * width * arguments.units, bins)
    numbers = np.repeat(np.arange(first, first + bins), each)
    times = width * (numbers + rng.uniform(0.01, 0.99, len(numbers)))
    units = rng.integers(0, arguments.units, len(numbers))
    return Spikes(times, units, np.concatenate([[0], np.cumsum(each)]))


class LiveSpikes:
    """A source of random spikes, drawn second by second: larger arrays would move the memory."""

    units = None

    def __init__(self, minutes: int, arguments: argparse.Namespace):
        self.bin_width, self._arguments = arguments.bin_width, arguments
        self.second = round(1 / self.bin_width)  # bins
        self.seconds, self.deadline = 60 * minutes, None

    def __iter__(self) -> Iterator[Bin]:
        binner = SpikeBinner(self._arguments.units, self.bin_width, start=0.0)
        for first in range(0, self.seconds * self.second, self.second):
            times, units, cuts = spikes(0, first, self.second, self._arguments)
            for number in range(self.second):
                arrived, piece = perf_counter(), slice(cuts[number], cuts[number + 1])
                found = binner.add(times[piece], units[piece], arrived)
                end = (first + number + 1.001) * self.bin_width  # rounding may not delay it
                yield from found + binner.advance(end, arrived)

    def close(self) -> None:
        """Nothing is held."""


def steps(runs: dict[str, LoadedRun], arguments: argparse.Namespace) -> None:
    """Print the percentiles of a bin's latency for each model and engine."""
    heads = ["model, engine", "p50 us", "p95", "p99", "max", "p50 in one go"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for name, run in runs.items():
        decoders = {engine: StreamingDecoder(run, engine) for engine in arguments.engines}
        found: dict[str, list[np.ndarray]] = {engine: [] for engine in decoders}
        for number in range(ROUNDS + 1):
            for engine, decoder in decoders.items():
                times = step_times(decoder, number, arguments)
                if number:  # the first round warms up
                    found[engine].append(times)
        for engine, parts in found.items():
            latency, whole = 1e6 * np.concatenate(parts, axis=1)
            cells = [f"{value:.1f}" for value in np.percentile(latency, (50, 95, 99, 100))]
            print(f"| {name}, {engine} | {' | '.join(cells)} | {np.median(whole):.1f} |")
    print(flush=True)


def step_times(decoder: StreamingDecoder, number: int, arguments: argparse.Namespace) -> np.ndarray:
    """Seconds (2, T) of each bin: to its output, and with the preparation of the next step."""
    bins, width = arguments.bins // ROUNDS, arguments.bin_width
    times, units, cuts = spikes(1, number * bins, bins, arguments)
    binner = SpikeBinner(arguments.units, width, start=number * bins * width)
    found = np.empty((2, bins))
    for place in range(bins):
        arrived, piece = perf_counter(), slice(cuts[place], cuts[place + 1])
        complete = binner.add(times[piece], units[piece])
        complete += binner.advance((number * bins + place + 1.001) * width)
        decoder.step(complete[0].counts)
        found[0, place] = perf_counter() - arrived
        decoder.prepare()
        found[1, place] = perf_counter() - arrived
    return found


class Minutes:
    """A sink that notes the process's memory and the time at the end of each minute."""

    def __init__(self, bins: int):
        self.bins, self.megabytes, self.times = bins, list[float](), [perf_counter()]

    def write(self, decoded: Decoded) -> None:
        if (decoded.bin.index + 1) % self.bins == 0:
            self.megabytes.append(resident_megabytes())
            self.times.append(perf_counter())

    def close(self) -> None:
        """Nothing is held."""


def resident_megabytes() -> float:
    """Memory of this process, from Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def endurance(run: LoadedRun, arguments: argparse.Namespace) -> None:
    """Stream minutes at full speed and print memory, speed and drift."""
    source = LiveSpikes(arguments.minutes, arguments)
    decoder, minutes = StreamingDecoder(run), Minutes(60 * source.second)
    summary = run_live(decoder, source, [minutes])
    if summary.error is not None:
        raise summary.error
    latency = summary.latency.reshape(arguments.minutes, -1)
    first, last = (1e6 * np.median(latency[number]) for number in (0, -1))
    seconds = np.diff(minutes.times)
    grown = [value - minutes.megabytes[0] for value in minutes.megabytes]
    print(f"{arguments.model}, fast: {len(summary):,} bins in {sum(seconds):.0f} s")
    print(f"  a bin's latency, p50: first minute {first:.1f} us, last {last:.1f} us")
    print("  " + ", ".join(f"{name} {us:.1f}" for name, us in summary.latency_us.items()) + " us")
    print(f"  memory after the first minute: {min(grown):+.2f} to {max(grown):+.2f} MB")
    error, state_error = drift(run, decoder, summary, arguments)
    print(f"  furthest from passes over whole minutes: output {error:.1e} of the target's SD,")
    print(f"  state after the last bin {state_error:.1e}")


def drift(
    run: LoadedRun, decoder: StreamingDecoder, summary: LiveSummary, arguments: argparse.Namespace
) -> tuple[float, float]:
    """Largest differences of outputs, in SD of the target, and of the final states."""
    scaler, target = run.scaler("counts"), run.scaler("target")
    second, state, error = round(1 / arguments.bin_width), None, 0.0
    run.model.recurrent.use_fused = False  # other arithmetic than that of the fast engine
    bins = 60 * second
    for minute in range(arguments.minutes):
        counts = np.zeros((bins, arguments.units), np.float32)
        for first in range(0, bins, second):
            drawn = spikes(0, minute * bins + first, second, arguments)
            each = np.repeat(np.arange(first, first + second), np.diff(drawn.cuts))
            np.add.at(counts, (each, drawn.units), 1)
        with torch.inference_mode():
            scaled = torch.from_numpy(scaler.transform(counts, np.float32))
            output, state = run.model(scaled[None], state)
        expected = target.inverse(output[0].double().numpy())
        found = summary.decoded[minute * bins : (minute + 1) * bins]
        error = max(error, float((np.abs(found - expected) / target.std).max()))
    own = decoder.state["0.h"][0]  # (layers, H)
    return error, float(np.abs(own - state[:, 0].numpy()).max())  # type: ignore[index]


if __name__ == "__main__":
    run_cli(main)
