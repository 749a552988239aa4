"""Pictures of runs, drawn from the CSV and npz files that they wrote; all readable in grey."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from bci_decode.compare import Run
from bci_decode.files import written_whole

# one look for each model everywhere; dark against light and solid against dashed, so that grey prints tell them apart
MODELS = {
    "gru": {"color": "#5cb85c", "linestyle": "--", "label": "GRU"},
    "lngru": {"color": "#1a3a9c", "linestyle": "-", "label": "LN-GRU"},
}
PARTS = {
    "train": {"color": "0.6", "linestyle": "--", "label": "train"},
    "val": {"color": "#1a3a9c", "linestyle": "-", "label": "validation"},
    "test": {"color": "#b5460f", "linestyle": ":", "label": "test"},
}


def draw_run(folder: Path) -> None:
    """Draw `loss.png`, `r2.png` and `trajectory.png` of a finished run into its folder."""
    history = pd.read_csv(folder / "history.csv")
    with np.load(folder / "predictions.npz") as predictions:
        decoded = dict(predictions)
    title = " / ".join(folder.parts[-4:])
    _draw_history(folder / "loss.png", history, "loss", f"mean squared error, ({decoded['unit']})²", title)
    _draw_history(folder / "r2.png", history, "r2", "R² (mean of x and y)", title)
    _draw_trajectory(folder / "trajectory.png", decoded, title)


def _draw_history(path: Path, history: pd.DataFrame, score: str, label: str, title: str) -> None:
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    parts = ("train", "val") if history["val_loss"].notna().any() else ("train", "test")
    for part in parts:
        axes.plot(history["epoch"], history[f"{part}_{score}"], **PARTS[part])
    if score == "loss":
        axes.set_ylim(bottom=0)
    else:  # an untrained decoder may be far below 0, and would flatten all that follows
        axes.set_ylim(max(-0.1, min(0.0, history[f"{parts[1]}_{score}"].min())), 1)
    axes.set(xlabel="epoch (0: untrained)", ylabel=label, title=title)
    axes.margins(x=0.02)
    axes.legend(frameon=False)
    _save(figure, path)


def _draw_trajectory(path: Path, decoded: dict[str, np.ndarray], title: str, seconds: float = 10.0) -> None:
    """True and decoded target over the test part's first ten seconds, and the path in the plane."""
    width = float(decoded["bin_width"])
    bins = slice(0, max(2, round(seconds / width)))
    time = decoded["time"][bins] - decoded["time"][0]
    true, guess = decoded["true"][bins], decoded["decoded"][bins]
    target, unit = str(decoded["target"]), str(decoded["unit"])
    figure = plt.figure(figsize=(10, 4.5), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.7, 1))
    for axis, name in enumerate(decoded["axes"]):
        axes = figure.add_subplot(grid[axis, 0])
        axes.plot(time, true[:, axis], color="0.65", linewidth=2.5, label="true")
        axes.plot(time, guess[:, axis], color="#1a3a9c", linewidth=1.2, label="decoded")
        axes.set_ylabel(f"{name} {target}, {unit}")
        axes.margins(x=0)
    figure.axes[0].legend(frameon=False, loc="upper right", ncols=2)
    figure.axes[1].set_xlabel("time in the test part, s")
    axes = figure.add_subplot(grid[:, 1])
    what = f"{target}, {unit}"
    if target == "velocity":  # the path that the decoded velocity leads along, from the same start
        true, guess, what = true.cumsum(0) * width, guess.cumsum(0) * width, "velocity summed up, mm"
    axes.plot(*true.T, color="0.65", linewidth=2.5)
    axes.plot(*guess.T, color="#1a3a9c", linewidth=1.2)
    axes.plot(*true[0], "o", color="black", markersize=5)
    axes.set(xlabel=f"x {what}", ylabel=f"y {what}", title="path (dot: start)")
    axes.set_aspect("equal", adjustable="datalim")
    figure.suptitle(title, fontsize="medium")
    _save(figure, path)


def draw_comparison(runs: list[Run], path: Path) -> None:
    """Test loss against epoch of all runs in one axis, a thin line each; dotted, the plateau: the target's variance."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    known: set[str] = set()
    for run in runs:
        model = run.metrics["model"]
        style = dict(MODELS.get(model, {"label": model}))
        label = style.pop("label") if model not in known else None
        known.add(model)
        axes.plot(run.history["epoch"], run.history["test_loss"], label=label, linewidth=1.5 if len(runs) < 9 else 0.8, **style)
    plateaus = {run.metrics["target_variance"]["test"] for run in runs}
    for plateau in plateaus:
        axes.axhline(plateau, color="0.5", linestyle=":", linewidth=1, zorder=0)
    axes.set(xlabel="epoch (0: untrained)", ylabel=f"test loss, ({runs[0].metrics['protocol']['unit']})²", title=_what(runs))
    axes.set_ylim(0, 1.25 * max(plateaus))
    axes.margins(x=0.02)
    axes.plot([], [], color="0.5", linestyle=":", linewidth=1, label="variance of the target")
    axes.legend(frameon=False)
    _save(figure, path)


def _what(runs: list[Run]) -> str:
    sessions = sorted({run.metrics["session"] for run in runs})
    seeds = sorted({run.metrics["seed"] for run in runs})
    first = sessions[0] if len(sessions) == 1 else f"{len(sessions)} sessions"
    return f"{runs[0].metrics['experiment']}: {first}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _save(figure: plt.Figure, path: Path) -> None:
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)
