"""Measure what a user waits for: reading and binning a full-size session, start-up, training.

Prints medians (on Linux, because the memory is read from /proc). Simulates a session of about
650 MB in --folder once and keeps it. Run it on a quiet machine: one other busy process can double
the times.
"""

from __future__ import annotations

import argparse
import csv
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from timing import check_positive

from bci_decode.errors import run_cli
from bci_decode.style import BASELINE, LAYER_NORM, model_label

RECURRENT = (BASELINE, LAYER_NORM)
# runs in its own process, so that the peak of memory is that of reading and binning
READ_AND_BIN = """
import statistics, sys, time
from bci_decode.data.session import read_session
from bci_decode.data.binning import bin_session
def megabytes(field):  # ru_maxrss would include the memory of the parent process at the fork
    lines = open("/proc/self/status")
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024
before, times = megabytes("VmRSS"), []
for _ in range(int(sys.argv[3])):
    start = time.perf_counter()
    binned = bin_session(read_session(sys.argv[1]), bin_width=float(sys.argv[2]))
    times.append(time.perf_counter() - start)
    if len(times) == 1: peak = megabytes("VmHWM") - before
print(binned.counts.shape, times[0], statistics.median(times), peak)
"""


def main() -> None:
    arguments = parse_args()
    rows = read_and_bin(arguments.folder, arguments.rounds) + start_up(arguments.rounds)
    rows += epochs(arguments.rounds)
    import torch

    where = platform.processor() or platform.machine()
    print(f"{where}, Python {platform.python_version()}, PyTorch {torch.__version__}")
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def read_and_bin(folder: Path, rounds: int) -> list[tuple[str, str]]:
    from bci_decode.data.session import read_session
    from bci_decode.data.simulate import simulated_file

    file = folder / "simulated_seed0_25.0min_96ch_waveforms.mat"
    file = simulated_file(file, seed=0, minutes=25.0, channels=96, waveforms=True)
    session = read_session(file)
    spikes, size = sum(map(len, session.spike_times)) / 1e6, file.stat().st_size / 1e6
    units = f"{len(session.units)} units, {spikes:.2f} million spikes"
    rows = [("session", f"{session.duration / 60:.1f} min, {units}, {size:.0f} MB")]
    for width in (0.004, 0.064):
        command = [sys.executable, "-c", READ_AND_BIN, str(file), str(width), str(rounds)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        shape, rest = printed.rsplit(")", 1)
        first, median, peak = map(float, rest.split())
        value = f"{median:.3f} s (first {first:.3f} s), peak {peak:.0f} MB, counts {shape})"
        rows.append((f"read and bin at {width * 1e3:.0f} ms", value))
    return rows


def start_up(rounds: int) -> list[tuple[str, str]]:
    """Time from starting the command, so each run is a new process."""
    compile_layers()
    command = [sys.executable, "-m", "bci_decode.train"]
    shown = [seconds(lambda: _run([*command, "--help"])) for _ in range(rounds)]
    rows = [("train --help", f"{statistics.median(shown):.2f} s")]
    for model in RECURRENT:
        with tempfile.TemporaryDirectory() as folder:
            words = ["trainer.profile=true", "trainer.epochs=6", "overwrite=true"]
            words += [f"model={model}", f"output_dir={folder}"]
            profiles = []
            for _ in range(rounds // 2 + 1):
                _run([*command, *words])
                with next(Path(folder).glob("**/profile.csv")).open() as file:
                    table = csv.DictReader(file)
                    profiles.append({row["part"]: float(row["seconds"]) for row in table})
        parts = {part: statistics.median(p[part] for p in profiles) for part in profiles[0]}
        first, epoch = parts["start to first epoch"], parts["training epoch"] / 6
        share = parts["evaluation"] / parts["training epoch"]
        value = f"{first:.2f} s to the first epoch, which takes {epoch:.2f} s; "
        value += f"scoring validation and test part adds {share:.0%}"
        rows.append((f"train, simulated session, {model_label(model)}", value))
    return rows


def compile_layers() -> None:
    """Compile what both models run, as a user does once; later processes load it from the disk."""
    from bci_decode.layers.cpu import prepare

    for form in ("plain", "apart"):
        prepare(form)


def epochs(rounds: int) -> list[tuple[str, str]]:
    """An epoch of the source study (5000 bins, batch 16, history 10, 2 x 256) by both loops.

    In each round Trainer and plain loop start from the same weights. The plain loop has its windows
    in memory, with one copy of a bin for each of its windows, and runs torch.nn.GRU, or the
    LayerNorm GRU as a loop under autograd; it keeps no history and computes no scores. The aim is
    a ratio of at most 0.45 for both models.
    """
    import numpy as np

    rows = []
    for units in (96, 480):
        rng = np.random.default_rng(0)
        counts, target = rng.poisson(0.5, (7500, units)), rng.normal(0, 70, (7500, 2))
        for model in RECURRENT:
            measured = [_epoch_times(model, counts, target) for _ in range(rounds // 2 + 1)]
            after, score, before, apart = (
                statistics.median(values) for values in zip(*measured, strict=True)
            )
            value = f"{after:.2f} s, plain loop {before:.2f} s, ratio {after / before:.2f}; "
            value += f"losses apart by {apart:.0e}; scoring 2500 test bins adds {score / after:.0%}"
            rows.append((f"source study's epoch, {units} units, {model_label(model)}", value))
    return rows


def _epoch_times(model: str, counts, target, *words: str) -> tuple[float, float, float, float]:
    """Seconds of the Trainer's epoch, its scores and the plain epoch, and how far losses differ."""
    from bci_decode.evaluation import metrics
    from bci_decode.evaluation.decoding import decode_parts

    with tempfile.TemporaryDirectory() as folder:
        trainer, plain = (
            _source_study_trainer(folder, counts, target, f"model={model}", *words)
            for _ in range(2)
        )
        _make_plain(plain.decoder)
        before = seconds(_plain_epoch(plain))
        loss = trainer.fit()["test_loss"].iloc[-1]
    decoded = decode_parts(plain.decoder, plain.data)["test"]
    plain_loss = metrics.mse(plain.data.parts["test"].target, decoded)
    parts = {name: total / times for name, (times, total) in trainer.stopwatch.parts.items()}
    return parts["training epoch"], parts["evaluation"], before, abs(loss - plain_loss) / plain_loss


def _make_plain(decoder) -> None:
    """Replace the GRU by torch.nn.GRU; turn off the fused path of other layers."""
    import torch

    if not isinstance(decoder.recurrent, torch.nn.GRU):
        decoder.recurrent.use_fused = False
        return
    sizes = decoder.recurrent.input_size, decoder.recurrent.hidden_size
    gru = torch.nn.GRU(*sizes, 2, batch_first=True)
    gru.load_state_dict(decoder.recurrent.state_dict())
    decoder.recurrent = gru


def _source_study_trainer(folder: str, counts, target, *words: str):
    import numpy as np
    import pandas as pd

    from bci_decode.data.binning import BinnedSession
    from bci_decode.data.dataset import prepare
    from bci_decode.runs.build import build_decoder, instantiate
    from bci_decode.runs.compose import compose_config, typed_config
    from bci_decode.training.trainer import Trainer

    config = compose_config("experiment=source_study", "trainer.epochs=1", *words)
    typed = typed_config(config)
    units = pd.DataFrame({"channel": "M1 001", "area": "M1", "row": range(counts.shape[1])})
    edges = 0.064 * np.arange(len(counts) + 1)
    binned = BinnedSession("bench", edges, counts, units, target, "velocity", 0.064, 0.0)
    data = prepare(binned, typed.data)
    decoder = build_decoder(config, data)
    optimizer = instantiate(config.optimizer, "optimizer")
    return Trainer(decoder, data, Path(folder), typed.trainer, optimizer)


def _plain_epoch(trainer) -> Callable[[], None]:
    """The training epoch of a Trainer's decoder as a minimal loop."""
    import numpy as np
    import torch

    decoder, part, length = trainer.decoder, trainer.data.parts["train"], trainer.data.window.length
    windows = np.lib.stride_tricks.sliding_window_view(part.counts, length, axis=0)
    x = torch.from_numpy(windows.transpose(0, 2, 1).copy())
    y = torch.from_numpy(part.target[length - 1 :].astype(np.float32))
    rate = trainer.optimizer.defaults["lr"]
    optimizer = type(trainer.optimizer)(decoder.parameters(), lr=rate)

    def run() -> None:
        decoder.train()
        for first in range(0, len(x), 16):
            states = decoder.norm(decoder.recurrent(x[first : first + 16])[0])
            loss = torch.nn.functional.mse_loss(decoder.head(states[:, -1]), y[first : first + 16])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def parse_args() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--folder", type=Path, default=Path("data"), help="of the session")
    parser.add_argument("--rounds", type=int, default=7, help="repetitions (default: %(default)s)")
    arguments = parser.parse_args()
    check_positive(rounds=arguments.rounds)
    return arguments


if __name__ == "__main__":
    run_cli(main)
