"""How much a decoder of many days gives, on these days and on new ones: docs/multi_session.md.

An array is recorded on several days: one decoder learns from the first days, and is calibrated to
each later one. All decoders of a new day are scored on the same stretch, its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bci_decode.data.session import read_session
from bci_decode.data.simulate import simulated_days
from bci_decode.errors import BciDecodeError
from bci_decode.files import made_folder, written_whole
from bci_decode.realtime.recalibration.calibrate import merged, stages
from bci_decode.realtime.recalibration.days_tables import (
    ALONE,
    BEFORE,
    JOINT,
    RECALIBRATED,
    RELABELED,
    SCRATCH,
    STAGE_NAMES,
    curve,
    days_table,
    draw,
    gains,
    trained_table,
)
from bci_decode.realtime.recalibration.fit import recalibrate
from bci_decode.realtime.recalibration.study import MARGIN, replaced, unit_cells, write_part
from bci_decode.runs.compose import compose_config
from bci_decode.runs.load import load_run
from bci_decode.runs.load_joint import JointRun, load_joint
from bci_decode.runs.loaded_run import LoadedRun
from bci_decode.runs.run import run
from bci_decode.studies.tables import save_table
from bci_decode.studies.training import quoted

TRAINED, NEW = 8, (9, 10, 11, 12)  # days
# passes over so few windows: those of docs/recalibration.md, and the recipe's own for 300 s
EPOCHS = {15: 64, 30: 64, 60: 64, 300: 16}
GRU = ("model=gru", "model.recurrent.hidden_size=64", "figures=none")
CHOSE = 1  # the seed of the array that chose the method
PIECES, SHARE = 4, 2 / 3  # of the excerpt: stretches of time, units of each


@dataclass(frozen=True)
class Array:
    """The files of an array's days, new ones by their number.

    `seconds` of a new day may be learned from.
    """

    kind: str  # "simulated", "excerpt" or "excerpt, relabeled"
    seed: int
    trained: tuple[Path, ...]
    new: dict[int, Path]
    seconds: tuple[int, ...]


def simulated_arrays(folder: Path, seeds: int, days: Sequence[int]) -> Iterator[Array]:
    """Arrays of 96 channels whose units change slowly; that of seed 1 chose the method."""
    for seed in [seed for seed in range(seeds + 1) if seed != CHOSE][:seeds]:
        files = simulated_days(folder, max(days), seed=seed)
        new = {day: files[day - 1] for day in days}
        yield Array("simulated", seed, tuple(files[:TRAINED]), new, (30, 60, 300))


def excerpt_arrays(file: Path, folder: Path, seeds: int) -> Iterator[Array]:
    """A recording in four pieces, each with two thirds of its units, drawn again for each piece.

    The last piece is the new day. Its units keep their labels; in "excerpt, relabeled" a third of
    them are `replaced`.
    """
    session = read_session(file)
    made_folder(folder)
    units = list(zip(unit_cells(session), session.spike_times, strict=True))
    ends = np.linspace(0, len(session.t), PIECES + 1).astype(int)
    for seed in range(seeds):
        rng, files = np.random.default_rng(seed), []
        for piece in range(PIECES):
            drawn = rng.permutation(len(units))[: round(SHARE * len(units))]
            files.append(folder / f"{session.name}_piece{piece + 1}_seed{seed}.mat")
            own = {units[unit][0]: units[unit][1] for unit in drawn}
            write_part(session, own, files[-1], slice(ends[piece], ends[piece + 1]))
        last = read_session(files[-1])
        relabeled = folder / f"{files[-1].stem}_relabeled.mat"
        write_part(last, replaced(last, seed), relabeled, slice(0, len(last.t)))
        trained = tuple(files[:-1])
        yield Array("excerpt", seed, trained, {PIECES: files[-1]}, (15, 30))
        yield Array("excerpt" + RELABELED, seed, trained, {PIECES: relabeled}, (15, 30))


class Scores:
    """The decoders of an array, and a row for each score; what is scored already is read."""

    def __init__(self, array: Array, output: Path, words: tuple[str, ...]):
        self.array, self.output, self.words = array, output, words
        self.rows: list[dict[str, Any]] = []

    def table(self) -> pd.DataFrame:
        joint = self._joint()
        latest = self._single(self.array.trained[-1], None)
        tables = [self._kept("trained", lambda: self._trained_days(joint))]
        for day, file in self.array.new.items():
            score = partial(self._new_day, day, file, joint, latest)
            tables.append(self._kept(f"day{day:02d}", score))
        return pd.concat(tables, ignore_index=True)

    def _kept(self, name: str, score: Callable[[], None]) -> pd.DataFrame:
        """The rows that `score` adds, from their file if there is one."""
        path = self.output / f"{name}.csv"
        if not path.is_file():
            self.rows = []
            score()
            with written_whole(path) as temporary:
                pd.DataFrame(self.rows).to_csv(temporary, index=False)
        return pd.read_csv(path)

    def _trained_days(self, joint: JointRun) -> None:
        for day, file in enumerate(self.array.trained, 1):
            one = load_run(joint.folder / "sessions" / file.stem)
            for decoder, found in ((JOINT, one), (ALONE, self._single(file, None))):
                self._add(day, decoder, 0, found.metrics["scores"]["test"]["r2"])

    def _new_day(self, day: int, file: Path, joint: JointRun, latest: LoadedRun) -> None:
        session, seed = read_session(file), self.array.seed
        learned = read_session(self.array.trained[-1])
        start = float(session.t[0]) + self.array.seconds[-1] + MARGIN

        def add(decoder: str, seconds: float, run: LoadedRun) -> None:
            self._add(day, decoder, seconds, float(run.score(session, start)["r2"]["mean"]))

        add(BEFORE, 0, latest)
        parent = merged(joint)
        for seconds in self.array.seconds:
            for found in stages(parent, session, seconds, seed=seed):
                add(STAGE_NAMES[len(found.history) - 1], seconds, found.run)
            found = recalibrate(latest, session, seconds, seed=seed, parent_session=learned)
            add(RECALIBRATED, seconds, found.run)
            add(SCRATCH, seconds, self._single(file, seconds))

    def _add(self, day: int, decoder: str, seconds: float, r2: float) -> None:
        about = {"recording": self.array.kind, "seed": self.array.seed, "day": day}
        self.rows.append(about | {"decoder": decoder, "seconds": seconds, "r2": r2})

    def _joint(self) -> JointRun:
        files = ",".join(quoted(file) for file in self.array.trained)
        words = ("experiment=multi_session", f"sessions=[{files}]")
        return load_joint(self._train("joint", words))

    def _single(self, file: Path, seconds: int | None) -> LoadedRun:
        """A decoder of one day with experiment=best; of its first seconds alone, if given."""
        words: tuple[str, ...] = (
            "experiment=best",
            "session=local",
            f"session.path={quoted(file)}",
        )
        epochs = EPOCHS[self.array.seconds[-1]]  # of a whole day, which is about as long
        if seconds is not None:
            bins, epochs = int(seconds / 0.064), EPOCHS[seconds]
            words += (f"data.split.first_bins={bins}",)
        words += (f"trainer.epochs={epochs}",)
        return load_run(self._train(f"first_{seconds}s" if seconds else "whole", words))

    def _train(self, folder: str, words: tuple[str, ...]) -> Path:
        places = f"output_dir={quoted(self.output / folder)}", f"data_dir={quoted(self.output)}"
        words = (*words, *GRU, *places, f"seed={self.array.seed}", *self.words)
        return run(compose_config(*words), words=words, progress=False)


def days_study(
    output: Path,
    data: Path,
    excerpt: Path | None = None,
    seeds: int = 3,
    days: Sequence[int] = NEW,
    words: tuple[str, ...] = (),
) -> str:
    """Train, calibrate and score; returns the tables. Finished runs are not repeated.

    Writes scores.csv, tables.md and the figure r2.png to `output`; the runs are in `output`/runs,
    the simulated and cut recordings in `data`.
    """
    if seeds < 1:
        raise BciDecodeError("is too few", field="--seeds", remedy="give 1 or more")
    made_folder(output)
    arrays = [*simulated_arrays(data, seeds, days)]
    arrays += excerpt_arrays(excerpt, data, seeds) if excerpt else []
    tables = []
    for array in arrays:
        folder = output / "runs" / f"{array.kind}{array.seed}"
        tables.append(Scores(array, folder, words).table())
    table = pd.concat(tables, ignore_index=True)
    table.to_csv(output / "scores.csv", index=False)
    draw(curve(table), output / "r2.png")
    shown = {
        "trained": trained_table(table),
        "days": days_table(curve(table)),
        "gain": gains(table),
    }
    return "\n".join(save_table(output, name, one) for name, one in shown.items())
