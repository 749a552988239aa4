"""The picture of a session: rates per channel, a raster and the hand's movement."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np

from bci_decode.style import DECODED, TRUE, save_figure

if TYPE_CHECKING:
    from bci_decode.data.session import Session

CURSOR: dict[str, Any] = {"color": "#b5460f", "linestyle": "--", "linewidth": 1.2, "label": "cursor"}
HASH, SORTED = "0.8", ("#10245f", "#2f55c4", "#6a86d8", "#9db0e6")  # by row; darker than hash in grey too
BORDER: dict[str, Any] = {"color": "black", "linestyle": ":", "linewidth": 1}  # between areas


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
