"""Pictures of a run, drawn from the CSV and npz files that they wrote, and of sessions; all readable in grey."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from bci_decode.files import written_whole

if TYPE_CHECKING:
    from bci_decode.session import Session

# one look for each model everywhere; dark against light and solid against dashed, so that grey prints tell them apart
MODELS: dict[str, dict[str, Any]] = {
    "gru": {"color": "#5cb85c", "linestyle": "--", "label": "GRU"},
    "lngru": {"color": "#1a3a9c", "linestyle": "-", "label": "LN-GRU"},
    "gru-bidirectional": {"color": "#5cb85c", "linestyle": "-.", "label": "GRU bidirectional"},
    "lngru-bidirectional": {"color": "#1a3a9c", "linestyle": ":", "label": "LN-GRU bidirectional"},
}
PARTS: dict[str, dict[str, Any]] = {
    "train": {"color": "0.6", "linestyle": "--", "label": "train, while learning"},
    "val": {"color": "#1a3a9c", "linestyle": "-", "label": "validation"},
    "test": {"color": "#b5460f", "linestyle": ":", "label": "test"},
}
PLATEAU: dict[str, Any] = {"color": "0.5", "linestyle": ":", "linewidth": 1, "zorder": 0}
TRUE: dict[str, Any] = {"color": "0.65", "linewidth": 2.5, "label": "true"}
DECODED: dict[str, Any] = {"color": "#1a3a9c", "linewidth": 1.2, "label": "decoded"}
CURSOR: dict[str, Any] = {"color": "#b5460f", "linestyle": "--", "linewidth": 1.2, "label": "cursor"}
HASH, SORTED = "0.8", ("#10245f", "#2f55c4", "#6a86d8", "#9db0e6")  # by row; darker than hash in grey too
BORDER: dict[str, Any] = {"color": "black", "linestyle": ":", "linewidth": 1}  # between areas


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


def loss_limit(plateau: float, lowest: float, highest: float) -> float:
    """Where a loss axis ends: a little above the target's variance, or above all where even the lowest loss is not below
    that (of positions far from 0, say)."""
    limit = 1.25 * plateau
    return limit if lowest < limit else 1.1 * highest


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


def draw_session(session: Session, path: Path, raster: float = 10.0, seconds: float = 30.0) -> None:
    """Rates per channel over the whole session; from its middle on `raster` s of spikes and `seconds` of movement."""
    height = min(max(0.011 * len(session.units), 2.0), 5.2)  # inches, so that a unit has a pixel at least
    figure, (rates, spikes, *positions) = plt.subplots(
        4, 1, figsize=(10, 6 + height), height_ratios=(1.8, height, 1.2, 1.2), layout="constrained"
    )
    areas = [name.split(" ")[0] for name in session.channels]
    for border in np.flatnonzero(np.array(areas[1:]) != np.array(areas[:-1])):
        rates.axvline(border + 0.5, **BORDER)
    start = max(session.t[0], min((session.t[0] + session.t[-1]) / 2, session.t[-1] - seconds))
    _draw_rates(rates, session)
    _draw_raster(spikes, session, start, min(start + raster, session.t[-1]))
    _draw_positions(positions, session, start, min(start + seconds, session.t[-1]))
    for axes in positions:
        axes.axvspan(start, start + raster, color="0.94", zorder=0)
    figure.align_ylabels()
    figure.suptitle(f"{session.name}: {session.duration / 60:.1f} minutes, {len(session.units)} units")
    save_figure(figure, path)


def _draw_rates(axes: plt.Axes, session: Session) -> None:
    """A bar for each channel in the order of the electrodes, its rows stacked: hash below, sorted units above."""
    place = {name: index for index, name in enumerate(session.channels)}
    top = np.zeros(len(place))
    for row, units in session.units.groupby("row"):
        where = units["channel"].map(place).to_numpy()
        rate = units["spikes"].to_numpy() / session.duration
        look = HASH if row == 0 else SORTED[min(row, len(SORTED)) - 1]
        label = "unsorted (hash)" if row == 0 else f"sorted, row {row}"
        axes.bar(where, rate, 0.85, top[where], color=look, label=label)
        top[where] += rate
    silent = np.flatnonzero(top == 0)
    axes.plot(silent, np.zeros(len(silent)), "x", color="black", markersize=3.5, clip_on=False, label="silent")
    ticks = np.unique(np.append(np.arange(0, len(place), max(len(place) // 12, 1)), len(place) - 1)[:-1])
    axes.set_xticks(ticks, [session.channels[tick] for tick in ticks])
    axes.set(xlabel="channel, in the order of the electrodes", ylabel="rate, Hz", xlim=(-1, len(place)))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, ncols=6, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, handlelength=1)


def _draw_raster(axes: plt.Axes, session: Session, start: float, stop: float) -> None:
    """A line of marks for each unit, in the order of the electrodes, upwards; hash lighter."""
    rows, areas = session.units["row"].to_numpy(), session.units["area"].to_numpy()
    for hashed in (True, False):
        units = np.flatnonzero((rows == 0) == hashed)
        shown = [session.spike_times[unit] for unit in units]
        shown = [times[(times >= start) & (times < stop)] for times in shown]
        heights = np.repeat(units, [len(times) for times in shown])
        times = np.concatenate([*shown, []])
        color = "0.55" if hashed else SORTED[0]
        # not snapped: where a unit has but one pixel, snapping would make every tenth one vanish
        axes.vlines(times, heights - 0.45, heights + 0.45, color=color, linewidth=0.8, snap=False)
    for border in np.flatnonzero(areas[1:] != areas[:-1]):
        axes.axhline(border + 0.5, **BORDER)
    ticks = np.unique(np.linspace(0, len(rows) - 1, 7).astype(int))[: len(rows)]
    axes.set_yticks(ticks, [session.units["channel"][tick] for tick in ticks])
    axes.set(xlim=(start, stop), ylim=(-1, max(len(rows), 1)), ylabel="unit, by channel")
    axes.set_xlabel("time of the recording, s: the shaded part of what follows")


def _draw_positions(both: list[plt.Axes], session: Session, start: float, stop: float) -> None:
    shown = (session.t >= start) & (session.t <= stop)
    for axes, column, axis in zip(both, (0, 1), "xy", strict=True):
        axes.plot(session.t[shown], session.target_pos[shown, column], **TRUE | {"label": "target"})
        axes.plot(session.t[shown], session.cursor_pos[shown, column], **CURSOR)
        axes.plot(session.t[shown], session.finger_pos[shown, column], **DECODED | {"label": "finger"})
        axes.set(xlim=(start, stop), ylabel=f"{axis}, mm")
    both[0].legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
    both[0].tick_params(labelbottom=False)
    both[1].set_xlabel("time of the recording, s")


def save_figure(figure: plt.Figure, path: Path) -> None:
    """As PNG, whole or not at all; the figure is closed."""
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)
