"""How much a decoder of many days gives, on these days and on new ones: docs/multi_session.md.

An array is recorded on several days: one decoder learns from the first days, and is calibrated to
each later one. All decoders of a new day are scored on the same stretch, its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bci_decode.data.session import read_session
from bci_decode.data.simulate import simulated_days
from bci_decode.errors import BciDecodeError
from bci_decode.files import made_folder, written_whole
from bci_decode.realtime.recalibration.calibrate import STEPS, calibrate
from bci_decode.realtime.recalibration.days_tables import (
    ALL_WEIGHTS,
    BEFORE,
    MATCHED,
    READ_IN,
    RECALIBRATED,
    SCRATCH,
    curve,
    days_table,
    draw,
    gains,
    trained_table,
)
from bci_decode.realtime.recalibration.fit import recalibrate
from bci_decode.realtime.recalibration.study import MARGIN, unit_cells, write_part
from bci_decode.runs.compose import compose_config
from bci_decode.runs.load import LoadedRun, load_run
from bci_decode.runs.load_joint import JointRun, load_joint
from bci_decode.runs.run import run
from bci_decode.studies.tables import save_table
from bci_decode.studies.training import quoted

TRAINED, NEW = 8, 4  # days
# passes over so few windows: those of docs/recalibration.md, and the recipe's own for 300 s
EPOCHS = {15: 64, 30: 64, 60: 64, 300: 16}
GRU = ("model=gru", "model.recurrent.hidden_size=64", "figures=none")
PIECES, SHARE = 4, 2 / 3  # of the excerpt: stretches of time, units of each


@dataclass(frozen=True)
class Array:
    """The files of an array's days, and how many seconds of a new day may be learned from."""

    kind: str  # "simulated" or "excerpt"
    seed: int
    trained: tuple[Path, ...]
    new: tuple[Path, ...]
    seconds: tuple[int, ...]


def simulated_arrays(folder: Path, seeds: int, new: int) -> Iterator[Array]:
    """Arrays of 96 channels whose units change slowly; seed 1 chose the method."""
    chosen = [seed for seed in range(seeds + 1) if seed != 1]
    for seed in chosen:
        days = simulated_days(folder, TRAINED + new, seed=seed)
        yield Array("simulated", seed, tuple(days[:TRAINED]), tuple(days[TRAINED:]), (30, 60, 300))


def excerpt_arrays(file: Path, folder: Path, seeds: int) -> Iterator[Array]:
    """A recording in four pieces, each with two thirds of its units, drawn anew for each piece.

    The last piece is the new day. The units keep their labels.
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
        yield Array("excerpt", seed, tuple(files[:-1]), tuple(files[-1:]), (15, 30))


class Scores:
    """The decoders of an array, and a row for each score."""

    def __init__(self, array: Array, output: Path, words: tuple[str, ...]):
        self.array, self.output, self.words = array, output, words
        self.rows: list[dict[str, Any]] = []

    def fill(self) -> list[dict[str, Any]]:
        joint = self._joint()
        singles = [self._single(file, None) for file in self.array.trained]
        for number, (file, single) in enumerate(zip(self.array.trained, singles, strict=True), 1):
            one = load_run(joint.folder / "sessions" / file.stem)
            self._add(number, "of all days", 0, one.metrics["scores"]["test"]["r2"])
            self._add(number, "of the day alone", 0, single.metrics["scores"]["test"]["r2"])
        for number, file in enumerate(self.array.new, len(self.array.trained) + 1):
            self._new_day(number, file, joint, singles[-1])
        return self.rows

    def _new_day(self, day: int, file: Path, joint: JointRun, latest: LoadedRun) -> None:
        session, seed = read_session(file), self.array.seed
        start = float(session.t[0]) + self.array.seconds[-1] + MARGIN

        def add(decoder: str, seconds: float, run: LoadedRun) -> None:
            self._add(day, decoder, seconds, float(run.score(session, start)["r2"]["mean"]))

        learned = read_session(self.array.trained[-1])
        add(BEFORE, 0, latest)
        for seconds in self.array.seconds:
            for decoder, steps, weights in (
                (MATCHED, 0, "all"), (READ_IN, STEPS, "read-in"), (ALL_WEIGHTS, STEPS, "all")
            ):  # fmt: skip
                found = calibrate(joint, session, seconds, steps=steps, weights=weights, seed=seed)
                add(decoder, seconds, found)
            found = recalibrate(latest, session, seconds, seed=seed, parent_session=learned).run
            add(RECALIBRATED, seconds, found)
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
        if seconds is not None:
            bins = int(seconds / 0.064)
            words += (f"data.split.first_bins={bins}", f"trainer.epochs={EPOCHS[seconds]}")
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
    new: int = NEW,
    words: tuple[str, ...] = (),
) -> str:
    """Train, calibrate and score; returns the tables. Finished runs are not repeated.

    Writes scores.csv, tables.md and the figure r2.png to `output`; the runs are in `output`/runs,
    the simulated and cut recordings in `data`.
    """
    if seeds < 1 or new < 1:
        raise BciDecodeError("are too few seeds or days", remedy="give 1 or more of each")
    made_folder(output)
    arrays = [*simulated_arrays(data, seeds, new)]
    arrays += excerpt_arrays(excerpt, data, seeds) if excerpt else []
    tables = []
    for array in arrays:
        folder = output / "runs" / f"{array.kind}{array.seed}_{len(array.new)}"
        if not (folder / "scores.csv").is_file():
            found = pd.DataFrame(Scores(array, folder, words).fill())
            with written_whole(folder / "scores.csv") as temporary:
                found.to_csv(temporary, index=False)
        tables.append(pd.read_csv(folder / "scores.csv"))
    table = pd.concat(tables, ignore_index=True)
    table.to_csv(output / "scores.csv", index=False)
    draw(curve(table), output / "r2.png")
    shown = {
        "trained": trained_table(table),
        "days": days_table(curve(table)),
        "gain": gains(table),
    }
    return "\n".join(save_table(output, name, one) for name, one in shown.items())
