"""The picture of a session: rates per channel, a raster and the hand's movement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from bci_decode.data.measures import unit_rates
from bci_decode.data.session import Session, area_of, sources
from bci_decode.style import DECODED, TRUE, save_figure

CURSOR: dict[str, Any] = {
    "color": "#b5460f",
    "linestyle": "--",
    "linewidth": 1.2,
    "label": "cursor",
}
HASH, SORTED = "0.8", ("#10245f", "#2f55c4", "#6a86d8", "#9db0e6")  # by row; hash is lightest
BORDER: dict[str, Any] = {"color": "black", "linestyle": ":", "linewidth": 1}  # between areas
LEGEND: dict[str, Any] = {
    "frameon": False,
    "loc": "lower right",
    "bbox_to_anchor": (1, 1),
    "borderaxespad": 0,
}


def draw_session(session: Session, path: Path) -> None:
    """Draw a session into a png, pdf or svg file."""
    save_figure(session_figure(session), path)


def session_figure(session: Session, raster: float = 10.0, seconds: float = 30.0) -> Figure:
    """Rates of the session; from its middle, `raster` s of spikes and `seconds` of movement."""
    # inches: a pixel at least for each unit
    height = min(max(0.011 * len(session.units), 2.0), 5.2)
    figure, (rates, spikes, *positions) = plt.subplots(
        4,
        1,
        figsize=(10, 6 + height),
        height_ratios=(1.8, height, 1.2, 1.2),
        layout="constrained",
    )
    first, last = session.t[[0, -1]]
    start = max(first, min((first + last) / 2, last - seconds))
    _draw_rates(rates, session)
    _draw_raster(spikes, session, start, min(start + raster, last))
    _draw_positions(positions, session, start, min(start + seconds, last))
    for axes in positions:
        axes.axvspan(start, start + raster, color="0.94", zorder=0)
    figure.align_ylabels()
    minutes = f"{session.duration / 60:.1f} minutes"
    figure.suptitle(f"{session.name}: {minutes}, {len(session.units)} units")
    return figure


def _draw_rates(axes: plt.Axes, session: Session) -> None:
    """A bar for each channel, in the order of the electrodes: hash below, sorted units above."""
    place = {name: index for index, name in enumerate(session.channels)}
    top, hz = np.zeros(len(place)), unit_rates(session)
    for row, units in session.units.groupby("row"):
        bars = units["channel"].map(place).to_numpy()
        rate = hz[units.index]
        color = HASH if row == 0 else SORTED[min(row, len(SORTED)) - 1]
        label = "unsorted (hash)" if row == 0 else f"sorted, row {row}"
        axes.bar(bars, rate, 0.85, top[bars], color=color, label=label)
        top[bars] += rate
    silent = np.flatnonzero(top == 0)
    if len(silent):  # without data, marks outside the axes would take all room of the layout
        marks: dict[str, Any] = {"color": "black", "markersize": 3.5, "clip_on": False}
        axes.plot(silent, np.zeros(len(silent)), "x", label="silent", **marks)
    areas = np.array([area_of(name) for name in session.channels])
    for border in np.flatnonzero(areas[1:] != areas[:-1]):
        axes.axvline(border + 0.5, **BORDER)
    regular = np.arange(0, len(place), max(len(place) // 12, 1))
    ticks = np.unique(np.append(regular, len(place) - 1)[:-1])
    axes.set_xticks(ticks, [session.channels[tick] for tick in ticks])
    axes.set(xlabel="channel, in the order of the electrodes", ylabel="rate, Hz")
    axes.set_xlim(-1, len(place))
    axes.set_ylim(bottom=0)
    axes.legend(ncols=6, handlelength=1, **LEGEND)


def _draw_raster(axes: plt.Axes, session: Session, start: float, stop: float) -> None:
    """A row of marks for each unit, upwards in the order of the electrodes; hash is lighter."""
    rows, areas = session.units["row"].to_numpy(), session.units["area"].to_numpy()
    for is_hash in (True, False):
        units = np.flatnonzero((rows == 0) == is_hash)
        trains = [session.spike_times[unit] for unit in units]
        trains = [times[(times >= start) & (times < stop)] for times in trains]
        heights = np.repeat(units, [len(times) for times in trains])
        times = np.concatenate([*trains, []])
        color = "0.55" if is_hash else SORTED[0]
        # Not snapped: where a unit has only one pixel, snapping would hide every tenth unit.
        axes.vlines(times, heights - 0.45, heights + 0.45, color=color, linewidth=0.8, snap=False)
    for border in np.flatnonzero(areas[1:] != areas[:-1]):
        axes.axhline(border + 0.5, **BORDER)
    ticks = np.unique(np.linspace(0, len(rows) - 1, 7).astype(int))[: len(rows)]
    axes.set_yticks(ticks, [session.units["channel"][tick] for tick in ticks])
    axes.set(xlim=(start, stop), ylim=(-1, max(len(rows), 1)), ylabel="unit, by channel")
    axes.set_xlabel("time of the recording, s: the shaded part of the panels below")


def _draw_positions(panels: list[plt.Axes], session: Session, start: float, stop: float) -> None:
    shown = (session.t >= start) & (session.t <= stop)
    looks = [("target_pos", TRUE | {"label": "target"}), ("cursor_pos", CURSOR)]
    looks.append(("finger_pos", DECODED | {"label": "finger"}))
    if not any(name in session.series for name, _ in looks[1:]):
        other = sources(session)[0]
        looks = [(other, DECODED | {"label": other.rsplit("/", 1)[-1]})]
    drawn = [(session.series[name], look) for name, look in looks if name in session.series]
    unit = "mm/s" if any(series.order for series, _ in drawn) else "mm"
    unit = next((series.unit for series, _ in drawn if series.unit), unit)
    for axes, column, axis in zip(panels, (0, 1), "xy", strict=True):
        for series, look in drawn:
            axes.plot(session.t[shown], series.values[shown, column], **look)
        axes.set(xlim=(start, stop), ylabel=f"{axis}, {unit}")
    panels[0].legend(ncols=3, **LEGEND)
    panels[0].tick_params(labelbottom=False)
    panels[1].set_xlabel("time of the recording, s")
