"""Figures of the explanation of LayerNorm; all readable in gray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator, ScalarFormatter

from bci_decode.style import PLATEAU, model_looks, save_figure

DERIVATIVE, AFTER = "#b5460f", "#1a3a9c"
MARKS = ("s", "o")  # of models, in their order
NOT_REACHED: dict[str, Any] = {"marker": "^", "markersize": 9, "markerfacecolor": "white"}


def draw_functions(path: Path, band: float) -> None:
    """Sigmoid and tanh, and their derivatives: outside the shaded band both slopes are small."""
    x = np.linspace(-10, 10, 801)
    sigmoid, tanh = 1 / (1 + np.exp(-x)), np.tanh(x)
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    curves = {"sigmoid": (sigmoid, sigmoid * (1 - sigmoid)), "tanh": (tanh, 1 - tanh**2)}
    for axes, (name, (value, slope)) in zip(panels, curves.items(), strict=True):
        draw_band(axes, band)
        axes.plot(x, value, color="black", label="the function")
        axes.plot(x, slope, color=DERIVATIVE, linestyle="--", label="its derivative")
        at_band = np.interp(band, x, slope)
        title = f"{name}: slope {at_band:.4f} at ±{band:g}, {slope.max():.2f} at 0"
        axes.set(xlabel="pre-activation", title=title)
        axes.set_xticks([-10, -band, 0, band, 10])
        axes.margins(x=0)
    legend_below(figure, panels[0])
    save_figure(figure, path)


def draw_distributions(
    path: Path, before: dict[str, np.ndarray], after: dict[str, np.ndarray], title: str, band: float
) -> None:
    """Pre-activations of one bin by their name, a panel each, before and after LayerNorm."""
    figure = Figure(figsize=(5 * len(before), 4), layout="constrained")
    panels = figure.subplots(1, len(before), sharey=True, squeeze=False)[0]
    edges = np.linspace(-32, 32, 129)
    step: dict[str, Any] = {"color": AFTER, "histtype": "step", "linewidth": 1.5}
    for axes, name in zip(panels, before, strict=True):
        draw_band(axes, band)
        axes.hist(before[name], edges, density=True, color="0.55", label="before")
        axes.hist(after[name], edges, density=True, label="after LayerNorm", **step)
        outside = [np.mean(np.abs(values[name]) > band) for values in (before, after)]
        axes.set(xlabel="pre-activation", xlim=(-32, 32))
        axes.set_xticks([-30, -20, -10, -band, band, 10, 20, 30])
        shares = f"outside ±{band:g}: {outside[0]:.3f} before, {outside[1]:.3f} after"
        axes.set_title(f"{name}\n{shares}")
    panels[0].set_ylabel("density")
    legend_below(figure, panels[0])
    figure.suptitle(title)
    save_figure(figure, path)


def draw_band(axes: Axes, band: float) -> None:
    """Shade where a gate learns well."""
    axes.axvspan(-band, band, label=f"within ±{band:g}", color="0.9", zorder=0)


def legend_below(figure: Figure, axes: Axes, columns: int | None = None) -> None:
    """One legend for all panels, with the entries of one of them, below the panels."""
    handles, labels = axes.get_legend_handles_labels()
    columns = columns or len(labels)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def draw_plateau(path: Path, table: pd.DataFrame, title: str, cap: int) -> None:
    """Optimizer steps to half the plateau against batch size and history, and epochs.

    A mark for each run, an arrow where half the plateau is not reached within `cap` steps.
    """
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    panels = figure.subplots(1, 3)
    fixed = table[table["varied"] == "both"].iloc[0]
    by_batch = f"history {fixed['history']} bins"
    by_history = f"batches of {fixed['batch_size']} windows"
    of_batch, of_history = "batch size, windows", "history, bins"
    steps = "steps of the optimizer to half the plateau"
    _draw_half(panels[0], table, "batch_size", in_steps=True)
    _draw_half(panels[1], table, "history", in_steps=True)
    _draw_half(panels[2], table, "batch_size", in_steps=False)
    panels[0].set(xlabel=of_batch, ylabel=steps, title=by_batch)
    panels[1].set(xlabel=of_history, title=by_history)
    panels[2].set(xlabel=of_batch, ylabel="the same in epochs", title=by_batch)
    limits = [axes.get_ylim() for axes in panels[:2]]
    for axes in panels[:2]:
        axes.axhline(cap, **PLATEAU)
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    label = f"not within {cap} steps"
    panels[0].plot([], [], color="0.4", linestyle="", label=label, **NOT_REACHED)
    legend_below(figure, panels[0])
    figure.suptitle(title)
    save_figure(figure, path)


def _draw_half(axes: Axes, table: pd.DataFrame, kind: str, in_steps: bool) -> None:
    """A line through the medians of each model's runs that reached it, and a mark for each run."""
    runs = table[table["varied"].isin((kind, "both")) & ~table["model"].str.contains(",")]
    unit = runs["steps_per_epoch"] if in_steps else 1
    reached = runs["half_plateau_epoch"].notna()
    heights = runs["half_plateau_epoch"].astype(float).fillna(runs["epochs"]) * unit
    for (model, look), mark in zip(model_looks(runs["model"]).items(), MARKS, strict=True):
        own, color = runs["model"] == model, {"color": look["color"]}
        axes.plot(heights[own].where(reached).groupby(runs[kind][own]).median(), **look)
        axes.plot(runs[kind][own & reached], heights[own & reached], mark, markersize=7, **color)
        above = own & ~reached
        axes.plot(runs[kind][above], heights[above], linestyle="", **color, **NOT_REACHED)
    axes.set_xscale("log")
    axes.set_xticks(sorted(set(runs[kind])), sorted(set(runs[kind])), minor=False)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()  # a decade at least
    axes.set_ylim(10 ** np.floor(np.log10(low)), max(high, 1.3 * heights.max()))
