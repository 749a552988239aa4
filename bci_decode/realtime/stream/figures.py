"""Figures of a stream: decoded against true path, and the latency of its bins."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bci_decode.config import TrajectoryConfig
from bci_decode.realtime.stream.loop import LiveSummary
from bci_decode.style import DECODED, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKS = {"p50": "-", "p95": "--", "p99": ":"}
MIN_BINS = 2  # that a path needs


def draw_stream(
    folder: Path, kind: str, summary: LiveSummary, decoded: dict[str, Any], title: str
) -> list[str]:
    """Draw latency, and the trajectory where the truth is known; returns the names of the files.

    `decoded` is as `runs.figures.trajectory_figure` takes it.
    """
    from bci_decode.runs.figures import trajectory_figure

    if not len(summary):
        return []
    save_figure(latency_figure(summary, title), folder / f"latency.{kind}")
    known = np.isfinite(decoded["true"]).all(axis=1)
    if known.sum() < MIN_BINS:
        return [f"latency.{kind}"]
    figure = trajectory_figure(decoded, title, TrajectoryConfig())
    save_figure(figure, folder / f"trajectory.{kind}")
    return [f"latency.{kind}", f"trajectory.{kind}"]


def latency_figure(summary: LiveSummary, title: str) -> Figure:
    """How many bins had which latency, with its percentiles and the deadline."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    microseconds = 1e6 * summary.latency
    found = summary.latency_us
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    low, high = np.log10([microseconds.min() * 0.9, microseconds.max() * 1.1])
    axes.hist(microseconds, np.logspace(low, high, 40).tolist(), color="0.75")
    for name, line in MARKS.items():
        label = f"{name}: {found[name]:.0f} µs"
        axes.axvline(found[name], color=DECODED["color"], linestyle=line, label=label)
    axes.plot([], [], " ", label=f"max: {found['max']:.0f} µs")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):  # plain numbers, few enough not to touch
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    if summary.deadline is not None:
        late = int(summary.missed.sum())
        label = f"deadline: {1e3 * summary.deadline:g} ms, missed by {late} of {len(summary)}"
        axes.axvline(1e6 * summary.deadline, color="#b5460f", label=label)
    axes.set_xlabel("latency of a bin, µs")
    axes.set_ylabel(f"bins of {len(summary)}")
    axes.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    figure.suptitle(textwrap.fill(title, 70), fontsize="medium")
    return figure
