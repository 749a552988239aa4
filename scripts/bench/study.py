"""Estimate the hours that the source study takes: 47 sessions, two models, 75 epochs each.

Simulates sessions with the lengths and numbers of channels of published ones, which are spread
evenly over all 47 by channels and length; a channel has about 2.6 units. Trains both models on each
with the study's settings: one epoch that is not counted, then two that are, scores and files
included. A fit over channels and bins gives the seconds of an epoch for each of the 47. What a run
takes besides its epochs (start, reading, report, figures) is measured once for each model, by the
training command.

All times are processor times of one thread, which other processes disturb less than wall times. Two
cores are taken to do twice the work of one. The published files also hold waveforms, of which only
the checksum is taken: for all 24 GB about a minute. Everything is kept in a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pipeline import RECURRENT
from timing import check_positive, processor

from bci_decode.data.binning import bin_session
from bci_decode.data.catalog import CatalogEntry, catalog
from bci_decode.data.dataset import prepare
from bci_decode.data.session import read_session
from bci_decode.data.simulate import simulated_session
from bci_decode.errors import run_cli
from bci_decode.runs.build import build_decoder, instantiate
from bci_decode.runs.compose import compose_config, typed_config
from bci_decode.style import model_label
from bci_decode.training.trainer import Trainer

BIN = 0.064  # s, of the study
EPOCHS = 75  # of the study
UNTIMED, TIMED = 1, 2  # epochs of a measurement


@dataclass(frozen=True)
class Measured:
    """A simulated session and the seconds that an epoch of each model takes on it."""

    entry: CatalogEntry
    file: Path
    bins: int
    units: int
    seconds: dict[str, float]


def main() -> None:
    arguments = parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}, torch {torch.__version__}, processor time of one thread\n")
    heads = [f"{model_label(model)} s / epoch" for model in RECURRENT]
    print(f"| like | minutes | channels | units | bins | {' | '.join(heads)} |\n{'|---' * 7}|")
    with tempfile.TemporaryDirectory() as folder:
        sessions = []
        for seed, entry in enumerate(spread(arguments.sessions)):
            sessions.append(measure(Path(folder), entry, seed, arguments.minutes))
            print(table_row(sessions[-1]), flush=True)
        middle = sorted(sessions, key=lambda session: session.bins)[len(sessions) // 2]
        besides = {model: besides_epochs(Path(folder), middle, model) for model in RECURRENT}
    print_estimate(sessions, besides)


def spread(number: int) -> list[CatalogEntry]:
    """Published sessions, spread evenly over all by channels and length."""
    ordered = sorted(catalog().values(), key=lambda entry: (entry.channels, entry.duration))
    return [
        ordered[place] for place in np.linspace(0, len(ordered) - 1, number).round().astype(int)
    ]


def measure(folder: Path, entry: CatalogEntry, seed: int, minutes: float | None) -> Measured:
    """Seconds of an epoch on a simulated session of the size of a published one."""
    length = minutes or round(entry.duration / 60, 1)
    file = simulated_session(folder, seed=seed, minutes=length, channels=entry.channels)
    words = shorter_training(length)
    typed = typed_config(compose_config("experiment=source_study", *words))
    data = prepare(bin_session(read_session(file), **typed.data.binning_kwargs()), typed.data)
    seconds = {model: epoch_seconds(folder, data, f"model={model}", *words) for model in RECURRENT}
    bins = max(part.stop for part in data.slices.values())
    return Measured(entry, file, bins, len(data.units), seconds)


def shorter_training(minutes: float) -> list[str]:
    """Words that make the training part fit into a session shorter than the published ones."""
    bins = int(minutes * 60 / BIN)
    return [] if bins > 5500 else [f"data.split.first_bins={bins * 2 // 3}"]


def epoch_seconds(folder: Path, data, *words: str) -> float:
    """Processor seconds of an epoch, with its scores and files."""
    words = ("experiment=source_study", f"trainer.epochs={UNTIMED + TIMED}", *words)
    config = compose_config(*words, "trainer.threads=1")
    optimizer = instantiate(config.optimizer, "optimizer")
    decoder, ends = build_decoder(config, data), []
    with tempfile.TemporaryDirectory(dir=folder) as run:
        settings = typed_config(config).trainer
        trainer = Trainer(decoder, data, Path(run), settings, optimizer, progress=False)
        trainer.fit(lambda _: ends.append(time.process_time()))
    return (ends[-1] - ends[UNTIMED]) / TIMED  # ends[0] is that of epoch 0, before training


def besides_epochs(folder: Path, session: Measured, model: str) -> float:
    """Processor seconds of the training command less those of its one epoch."""
    words = ["experiment=source_study", f"model={model}", "trainer.epochs=1", "trainer.threads=1"]
    words += ["session=local", f"session.path={session.file}", f"output_dir={folder / model}"]
    words += shorter_training(session.bins * BIN / 60)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "bci_decode.train", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return max(used - session.seconds[model], 0.0)


def table_row(session: Measured) -> str:
    sizes = [f"{session.bins * BIN / 60:.1f}", session.entry.channels, session.units, session.bins]
    seconds = (f"{value:.2f}" for value in session.seconds.values())
    return f"| {' | '.join(map(str, [session.entry.name, *sizes, *seconds]))} |"


def print_estimate(sessions: Sequence[Measured], besides: dict[str, float]) -> None:
    """Seconds of each model over all published sessions, then the hours of all runs."""
    entries, total = list(catalog().values()), 0.0
    published = [(entry.channels, entry.duration / BIN) for entry in entries]
    print("\n| model | s / epoch, mean of 47 | fit's largest error | s besides, a run | hours |")
    print("|---" * 5 + "|")
    for model in RECURRENT:
        measured = np.array([session.seconds[model] for session in sessions])
        sizes = [(session.entry.channels, session.bins) for session in sessions]
        weights = np.linalg.lstsq(columns(sizes), measured, rcond=None)[0]
        error = np.abs(columns(sizes) @ weights / measured - 1).max()
        epochs = columns(published) @ weights
        hours = (EPOCHS * epochs.sum() + len(entries) * besides[model]) / 3600
        cells = [model_label(model), f"{epochs.mean():.2f}", f"{error:.0%}"]
        print(f"| {' | '.join([*cells, f'{besides[model]:.1f}', f'{hours:.2f}'])} |")
        total += hours
    runs = len(entries) * len(RECURRENT)
    print(f"\n{runs} runs x {EPOCHS} epochs: {total:.2f} hours on one core, {total / 2:.2f} on two")


def columns(sizes: Sequence[tuple[float, float]]) -> np.ndarray:
    """What an epoch's time is linear in: 1, channels and bins, each of a size about 1."""
    return np.array([(1.0, channels / 96, bins / 10_000) for channels, bins in sizes])


def parse_args() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--sessions", type=int, default=10, help="default: %(default)s")
    length = "of every session, only to try the script; default: those of the published ones"
    parser.add_argument("--minutes", type=float, help=length)
    arguments = parser.parse_args()
    check_positive(sessions=arguments.sessions)
    return arguments


if __name__ == "__main__":
    run_cli(main)
