"""Measure what a user waits for: reading and binning a full-size session, start-up, and an epoch of training.

Prints a table of medians (Linux: the memory is read from /proc); needs about 1 GB of disk in --folder for the session, which it simulates once and keeps.
Run it on a quiet machine: times are this machine's, and one other busy process can double them.
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

from bci_decode.errors import run_cli

MODELS = ("gru", "lngru")
# run in a process of its own, so that its peak is the reading's and binning's alone
READ_AND_BIN = """
import statistics, sys, time
from bci_decode.data.session import read_session
from bci_decode.data.binning import bin_session
def megabytes(field):  # ru_maxrss would count what the parent process held at the fork
    return int(next(line for line in open("/proc/self/status") if line.startswith(field)).split()[1]) / 1024
before, times = megabytes("VmRSS"), []
for _ in range(int(sys.argv[3])):
    start = time.perf_counter()
    binned = bin_session(read_session(sys.argv[1]), bin_width=float(sys.argv[2]))
    times.append(time.perf_counter() - start)
    if len(times) == 1: peak = megabytes("VmHWM") - before
print(binned.counts.shape, times[0], statistics.median(times), peak)
"""
# what a cache of binned sessions would cost: the checksum that names the session, and loading the arrays
CACHE = """
import statistics, sys, time
from pathlib import Path
import numpy as np
from bci_decode.data.binning import bin_session
from bci_decode.files import md5_of
from bci_decode.data.session import read_session
binned = bin_session(read_session(sys.argv[1]), bin_width=float(sys.argv[2]))
files = [Path(sys.argv[4], name + ".npy") for name in ("edges", "counts", "kinematics")]
for file in files:
    np.save(file, getattr(binned, file.stem))
del binned
loads, sums = [], []
for _ in range(int(sys.argv[3])):
    start = time.perf_counter()
    arrays = [np.load(file) for file in files]
    loads.append(time.perf_counter() - start)
    start = time.perf_counter()
    md5_of(Path(sys.argv[1]))
    sums.append(time.perf_counter() - start)
print(statistics.median(loads), statistics.median(sums))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("data"), help="where the simulated session is kept")
    parser.add_argument("--rounds", type=int, default=7, help="repetitions of each measurement (default: 7)")
    arguments = parser.parse_args()
    rows = read_and_bin(arguments.folder, arguments.rounds) + start_up(arguments.rounds)
    rows += epochs(arguments.rounds)
    width = max(len(name) for name, _ in rows)
    import torch

    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, PyTorch {torch.__version__}"
    )
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def read_and_bin(folder: Path, rounds: int) -> list[tuple[str, str]]:
    from bci_decode.data.session import read_session
    from bci_decode.data.simulate import simulated_file

    file = simulated_file(
        folder / "simulated_seed0_25.0min_96ch_waveforms.mat", seed=0, minutes=25.0, channels=96, waveforms=True
    )
    session = read_session(file)
    spikes = sum(map(len, session.spike_times))
    rows = [("session", f"{session.duration / 60:.1f} min, {len(session.units)} units, {spikes / 1e6:.2f} million spikes, {file.stat().st_size / 1e6:.0f} MB")]  # fmt: skip
    for width in (0.004, 0.064):
        command = [sys.executable, "-c", READ_AND_BIN, str(file), str(width), str(rounds)]
        shape, rest = subprocess.run(command, check=True, capture_output=True, text=True).stdout.rsplit(")", 1)
        first, median, peak = map(float, rest.split())
        rows.append(
            (
                f"read and bin at {width * 1e3:.0f} ms",
                f"{median:.3f} s (first {first:.3f} s), peak {peak:.0f} MB, counts {shape})",
            )
        )
        with tempfile.TemporaryDirectory() as cache:
            command = [sys.executable, "-c", CACHE, str(file), str(width), str(rounds), cache]
            load, checksum = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        rows.append(
            ("  instead from a cache", f"{float(load):.3f} s, after {float(checksum):.2f} s for the file's md5")
        )
    return rows


def start_up(rounds: int) -> list[tuple[str, str]]:
    command = [sys.executable, "-m", "bci_decode.train"]
    times = [
        _timed(lambda: subprocess.run([*command, "--help"], check=True, capture_output=True)) for _ in range(rounds)
    ]
    rows = [("train --help", f"{statistics.median(times):.2f} s")]
    for model in MODELS:
        found: dict[str, list[float]] = {}
        with tempfile.TemporaryDirectory() as folder:
            words = [
                "trainer.profile=true",
                "trainer.epochs=6",
                "overwrite=true",
                f"model={model}",
                f"output_dir={folder}",
            ]
            for _ in range(rounds // 2 + 1):
                subprocess.run([*command, *words], check=True, capture_output=True)
                with next(Path(folder).glob("**/profile.csv")).open() as file:
                    for row in csv.DictReader(file):
                        found.setdefault(row["part"], []).append(float(row["seconds"]))
        seconds = {part: statistics.median(values) for part, values in found.items()}
        scoring = seconds["evaluation"] / seconds["training epoch"]
        value = f"{seconds['start to first epoch']:.2f} s to the first epoch, which takes {seconds['training epoch'] / 6:.2f} s; scoring validation and test part adds {scoring:.0%}"
        rows.append((f"train, simulated session, {model}", value))
    return rows


def epochs(rounds: int) -> list[tuple[str, str]]:
    """An epoch of the source study's recipe (5000 bins, batch 16, history 10, 2 x 256) by the Trainer and by a plain loop.

    Interleaved, from the same weights. The plain loop has its windows in memory, one copy of a bin for each window it is in,
    and runs torch.nn.GRU, or the LayerNorm GRU as a Python loop under autograd; it keeps no history and scores nothing.
    """
    import numpy as np
    import torch

    rows = []
    for units in (96, 480):
        rng = np.random.default_rng(0)
        counts, target = rng.poisson(0.5, (7500, units)), rng.normal(0, 70, (7500, 2))
        windows = np.lib.stride_tricks.sliding_window_view(counts[:5000].astype(np.float32), 10, axis=0)
        x = torch.from_numpy(windows.transpose(0, 2, 1).copy())
        y = torch.from_numpy(target[9:5000].astype(np.float32))
        for model in MODELS:
            trainer, plain = (_source_study_trainer(model, counts, target, Path(tempfile.mkdtemp())) for _ in range(2))
            _make_plain(plain.decoder)
            plain.optimizer = type(trainer.optimizer)(plain.decoder.parameters(), lr=trainer.optimizer.defaults["lr"])
            times: dict[str, list[float]] = {"before": [], "after": [], "score": []}
            for _ in range(rounds // 2 + 1):
                times["before"].append(_timed(lambda: _plain_epoch(plain.decoder, plain.optimizer, x, y)))  # noqa: B023
                times["after"].append(_timed(trainer._train_epoch))
                times["score"].append(_timed(trainer._scores))
            before, after, score = (statistics.median(values) for values in times.values())
            losses = [made._scores()["test"][0] for made in (trainer, plain)]
            apart = abs(losses[0] - losses[1]) / losses[1]
            value = f"{after:.2f} s, plain loop {before:.2f} s, ratio {after / before:.2f}; losses apart by {apart:.0e}; scoring 2500 test bins adds {score / after:.0%}"
            rows.append((f"source study's epoch, {units} units, {model}", value))
    return rows


def _make_plain(decoder) -> None:
    """Put torch.nn.GRU in the GRU's place, or take the fast path from the LayerNorm GRU."""
    import torch

    if not isinstance(decoder.recurrent, torch.nn.GRU):
        decoder.recurrent._fast = False
        return
    gru = torch.nn.GRU(decoder.recurrent.input_size, decoder.recurrent.hidden_size, 2, batch_first=True)
    gru.load_state_dict(decoder.recurrent.state_dict())
    decoder.recurrent = gru


def _source_study_trainer(model: str, counts, target, folder: Path):
    import hydra
    import numpy as np
    import pandas as pd
    import torch
    from omegaconf import OmegaConf

    from bci_decode.config import TrainConfig
    from bci_decode.data.binning import BinnedSession
    from bci_decode.data.dataset import prepare
    from bci_decode.train import CONF, register_configs
    from bci_decode.training.trainer import Trainer

    register_configs()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", ["experiment=source_study", f"model={model}"])
    typed = OmegaConf.to_object(config)
    assert isinstance(typed, TrainConfig)
    units = pd.DataFrame({"channel": "M1 001", "area": "M1", "row": range(counts.shape[1])})
    binned = BinnedSession("bench", 0.064 * np.arange(len(counts) + 1), counts, units, target, "velocity", 0.064, 0.0)
    data = prepare(binned, typed.data)
    torch.manual_seed(0)
    torch.set_num_threads(typed.trainer.threads or torch.get_num_threads())
    decoder = hydra.utils.instantiate(config.model, input_size=counts.shape[1], output_size=2)
    return Trainer(decoder, data, folder, typed.trainer, hydra.utils.instantiate(config.optimizer))


def _plain_epoch(decoder, optimizer, x, y) -> None:
    import torch

    decoder.train()
    for first in range(0, len(x), 16):
        decoded = decoder.head(decoder.norm(decoder.recurrent(x[first : first + 16])[0])[:, -1])
        loss = torch.nn.functional.mse_loss(decoded, y[first : first + 16])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _timed(work: Callable) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    run_cli(main)
