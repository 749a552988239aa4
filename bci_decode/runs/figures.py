"""Pictures of a run, drawn from the CSV and npz files that it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from bci_decode.style import DECODED, PARTS, PLATEAU, TRUE, loss_limit, save_figure


def draw_run(folder: Path) -> None:
    """Draw `loss.png`, `r2.png` and `trajectory.png` of a finished run into its folder."""
    history = pd.read_csv(folder / "history.csv")
    metrics = json.loads((folder / "metrics.json").read_text())
    with np.load(folder / "predictions.npz") as predictions:
        decoded = dict(predictions)
    title = run_title(metrics)
    for score, label in (("loss", f"mean squared error, ({decoded['unit']})²"), ("r2", "R² (mean of x and y)")):
        figure = _history_figure(history, metrics, score)
        figure.axes[0].set(xlabel="epoch (0: untrained)", ylabel=label, title=title)
        save_figure(figure, folder / f"{score}.png")
    save_figure(_trajectory_figure(decoded, title), folder / "trajectory.png")


def run_title(metrics: dict) -> str:
    """Session, decoder and, as in the folder's name, the target where it is not velocity."""
    target = metrics["protocol"]["target"]
    decoder = metrics["model"] + f", {target}" * (target != "velocity")
    return f"{metrics['session']}, {decoder}, seed {metrics['seed']} ({metrics['experiment']})"


def _history_figure(history: pd.DataFrame, metrics: dict, score: str) -> plt.Figure:
    """The training part, and the one that chose the epoch, against epoch; the chosen epoch marked."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    other = metrics["select_on"]
    for part in ("train", other):
        axes.plot(history["epoch"], history[f"{part}_{score}"], **PARTS[part])
    if score == "loss":
        plateau = metrics["target_variance"][other]
        axes.axhline(plateau, label=f"variance of the {PARTS[other]['label']} target", **PLATEAU)
        losses = [history[f"{part}_loss"] for part in ("train", other)]
        axes.set_ylim(0, loss_limit(plateau, max(loss.min() for loss in losses), max(loss.max() for loss in losses)))
    else:  # an untrained decoder may be far below 0, and would flatten all that follows
        axes.set_ylim(max(-0.1, min(0.0, history[f"{other}_{score}"].min())), 1)
    best = metrics["best_epoch"]
    axes.plot(best, history[f"{other}_{score}"][best], "o", color="black", markersize=5, label=f"chosen epoch, {best}")
    axes.margins(x=0.02)
    axes.legend(frameon=False)
    return figure


def _trajectory_figure(decoded: dict[str, np.ndarray], title: str, seconds: float = 10.0) -> plt.Figure:
    """True and decoded target over ten seconds from the middle of the test part on, and the path in the plane."""
    width, first = float(decoded["bin_width"]), len(decoded["time"]) // 2
    bins = slice(first, first + max(2, round(seconds / width)))
    time, true, guess = decoded["time"][bins], decoded["true"][bins], decoded["decoded"][bins]
    target, unit = str(decoded["target"]), str(decoded["unit"])
    figure = plt.figure(figsize=(10, 4.5), layout="constrained")
    has_path = target != "acceleration"  # summed up twice, it would lead anywhere
    grid = figure.add_gridspec(2, 1 + has_path, width_ratios=(1.7, 1)[: 1 + has_path])
    for axis, name in enumerate(decoded["axes"]):
        axes = figure.add_subplot(grid[axis, 0])
        axes.plot(time, true[:, axis], **TRUE)
        axes.plot(time, guess[:, axis], **DECODED)
        axes.set_ylabel(f"{name} {target}\n{unit}")
        axes.margins(x=0)
    figure.axes[0].legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    figure.axes[1].set_xlabel("time of the recording, s")
    if has_path:
        _draw_path(figure.add_subplot(grid[:, 1]), true, guess, width if target == "velocity" else None)
    figure.suptitle(title)
    return figure


def _draw_path(axes: plt.Axes, true: np.ndarray, guess: np.ndarray, bin_width: float | None) -> None:
    """Positions in the plane; with a bin width, where the velocities lead to from one common start."""
    what = "position, mm"
    if bin_width is not None:
        true, guess = ((a.cumsum(0) - a[0]) * bin_width for a in (true, guess))
        what = "path, mm (velocity summed up)"
    axes.plot(*true.T, **TRUE)
    axes.plot(*guess.T, **DECODED)
    axes.plot(*true[0], "o", color="black", markersize=5)
    axes.set(xlabel=f"x {what}", ylabel=f"y {what}", title="the same ten seconds; dot: start")
    axes.set_aspect("equal", adjustable="datalim")
