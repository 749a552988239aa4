"""How much a recalibration of some seconds gives back: docs/recalibration.md.

A pair is a session that a decoder was trained on, and a session of the same array with other units
among them. Every decoder of a pair is scored on the same stretch, the end of the second session.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bci_decode.data.session import Session, read_session
from bci_decode.data.simulate import Recording, simulated_session, write_recording
from bci_decode.data.simulated_units import ABRUPT, ROWS
from bci_decode.errors import BciDecodeError
from bci_decode.files import made_folder
from bci_decode.realtime.recalibration.run import Request, recalibrated_run
from bci_decode.realtime.recalibration.study_tables import (
    AFTER,
    BEFORE,
    SCRATCH,
    SECONDS,
    WHOLE,
    WIENER,
    draw,
    gains,
    shown,
    summary,
)
from bci_decode.runs.estimator import train
from bci_decode.runs.load import load_run
from bci_decode.runs.loaded_run import LoadedRun
from bci_decode.studies.tables import save_table

# passes over so few windows, each the best of 16, 32, 64 and 128 on sessions of other seeds
EPOCHS = {30: 64, 60: 64, 120: 32}
WHOLE_EPOCHS = 16  # as the recipe has
GRU = ("model=gru", "model.recurrent.hidden_size=64", "figures=none")
LINEAR = ("model=wiener", "figures=none")
MARGIN = 1.0  # s between what decoders learn from and the scored stretch


@dataclass(frozen=True)
class Pair:
    """Two sessions of an array, and the first second of the second one that is scored."""

    kind: str  # "simulated" or "excerpt"
    name: str
    first: Path
    second: Path
    scored_from: float
    seeds: tuple[int, ...]


def simulated_pairs(folder: Path, pairs: int, minutes: float, seeds: int) -> Iterator[Pair]:
    """Day 0 and day 1 of arrays of 96 channels; the last fifth of day 1 is scored."""
    for seed in range(pairs):
        first, second = (
            simulated_session(folder, seed=seed, minutes=minutes, channels=96, day=day)
            for day in (0, 1)
        )
        learned = 0.8 * minutes * 60
        yield Pair("simulated", f"array {seed}", first, second, learned, tuple(range(seeds)))


def excerpt_pairs(file: Path, folder: Path, seeds: int) -> Iterator[Pair]:
    """The halves of a recording, the second one with a third of its units replaced.

    Every seed of the decoder has its own draw of the units. What comes after the first 120 s of
    the second half is scored.
    """
    session = read_session(file)
    if absent := {"finger_pos", "cursor_pos", "target_pos"} - set(session.series):
        problem, remedy = "is not in the recording", "choose one with all positions"
        raise BciDecodeError(problem, file=file, field=min(absent), remedy=remedy)
    made_folder(folder)
    middle = float(session.t[0] + session.duration / 2)
    first = folder / f"{session.name}_first_half.mat"
    own = dict(zip(unit_cells(session), session.spike_times, strict=True))
    write_part(session, own, first, slice(0, int(np.searchsorted(session.t, middle))))
    for seed in range(seeds):
        second = folder / f"{session.name}_second_half_{seed}.mat"
        later = slice(int(np.searchsorted(session.t, middle)), len(session.t))
        write_part(session, replaced(session, seed), second, later)
        yield Pair("excerpt", session.name, first, second, float(SECONDS[-1]), (seed,))


def replaced(session: Session, seed: int) -> dict[tuple[int, int], np.ndarray]:
    """The spikes of a session by channel and row, a third of the units under other labels.

    Of the units drawn, half (rounded down) exchange their labels in a circle: a label then belongs
    to another neuron. The others get a free row of their channel, or of the next one that has any:
    their old label is gone, and the new one unknown.
    """
    cells, rng = unit_cells(session), np.random.default_rng(seed)
    drawn = rng.permutation(len(cells))[: round(ABRUPT.replaced * len(cells))].tolist()
    circle, moved = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
    spikes = {cells[k]: session.spike_times[k] for k in range(len(cells)) if k not in drawn}
    for here, there in zip(circle, circle[1:] + circle[:1], strict=True):
        spikes[cells[here]] = session.spike_times[there]
    channels = len(session.channels)
    for unit in moved:
        near = ((cells[unit][0] + k) % channels for k in range(channels))
        free = ((c, row) for c in near for row in range(1, ROWS))
        spikes[next(one for one in free if one not in {*cells, *spikes})] = session.spike_times[
            unit
        ]
    return spikes


def unit_cells(session: Session) -> list[tuple[int, int]]:
    """Channel and row of each unit, as numbers."""
    numbers = {name: number for number, name in enumerate(session.channels)}
    units = session.units[["channel", "row"]].itertuples(index=False)
    return [(numbers[unit.channel], int(unit.row)) for unit in units]


def write_part(
    session: Session, spikes: dict[tuple[int, int], np.ndarray], path: Path, part: slice
) -> None:
    """Write a part of a session, with these spikes, unless the file is there."""
    if path.is_file():
        return
    t, finger = session.t[part], session.series["finger_pos"].values[part]
    rows = [[np.empty(0) for _ in range(ROWS)] for _ in session.channels]
    for (channel, row), times in spikes.items():
        rows[channel][row] = times[(times >= t[0]) & (times <= t[-1])]
    stored = np.column_stack([finger[:, 2:] / 10, -finger[:, :2] / 10])
    cursor, target = (session.series[name].values[part] for name in ("cursor_pos", "target_pos"))
    write_recording(path, Recording(t, cursor, target, stored, rows, list(session.channels)))


def score_pair(pair: Pair, folder: Path, words: tuple[str, ...] = ()) -> list[dict]:
    """A row for each decoder of a pair: R2 on the scored stretch, mean of the axes."""
    session = read_session(pair.second)
    start = float(session.t[0]) + pair.scored_from + MARGIN
    rows: list[dict] = []

    def add(decoder: str, seconds: float, run: LoadedRun, seed: int) -> None:
        r2 = float(run.score(session, start)["r2"]["mean"])
        about = {"recording": pair.kind, "pair": pair.name, "seed": seed}
        rows.append(about | {"decoder": decoder, "seconds": seconds, "r2": r2})

    for seed in pair.seeds:
        run = _train(pair.first, folder / "parents", (*GRU, f"seed={seed}", *words))
        add(BEFORE, 0, run, seed)
        for seconds in SECONDS:
            request = Request(seconds, seed=seed)
            add(AFTER, seconds, load_run(recalibrated_run(run, pair.second, request)[0]), seed)
            add(SCRATCH, seconds, _from_scratch(pair, folder, seconds, seed, words), seed)
            linear = _first(pair.second, folder, seconds, (*LINEAR, f"seed={seed}"))
            add(WIENER, seconds, linear, seed)
        all_seconds = pair.scored_from
        add(WHOLE, all_seconds, _from_scratch(pair, folder, all_seconds, seed, words), seed)
    return rows


def _from_scratch(
    pair: Pair, folder: Path, seconds: float, seed: int, words: tuple[str, ...]
) -> LoadedRun:
    epochs = EPOCHS.get(int(seconds), WHOLE_EPOCHS)
    words = (*GRU, f"seed={seed}", f"trainer.epochs={epochs}", *words)
    return _first(pair.second, folder, seconds, words)


def _train(file: Path, folder: Path, words: tuple[str, ...]) -> LoadedRun:
    return train(file, None, ("experiment=best", *words), output_dir=folder, progress=False)


def _first(file: Path, folder: Path, seconds: float, words: tuple[str, ...]) -> LoadedRun:
    """A decoder of the first seconds of a session alone."""
    bins = int(seconds / 0.064)
    words = (f"data.split.first_bins={bins}", *words)
    return _train(file, folder / f"first_{seconds:g}s", words)


def recalibration_study(
    output: Path,
    data: Path,
    excerpt: Path | None = None,
    pairs: int = 6,
    seeds: int = 3,
    minutes: float = 5.0,
    words: tuple[str, ...] = (),
) -> str:
    """Train, recalibrate and score all pairs; returns the tables. Finished runs are not repeated.

    Writes scores.csv, tables.md and the figure r2.png to `output`; the runs are in
    `output`/runs, the simulated and cut recordings in `data`.
    """
    if pairs < 1 or seeds < 1:
        raise BciDecodeError("are too few pairs or seeds", remedy="give 1 or more of each")
    if minutes * 60 * 0.8 < SECONDS[-1]:
        raise BciDecodeError(f"is {minutes}", field="--minutes", remedy="give 2.5 or more")
    made_folder(output)
    todo = list(simulated_pairs(data, pairs, minutes, seeds))
    todo += excerpt_pairs(excerpt, data, seeds) if excerpt else []
    rows = [row for pair in todo for row in score_pair(pair, output / "runs", words)]
    table = pd.DataFrame(rows)
    table.to_csv(output / "scores.csv", index=False)
    found = summary(table)
    draw(found, output / "r2.png")
    tables = (save_table(output, "r2", shown(found)), save_table(output, "gain", gains(table)))
    return "\n".join(tables)
