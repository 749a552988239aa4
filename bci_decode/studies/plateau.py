"""How long the plateau lasts, against batch size and history, and what else ends it.

The plateau is the variance of the target on the test part. A run leaves it with the first epoch
whose test loss is below half of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from bci_decode.comparison.finished_runs import half_plateau_epoch
from bci_decode.data.dataset import Dataset
from bci_decode.files import made_folder, md5_of
from bci_decode.runs.build import build_decoder, instantiate, load_data
from bci_decode.runs.compose import compose_config, typed_config
from bci_decode.runs.report import target_variance
from bci_decode.studies.figures import draw_plateau
from bci_decode.studies.published import EXPERIMENT
from bci_decode.studies.tables import append_table
from bci_decode.studies.training import (
    PAIR,
    data_file,
    session_name,
    session_words,
    train_all,
    translate_errors,
)
from bci_decode.style import model_label
from bci_decode.training.trainer import Trainer

BATCH_SIZES, HISTORIES = (1, 4, 16, 64, 256), (5, 10, 20, 50, 100)
BATCH_SIZE, HISTORY = 16, 10  # the source study's
PLAIN, NORMALIZED = PAIR
# Its LN-GRU has LayerNorm inside the recurrent layers, and over the window's outputs before the
# head.
PLACES = {
    PLAIN: [],
    NORMALIZED: [],
    f"{PLAIN}, outputs normalized": ["+model.norm={_target_:bci_decode.layers.HistoryNorm}"],
    f"{NORMALIZED}, outputs not normalized": ["model.norm=null"],
}
# one change each, without any LayerNorm
OTHERS = {
    f"{PLAIN}, counts z-scored": ["data.scale.counts=zscore"],
    f"{PLAIN}, targets z-scored": ["data.scale.target=zscore"],
    f"{PLAIN}, learning rate 1e-4": ["optimizer.lr=1e-4"],
    f"{PLAIN}, AdamW": ["optimizer=adamw"],  # at the default recipe's learning rate
}
VARIANTS = PLACES | OTHERS
TEST_BINS = 500  # more are not needed to see the plateau end, and take longer to decode
OPTIONS = {
    "data.split.first_bins": "--plateau-bins",
    "data.window.length": "--histories",
    "trainer.batch_size": "--batch-sizes",
}


@dataclass(frozen=True)
class Grid:
    """Batch sizes at the study's history, histories at its batch size, and the variants.

    `bins` are trained on; a run ends after `steps` of the optimizer, in whole epochs.
    """

    session: Path | None = None
    bins: int = 2000
    batch_sizes: tuple[int, ...] = BATCH_SIZES
    histories: tuple[int, ...] = HISTORIES
    steps: int = 12000
    seeds: tuple[int, ...] = (0,)

    def points(self) -> list[Point]:
        """All runs, the longest first, so that none is left to run alone."""
        sizes = {(batch, HISTORY) for batch in self.batch_sizes} | {(BATCH_SIZE, HISTORY)}
        sizes |= {(BATCH_SIZE, history) for history in self.histories}
        runs = [(model, *size) for size in sizes for model in PAIR]
        runs += [(name, BATCH_SIZE, HISTORY) for name in VARIANTS if name not in PAIR]
        runs.sort(key=lambda run: -run[2] * run[1] ** 0.5)
        return [Point(self, *run, seed) for run in runs for seed in self.seeds]


@dataclass(frozen=True)
class Point:
    """One run of a grid; `variant` is a key of `VARIANTS`, `history` and `bins` count bins."""

    grid: Grid
    variant: str
    batch_size: int
    history: int
    seed: int

    @property
    def epochs(self) -> int:
        windows = max(self.grid.bins - self.history + 1, 1)
        return -(-self.grid.steps // -(-windows // self.batch_size))

    @property
    def folder(self) -> str:
        variant = self.variant.replace(", ", "_").replace(" ", "_")
        return f"batch{self.batch_size}_history{self.history}/{variant}/seed{self.seed}"

    def words(self) -> list[str]:
        return [
            f"experiment={EXPERIMENT}",
            f"model={self.variant.split(', ')[0]}",
            *VARIANTS[self.variant],
            f"trainer.batch_size={self.batch_size}",
            f"data.window.length={self.history}",
            f"seed={self.seed}",
            f"trainer.epochs={self.epochs}",
            f"data.split.first_bins={self.grid.bins}",
            "data.split.val_from_test=0",
            *session_words(self.grid.session),
        ]


class PlateauTrainer(Trainer):
    """A trainer that stops once it has left the plateau, which selects nothing."""

    @property
    def plateau(self) -> float:
        return target_variance(self.data.parts["test"].truth)

    def half_epoch(self) -> int | None:
        return half_plateau_epoch(pd.DataFrame(self.history), self.plateau)

    def should_stop(self) -> bool:
        return self.half_epoch() is not None or super().should_stop()


def with_short_test(data: Dataset, bins: int) -> Dataset:
    """The same data with only the first `bins` of the test part."""
    test, bins_of_test = data.parts["test"], data.slices["test"]
    short = test.cut(slice(bins))
    kept = slice(bins_of_test.start, min(bins_of_test.start + bins, bins_of_test.stop))
    return replace(data, parts=data.parts | {"test": short}, slices=data.slices | {"test": kept})


def plateau(output: Path, grid: Grid, jobs: int = 1, overwrite: bool = False) -> tuple[Path, str]:
    """Train the grid, draw and tabulate it; the folder and its tables."""
    name, file = session_name(grid.session), data_file(grid.session)
    # the name keeps runs of another file or of other bins apart
    base = output / "runs" / "plateau" / f"{name}_{md5_of(file)[:8]}_{grid.bins}bins"
    if overwrite and base.exists():
        shutil.rmtree(base)
    points = {base / point.folder: point for point in grid.points()}
    tasks = {folder: (plateau_run, (folder, point)) for folder, point in points.items()}
    epochs = {folder: point.epochs for folder, point in points.items()}
    with translate_errors(OPTIONS):
        rows = train_all(tasks, epochs, jobs, "plateau")
    order = ["batch_size", "history", "model", "seed"]
    table = pd.DataFrame(rows).sort_values(order, ignore_index=True)
    folder = output / name
    made_folder(folder)
    table.to_csv(folder / "plateau.csv", index=False)
    seeds = f"seed{'s' * (len(grid.seeds) > 1)} {', '.join(map(str, grid.seeds))}"
    title = f"{name}, {seeds}, {EXPERIMENT}, first {grid.bins} bins"
    draw_plateau(folder / "plateau.png", table, title, grid.steps)
    return folder, _tables(folder, table, title, grid.steps)


def _tables(folder: Path, table: pd.DataFrame, title: str, steps: int) -> str:
    tested = " or ".join(str(bins) for bins in sorted(set(table["test_bins"])))
    text = (
        f"{title} train, the {tested} after them test: steps of the optimizer to half the "
        "plateau, in brackets epochs, of each seed.\n"
    )
    tables = {
        "plateau": plateau_table(table, steps),
        "which LayerNorm": variant_table(table, PLACES, steps),
        "what else ends the plateau": variant_table(table, [PLAIN, *OTHERS], steps),
    }
    return "\n".join(append_table(folder, name, own, text) for name, own in tables.items())


def plateau_run(folder: Path, point: Point) -> dict[str, Any]:
    """Train one run, or resume it; a row of the table of all."""
    config = compose_config(*point.words())
    typed = typed_config(config)
    data = with_short_test(load_data(config), TEST_BINS)
    decoder, optimizer = build_decoder(config, data), instantiate(config.optimizer, "optimizer")
    made_folder(folder)
    trainer = PlateauTrainer(
        decoder, data, folder, typed.trainer, optimizer, seed=point.seed, progress=False
    )
    history = trainer.fit()
    last = min(len(history) - 1, point.epochs)  # of a run that was longer then
    half = half_plateau_epoch(history[: last + 1], trainer.plateau)
    steps = -(-len(trainer.training) // point.batch_size)
    varied = {(True, True): "both", (True, False): "history", (False, True): "batch_size"}
    return {
        "varied": varied[point.batch_size == BATCH_SIZE, point.history == HISTORY],
        "batch_size": point.batch_size,
        "history": point.history,
        "model": point.variant,
        "seed": point.seed,
        "steps_per_epoch": steps,
        "half_plateau_steps": None if half is None else half * steps,
        "half_plateau_epoch": half,
        "epochs": last,
        "test_bins": len(data.parts["test"]),
        "plateau": trainer.plateau,
        "test_loss": float(history["test_loss"][last]),
        "seconds": float(history["seconds"].sum()),
    }


def plateau_table(table: pd.DataFrame, cap: int) -> pd.DataFrame:
    """A row for each batch size and history, a column for each model."""
    rows = [
        {"batch size": batch, "history": history}
        | {model_label(name): format_steps(runs[runs["model"] == name], cap) for name in PAIR}
        for (batch, history), runs in table.groupby(["batch_size", "history"])
    ]
    return pd.DataFrame(rows)


def variant_table(table: pd.DataFrame, variants: Iterable[str], cap: int) -> pd.DataFrame:
    """A row for each variant, at the study's batch size and history."""
    rows = []
    for variant in variants:
        runs = table[(table["varied"] == "both") & (table["model"] == variant)]
        losses = zip(runs["test_loss"], runs["plateau"], strict=True)
        model, *changes = variant.split(", ")
        rows.append(
            {
                "model": ", ".join([model_label(model), *changes]),
                "steps (epochs)": format_steps(runs, cap),
                "test loss at the end, of the plateau": ", ".join(
                    f"{loss:.0f} of {plateau:.0f}" for loss, plateau in losses
                ),
            }
        )
    return pd.DataFrame(rows)


def format_steps(runs: pd.DataFrame, cap: int) -> str:
    """Steps and epochs of each run: "7875 (63), not within 12000 (96)"."""
    columns = (runs[name] for name in ("half_plateau_epoch", "steps_per_epoch", "epochs"))
    return ", ".join(
        f"not within {cap} ({epochs})" if pd.isna(half) else f"{int(half) * steps} ({int(half)})"
        for half, steps, epochs in zip(*columns, strict=True)
    )
