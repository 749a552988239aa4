"""Pictures of what LayerNorm does to a recurrent layer; all readable in grey.

Histories are `history.csv` of watched runs (`watch.Watch`), by model; layers go by the names of their weights, l0, l1, ...,
and are shown as layer 1, layer 2, ...
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import NullFormatter, NullLocator, ScalarFormatter

from bci_decode.style import MODELS, PLATEAU, save_figure

INSIDE: dict[str, Any] = {"color": "0.9", "zorder": 0}
AFTER = "#1a3a9c"
MARKS = {"gru": "s", "lngru": "o"}
RELATIVE = "relative step, recurrent weights"


def layer_title(name: str) -> str:
    """l0 as layer 1, l1_reverse as layer 2, reverse."""
    number, _, way = name.removeprefix("l").partition("_")
    return f"layer {int(number) + 1}" + f", {way}" * bool(way)


def draw_functions(path: Path, band: float) -> None:
    """Sigmoid and tanh, and their derivatives: outside the shaded band both slopes are next to nothing."""
    x = np.linspace(-10, 10, 801)
    sigmoid, tanh = 1 / (1 + np.exp(-x)), np.tanh(x)
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    curves = {"sigmoid": (sigmoid, sigmoid * (1 - sigmoid)), "tanh": (tanh, 1 - tanh**2)}
    for axes, (name, (value, slope)) in zip(panels, curves.items(), strict=True):
        axes.axvspan(-band, band, label=_band(band), **INSIDE)
        axes.plot(x, value, color="black", label="the function")
        axes.plot(x, slope, color="#b5460f", linestyle="--", label="its derivative")
        at_band = np.interp(band, x, slope)
        axes.set(
            xlabel="pre-activation",
            title=f"{name}: slope {at_band:.4f} at ±{band:g}, {slope.max():.2f} at 0",
        )
        axes.set_xticks([-10, -band, 0, band, 10])
        axes.margins(x=0)
    _legend_below(figure, panels[0])
    save_figure(figure, path)


def draw_distributions(
    path: Path, before: dict[str, np.ndarray], after: dict[str, np.ndarray], title: str, band: float
) -> None:
    """Pre-activations of one bin by their name, a panel each, before and after LayerNorm."""
    figure, panels = plt.subplots(
        1,
        len(before),
        figsize=(5 * len(before), 4),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    edges = np.linspace(-32, 32, 129)
    for axes, name in zip(panels[0], before, strict=True):
        axes.axvspan(-band, band, label=_band(band), **INSIDE)
        axes.hist(before[name], edges, density=True, color="0.55", label="before")
        axes.hist(after[name], edges, density=True, color=AFTER, histtype="step", linewidth=1.5, label="after LayerNorm")  # fmt: skip
        outside = [np.mean(np.abs(values[name]) > band) for values in (before, after)]
        axes.set(xlabel="pre-activation", xlim=(-32, 32))
        axes.set_xticks([-30, -20, -10, -band, band, 10, 20, 30])
        axes.set_title(
            f"{name}\noutside ±{band:g}: {outside[0]:.3f} before, {outside[1]:.3f} after"
        )
    panels[0, 0].set_ylabel("density")
    _legend_below(figure, panels[0, 0])
    figure.suptitle(title)
    save_figure(figure, path)


def draw_pre_activations(
    path: Path,
    found: dict[str, dict[str, dict[str, dict[str, np.ndarray]]]],
    title: str,
    band: float,
) -> None:
    """Densities; `found` by moment, model, layer, gate: a row of panels for each layer and moment, a column for a gate."""
    models = next(iter(found.values()))
    layers = next(iter(models.values()))
    gates = list(next(iter(layers.values())))
    rows = [(moment, layer) for layer in layers for moment in found]
    everything = [
        found[moment][model][layer][gate]
        for moment, layer in rows
        for model in models
        for gate in gates
    ]
    limit = max(1.5 * band, *(float(np.quantile(np.abs(values), 0.9995)) for values in everything))
    edges = np.linspace(-limit, limit, 61)
    figure, grid = plt.subplots(
        len(rows),
        len(gates),
        figsize=(7.5, 1.1 * len(rows) + 1),
        layout="constrained",
        sharex=True,
        sharey=True,
    )
    for line, (moment, layer) in zip(grid, rows, strict=True):
        for axes, gate in zip(line, gates, strict=True):
            axes.axvspan(-band, band, label=_band(band), **INSIDE)
            for model in models:
                density, _ = np.histogram(found[moment][model][layer][gate], edges, density=True)
                axes.plot(
                    (edges[1:] + edges[:-1]) / 2,
                    np.where(density > 0, density, np.nan),
                    **MODELS[model],
                )
        line[0].set_ylabel(f"{layer_title(layer)}\n{moment}")
    grid[0, 0].set_yscale("log")
    grid[0, 0].set_ylim(1e-4, 10)
    grid[0, 0].set_xticks([-band, 0, band])
    grid[0, 0].yaxis.set_minor_formatter(NullFormatter())
    _name_columns(figure, grid, gates, ["pre-activation"] * len(gates))
    figure.supylabel("density", fontsize="medium")
    figure.suptitle(title, fontsize="medium")
    save_figure(figure, path)


def _band(band: float) -> str:
    return f"within ±{band:g}"


def _legend_below(figure: plt.Figure, axes: plt.Axes) -> None:
    """One legend for all panels, of what one of them shows, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)


def _name_columns(figure: plt.Figure, grid: np.ndarray, titles, below) -> None:
    """A title over each column of panels, what is on the x axis below each, and one legend for all."""
    for axes, name in zip(grid[0], titles, strict=True):
        axes.set_title(name, fontsize="small" if len(grid[0]) > 3 else "medium")
    for axes, name in zip(grid[-1], below, strict=True):
        axes.set_xlabel(name)
    _legend_below(figure, grid[0, 0])


def draw_shares(path: Path, histories: dict[str, pd.DataFrame], title: str, band: float) -> None:
    """The share of pre-activations outside the band against epoch: a row for each layer, a column for each gate."""
    layers = layers_of(histories)
    first, prefix = next(iter(histories.values())), f"outside_{layers[0]}_"
    gates = [
        name.removeprefix(prefix)
        for name in first.columns
        if name.startswith(prefix) and name.count("_") == 2
    ]
    figure, grid = plt.subplots(
        len(layers), len(gates), figsize=(9, 1.9 * len(layers) + 1), layout="constrained", squeeze=False, sharex=True, sharey=True,
    )  # fmt: skip
    highest = 1.0
    for line, layer in zip(grid, layers, strict=True):
        for axes, gate in zip(line, gates, strict=True):
            for model, history in histories.items():
                shares = 100 * history[f"outside_{layer}_{gate}"]
                axes.plot(history["epoch"], shares, **MODELS[model])
                highest = max(highest, 1.08 * shares.max())
            zero = [MODELS[model]["label"] for model, own in histories.items() if not own[f"outside_{layer}_{gate}"].any()]  # fmt: skip
            if zero:
                axes.text(0.97, 0.93, f"{', '.join(zero)}: 0 throughout", ha="right", va="top", transform=axes.transAxes, fontsize="small")  # fmt: skip
            axes.margins(x=0.02)
        line[0].set_ylabel(f"{layer_title(layer)}\n% outside ±{band:g}")
    grid[0, 0].set_ylim(-0.02 * highest, 1.1 * highest)
    _name_columns(figure, grid, gates, ["epoch (0: untrained)"] * len(gates))
    figure.suptitle(title)
    save_figure(figure, path)


def draw_norms(path: Path, histories: dict[str, pd.DataFrame], title: str, plain_sgd: bool) -> None:
    """Gradient norms, growth of the recurrent weights' norm and, of plain SGD, the step relative to it, by layer."""
    layers = layers_of(histories)
    kinds = list(norm_curves(next(iter(histories.values())), layers[0], plain_sgd))
    figure, grid = plt.subplots(
        len(layers), len(kinds), figsize=(2.7 * len(kinds), 2 * len(layers) + 1), layout="constrained", squeeze=False, sharex=True,
    )  # fmt: skip
    for line, layer in zip(grid, layers, strict=True):
        for model, history in histories.items():
            for axes, values in zip(
                line, norm_curves(history, layer, plain_sgd).values(), strict=True
            ):
                axes.plot(history["epoch"], values, **MODELS[model])
        line[0].set_ylabel(layer_title(layer))
    below = []
    for column, kind in zip(grid.T, kinds, strict=True):
        grows = kind.startswith("growth")
        below.append("epoch (0: untrained)" if grows else "epoch")
        if not grows:
            _share_log_scale(column)
    _name_columns(figure, grid, kinds, below)
    figure.suptitle(title)
    save_figure(figure, path)


def _share_log_scale(panels: np.ndarray) -> None:
    """One scale for all layers, and never less than a decade: a log axis wants a label at least."""
    for axes in panels:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    low = min(axes.get_ylim()[0] for axes in panels)
    high = max(axes.get_ylim()[1] for axes in panels)
    for axes in panels:
        axes.set_ylim(10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high)))


def norm_curves(history: pd.DataFrame, layer: str, plain_sgd: bool) -> dict[str, pd.Series]:
    """Of one layer, by epoch. The relative step, rate x gradient / weights, is what SGD changes a weight matrix by where
    there is no momentum and no clipping; of other training it is left out."""
    gradient, weight = history[f"grad_norm_{layer}_hh"], history[f"weight_norm_{layer}_hh"]
    curves = {
        "gradient norm, input weights": history[f"grad_norm_{layer}_ih"],
        "gradient norm, recurrent weights": gradient,
        "growth of the recurrent weights, %": 100 * (weight / weight[0] - 1),
    }
    return curves | ({RELATIVE: history["lr"] * gradient / weight} if plain_sgd else {})


def layers_of(histories: dict[str, pd.DataFrame]) -> list[str]:
    """The layers that watched histories have columns of."""
    columns = next(iter(histories.values())).columns
    return [
        name.split("_", 2)[2].rsplit("_", 1)[0]
        for name in columns
        if name.startswith("weight_norm_") and name.endswith("_hh")
    ]


def draw_plateau(path: Path, table: pd.DataFrame, title: str, cap: int) -> None:
    """Optimiser steps to half the plateau against batch size and history, and epochs against batch size; a mark a run,
    arrows where it is not reached within `cap` steps."""
    figure, panels = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
    fixed = table[table["varied"] == "both"].iloc[0]
    by_batch, by_history = (
        f"history {fixed['history']} bins",
        f"batches of {fixed['batch_size']} windows",
    )
    of_batch, of_history = "batch size, windows", "history, bins"
    _draw_half(panels[0], table, "batch_size", in_steps=True)
    _draw_half(panels[1], table, "history", in_steps=True)
    _draw_half(panels[2], table, "batch_size", in_steps=False)
    panels[0].set(
        xlabel=of_batch, ylabel="steps of the optimiser to half the plateau", title=by_batch
    )
    panels[1].set(xlabel=of_history, title=by_history)
    panels[2].set(xlabel=of_batch, ylabel="the same in epochs", title=by_batch)
    for axes in panels[:2]:
        axes.axhline(cap, **PLATEAU)
    steps = [axes.get_ylim() for axes in panels[:2]]
    for axes in panels[:2]:
        axes.set_ylim(min(low for low, _ in steps), max(high for _, high in steps))
    panels[0].plot([], [], "^", color="0.4", markerfacecolor="white", markersize=9, linestyle="", label=f"not within {cap} steps")  # fmt: skip
    _legend_below(figure, panels[0])
    figure.suptitle(title)
    save_figure(figure, path)


def _draw_half(axes: plt.Axes, table: pd.DataFrame, kind: str, in_steps: bool) -> None:
    """A line through the medians of each model's runs that reached it, full marks, and arrows at where a run was given up."""
    some = table[table["varied"].isin((kind, "both"))]
    unit = some["steps_per_epoch"] if in_steps else 1
    reached = some["half_plateau_epoch"].notna()
    heights = some["half_plateau_epoch"].astype(float).fillna(some["epochs"]) * unit
    for model in MARKS:
        look, own = MODELS[model], some["model"] == model
        axes.plot(heights[own].where(reached).groupby(some[kind][own]).median(), **look)
        axes.plot(
            some[kind][own & reached],
            heights[own & reached],
            MARKS[model],
            color=look["color"],
            markersize=7,
        )
        up = own & ~reached
        axes.plot(
            some[kind][up],
            heights[up],
            "^",
            color=look["color"],
            markersize=9,
            markerfacecolor="white",
        )
    axes.set_xscale("log")
    axes.set_xticks(sorted(set(some[kind])), sorted(set(some[kind])), minor=False)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()  # a decade at least
    axes.set_ylim(10 ** np.floor(np.log10(low)), max(high, 1.3 * heights.max()))
