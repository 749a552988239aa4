"""Figures of a run, drawn from the CSV and npz files that it wrote."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bci_decode.config import TrajectoryConfig
from bci_decode.evaluation.intervals import r2_intervals
from bci_decode.evaluation.metrics import r2
from bci_decode.runs.folder import FIGURES
from bci_decode.runs.reading import read_history, read_predictions, read_report
from bci_decode.style import DECODED, PARTS, PLATEAU, TRUE, loss_limit, model_label, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SATURATED = "saturated_"  # columns of trainer.monitor_layers


def figure_files(folder: Path, kind: str) -> list[Path]:
    """The figures that every run has."""
    return [] if kind == "none" else [folder / f"{name}.{kind}" for name in FIGURES]


def draw_run(folder: Path, kind: str = "png", trajectory: TrajectoryConfig | None = None) -> None:
    """Draw loss, R2 and trajectory of a finished run into its folder, and layers if monitored."""
    if kind == "none":
        return
    title = draw_history(folder, kind)
    decoded = read_predictions(folder / "predictions.npz")
    figure = trajectory_figure(decoded, title, trajectory or TrajectoryConfig())
    save_figure(figure, folder / f"trajectory.{kind}")


def draw_history(folder: Path, kind: str) -> str:
    """Draw the figures of all epochs, and return the run's title."""
    history, metrics = read_history(folder), read_report(folder)
    title = run_title(metrics)
    unit = metrics["protocol"]["unit"]
    labels = {"loss": f"mean squared error, ({unit})²", "r2": "R² (mean of x and y)"}
    for score, label in labels.items():
        draw = _history_figure if len(history) > 1 else _fitted_figure
        figure = draw(history, metrics, score)
        figure.axes[0].set_ylabel(label)
        figure.suptitle(_wrapped(title, 70), fontsize="medium")
        save_figure(figure, folder / f"{score}.{kind}")
    if any(column.startswith(SATURATED) for column in history):
        save_figure(layers_figure(history, title), folder / f"layers.{kind}")
    return title


def run_title(metrics: dict) -> str:
    """Session, decoder, the target where it is not velocity, seed and experiment."""
    target = metrics["protocol"]["target"]
    decoder = model_label(metrics["model"]) + f", {target}" * (target != "velocity")
    return f"{metrics['session']}, {decoder}, seed {metrics['seed']} ({metrics['experiment']})"


def _wrapped(title: str, width: int) -> str:
    return "\n".join(textwrap.wrap(title, width))


def _history_figure(history: pd.DataFrame, metrics: dict, score: str) -> Figure:
    """The training part, and the one that selected the epoch, against epoch; that epoch marked."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    part = "test" if metrics["select_on"] == "test" else "val"
    other = part if history[f"{part}_{score}"].notna().any() else "test"
    for part in ("train", other):
        axes.plot(history["epoch"], history[f"{part}_{score}"], **PARTS[part])
    if score == "loss":
        plateau = metrics["target_variance"][other]
        axes.axhline(plateau, label=f"variance of the {PARTS[other]['label']} target", **PLATEAU)
        losses = history[["train_loss", f"{other}_loss"]].to_numpy()
        axes.set_ylim(0, loss_limit(plateau, np.nanmin(losses, 0).max(), np.nanmax(losses)))
    else:  # an untrained decoder may be far below 0, and would flatten all that follows
        axes.set_ylim(max(-0.1, min(0.0, history[f"{other}_{score}"].min())), 1)
    best = history[history["epoch"] == metrics["best_epoch"]]
    label = f"selected epoch, {metrics['best_epoch']}"
    axes.plot(
        best["epoch"], best[f"{other}_{score}"], "o", color="black", markersize=5, label=label
    )
    axes.set_xlabel("epoch (0: untrained)")
    axes.margins(x=0.02)
    axes.legend(frameon=False)
    return figure


def _fitted_figure(history: pd.DataFrame, metrics: dict, score: str) -> Figure:
    """A bar for each part of a closed-form model, which has no epochs."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    parts = [part for part in PARTS if history[f"{part}_{score}"].notna().all()]
    values = [history[f"{part}_{score}"].iloc[0] for part in parts]
    labels = ["train" if part == "train" else PARTS[part]["label"] for part in parts]
    bars = axes.bar(labels, values, 0.6, color=[PARTS[part]["color"] for part in parts])
    axes.bar_label(bars, fmt="%.3g" if score == "r2" else "%.0f")
    if score == "loss":
        for index, part in enumerate(parts):
            label = "variance of the target" if index == 0 else None
            plateau = metrics["target_variance"][part]
            axes.plot([index - 0.4, index + 0.4], [plateau] * 2, label=label, **PLATEAU)
        axes.legend(frameon=False)
    axes.margins(y=0.1)
    return figure


def layers_figure(history: pd.DataFrame, title: str) -> Figure:
    """What `trainer.monitor_layers` wrote: saturated gates, gradient norms and weight norms."""
    import matplotlib.pyplot as plt

    kinds = {
        SATURATED: "share of saturated\npre-activations",
        "grad_norm_": "gradient norm",
        "weight_norm_": "weight norm",
    }
    figure, panels = plt.subplots(3, 1, figsize=(7, 8), sharex=True, layout="constrained")
    for axes, (start, label) in zip(panels, kinds.items(), strict=True):
        for column in (name for name in history if name.startswith(start)):
            name = column.removeprefix(start).replace("_", " ")
            axes.plot(history["epoch"], history[column], label=name)
        axes.set_ylabel(label)
        axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    panels[-1].set_xlabel("epoch (0: untrained)")
    figure.suptitle(_wrapped(title, 80), fontsize="medium")
    return figure


def trajectory_figure(
    decoded: dict[str, np.ndarray], title: str, shown: TrajectoryConfig
) -> Figure:
    """True and decoded target over a range of time with its R2 and the whole part's, and the path.

    Beside the R2 of the whole part is its 95 % interval. The range of time begins at `shown.start`
    on the recording's clock, by default in the middle. Lines break where a value is NaN.
    """
    import matplotlib.pyplot as plt

    bins = _shown_bins(decoded["time"], float(decoded["bin_width"]), shown)
    time, true, guess = decoded["time"][bins], decoded["true"][bins], decoded["decoded"][bins]
    target, unit = str(decoded["target"]), str(decoded["unit"])
    whole = r2(decoded["true"], decoded["decoded"])
    here = np.full(len(whole), np.nan)
    if not np.isnan(true).any(axis=1).all():
        with np.errstate(invalid="ignore", divide="ignore"):
            here = r2(true, guess)
    names = [str(name) for name in decoded["axes"]]
    ranges = r2_intervals(decoded["true"], decoded["decoded"], float(decoded["bin_width"]), names)
    figure = plt.figure(figsize=(10, 4.5), layout="constrained")
    has_path = target != "acceleration"  # integrated twice, it would lead anywhere
    grid = figure.add_gridspec(len(whole), 1 + has_path, width_ratios=(1.7, 1)[: 1 + has_path])
    for axis, name in enumerate(names):
        axes = figure.add_subplot(grid[axis, 0])
        axes.plot(time, true[:, axis], **TRUE)
        axes.plot(time, guess[:, axis], **DECODED)
        axes.set_ylabel(f"{name} {target}\n{unit}")
        axes.set_title(
            f"{name}: R² {here[axis]:.3f} here, {whole[axis]:.3f} in all"
            + _range_text(ranges[f"r2_{name}"]),
            loc="right",
            fontsize="small",
        )
        axes.margins(x=0)
    figure.axes[0].legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    figure.axes[-1].set_xlabel("time of the recording, s")
    if has_path:
        width = float(decoded["bin_width"]) if target == "velocity" else None
        _draw_path(figure.add_subplot(grid[:, 1]), true, guess, width, unit)
    figure.suptitle(_wrapped(f"{title}: {time[0]:.1f} to {time[-1]:.1f} s", 110))
    return figure


def _range_text(ends: list[float] | None) -> str:
    return "" if ends is None else f" (95 %: {ends[0]:.3f} to {ends[1]:.3f})"


def _shown_bins(time: np.ndarray, bin_width: float, shown: TrajectoryConfig) -> slice:
    """The bins of the range, moved into the part if it lies outside."""
    count = min(max(2, round(shown.seconds / bin_width)), len(time))
    first = len(time) // 2 if shown.start is None else int(np.searchsorted(time, shown.start))
    first = max(0, min(first, len(time) - count))
    return slice(first, first + count)


def _draw_path(
    axes: Axes, true: np.ndarray, guess: np.ndarray, bin_width: float | None, unit: str
) -> None:
    """Positions in the plane; with a bin width, the velocities integrated from one common start.

    `unit` is that of both. Bins in which one of them is unknown are left out.
    """
    known = ~np.isnan(np.hstack([true, guess])).any(axis=1)
    if not known.any():
        return
    quantity = f"position, {unit}"
    if bin_width is not None:
        # all stand still meanwhile
        true, guess = (np.where(known[:, None], a, 0.0) for a in (true, guess))
        true, guess = ((a.cumsum(0) - a[0]) * bin_width for a in (true, guess))
        length = unit.removesuffix("/s") if unit.endswith("/s") else f"{unit} s"
        quantity = f"path, {length} (integrated velocity)"
    axes.plot(*true.T[:2], **TRUE)
    axes.plot(*guess.T[:2], **DECODED)
    axes.plot(*true[0, :2], "o", color="black", markersize=5)
    title = "the same time; dot: start" + "\nintegration adds errors up" * (bin_width is not None)
    axes.set(xlabel=f"x {quantity}", ylabel=f"y {quantity}")
    axes.set_title(title, fontsize="small")
    axes.set_aspect("equal", adjustable="datalim")
