"""Pictures of what LayerNorm does to a recurrent layer; all readable in grey.

Histories are `history.csv` of watched runs (`watch.Watch`), by model; layers go by the names of their weights, l0, l1, ...
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import NullFormatter

from bci_decode.plots import MODELS, PLATEAU, save_figure

GATES = ("update", "reset", "candidate")
INSIDE: dict[str, Any] = {"color": "0.93", "zorder": 0}
AFTER = "#1a3a9c"
MARKS = {"gru": "s", "lngru": "o"}


def draw_functions(path: Path, band: float) -> None:
    """Sigmoid and tanh, and their derivatives: outside the shaded band both slopes are next to nothing."""
    x = np.linspace(-10, 10, 801)
    sigmoid, tanh = 1 / (1 + np.exp(-x)), np.tanh(x)
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    curves = {"sigmoid": (sigmoid, sigmoid * (1 - sigmoid)), "tanh": (tanh, 1 - tanh**2)}
    for axes, (name, (value, slope)) in zip(panels, curves.items(), strict=True):
        axes.axvspan(-band, band, **INSIDE)
        axes.plot(x, value, color="black", label=name)
        axes.plot(x, slope, color="#b5460f", linestyle="--", label="its derivative")
        at_band = np.interp(band, x, slope)
        axes.set(xlabel="pre-activation", title=f"{name}: slope {at_band:.4f} at ±{band:g}, {slope.max():.2f} at 0")
        axes.legend(frameon=False, loc="upper left")
        axes.margins(x=0)
    save_figure(figure, path)


def draw_distributions(path: Path, before: dict[str, np.ndarray], after: dict[str, np.ndarray], band: float) -> None:
    """Pre-activations of one bin by their name, a panel each, before and after LayerNorm."""
    figure, panels = plt.subplots(1, len(before), figsize=(5 * len(before), 3.6), layout="constrained")
    for axes, name in zip(np.ravel(panels), before, strict=True):
        edges = np.linspace(-32, 32, 129)
        axes.axvspan(-band, band, **INSIDE)
        axes.hist(before[name], edges, density=True, color="0.6", label="before")
        axes.hist(
            after[name], edges, density=True, color=AFTER, histtype="step", linewidth=1.5, label="after LayerNorm"
        )
        outside = [np.mean(np.abs(values[name]) > band) for values in (before, after)]
        axes.set(xlabel="pre-activation", ylabel="density")
        axes.set_title(f"{name}\noutside ±{band:g}: {outside[0]:.3f} before, {outside[1]:.3f} after")
        axes.set_xlim(-32, 32)
        axes.legend(frameon=False)
    save_figure(figure, path)


def draw_pre_activations(
    path: Path, found: dict[str, dict[str, dict[str, dict[str, np.ndarray]]]], title: str, band: float
) -> None:
    """Densities; `found` by moment, model, layer, gate: a row of panels for each layer and moment, a column for a gate."""
    models = next(iter(found.values()))
    rows = [(moment, layer) for layer in next(iter(models.values())) for moment in found]
    everything = [found[moment][model][layer][gate] for moment, layer in rows for model in models for gate in GATES]
    limit = max(1.5 * band, *(float(np.quantile(np.abs(values), 0.9995)) for values in everything))
    edges = np.linspace(-limit, limit, 61)
    figure, grid = plt.subplots(
        len(rows), 3, figsize=(7.5, 1.1 * len(rows) + 1), layout="constrained", sharex=True, sharey=True
    )
    for line, (moment, layer) in zip(grid, rows, strict=True):
        for axes, gate in zip(line, GATES, strict=True):
            axes.axvspan(-band, band, **INSIDE)
            for model in models:
                density, _ = np.histogram(found[moment][model][layer][gate], edges, density=True)
                axes.plot((edges[1:] + edges[:-1]) / 2, np.where(density > 0, density, np.nan), **MODELS[model])
        line[0].set_ylabel(f"{layer}\n{moment}")
    grid[0, 0].set_yscale("log")
    grid[0, 0].set_ylim(1e-4, 10)
    grid[0, 0].yaxis.set_minor_formatter(NullFormatter())
    _name_columns(figure, grid, GATES, "pre-activation")
    figure.supylabel("density", fontsize="medium")
    figure.suptitle(title, fontsize="medium")
    save_figure(figure, path)


def _name_columns(figure: plt.Figure, grid: np.ndarray, titles, below: str) -> None:
    """A title over each column of panels, what is on the x axis below each, and one legend of the models for all."""
    for axes, name in zip(grid[0], titles, strict=True):
        axes.set_title(name, fontsize="small" if len(grid[0]) > 3 else "medium")
    for axes in grid[-1]:
        axes.set_xlabel(below)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)


def draw_shares(path: Path, histories: dict[str, pd.DataFrame], title: str, band: float) -> None:
    """The share of pre-activations outside the band against epoch: a row for each layer, a column for each gate."""
    layers = layers_of(histories)
    figure, grid = plt.subplots(len(layers), 3, figsize=(9, 1.9 * len(layers) + 1), layout="constrained", squeeze=False, sharex=True)  # fmt: skip
    for line, layer in zip(grid, layers, strict=True):
        for axes, gate in zip(line, GATES, strict=True):
            for model, history in histories.items():
                axes.plot(history["epoch"], 100 * history[f"outside_{layer}_{gate}"], **MODELS[model])
            axes.set_ylim(bottom=0)
            axes.set_ylim(top=max(axes.get_ylim()[1], 1))
            axes.margins(x=0.02)
        line[0].set_ylabel(f"{layer}: % outside ±{band:g}")
    _name_columns(figure, grid, GATES, "epoch (0: untrained)")
    figure.suptitle(title)
    save_figure(figure, path)


def draw_norms(path: Path, histories: dict[str, pd.DataFrame], title: str) -> None:
    """Gradient norms, growth of the recurrent weights' norm, and the step relative to it, against epoch, by layer."""
    layers = layers_of(histories)
    figure, grid = plt.subplots(len(layers), 4, figsize=(10.5, 2 * len(layers) + 1), layout="constrained", squeeze=False, sharex=True)  # fmt: skip
    for line, layer in zip(grid, layers, strict=True):
        for model, history in histories.items():
            for axes, values in zip(line, norm_curves(history, layer).values(), strict=True):
                axes.plot(history["epoch"], values, **MODELS[model])
        for axes in line[[0, 1, 3]]:
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
        line[0].set_ylabel(layer)
    for column in (
        0,
        1,
        3,
    ):  # one scale for all layers, and never less than a decade: a log axis wants a label at least
        low = min(axes.get_ylim()[0] for axes in grid[:, column])
        high = max(axes.get_ylim()[1] for axes in grid[:, column])
        for axes in grid[:, column]:
            axes.set_ylim(10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high)))
    _name_columns(figure, grid, norm_curves(next(iter(histories.values())), layers[0]), "epoch (0: untrained)")
    figure.suptitle(title)
    save_figure(figure, path)


def norm_curves(history: pd.DataFrame, layer: str) -> dict[str, pd.Series]:
    """Of one layer, by epoch. The relative step, rate x gradient / weights, is what plain SGD changes a weight matrix by."""
    gradient, weight = history[f"grad_norm_{layer}_hh"], history[f"weight_norm_{layer}_hh"]
    return {
        "gradient norm, input weights": history[f"grad_norm_{layer}_ih"],
        "gradient norm, recurrent weights": gradient,
        "growth of the recurrent weights, %": 100 * (weight / weight[0] - 1),
        "relative step, recurrent weights": history["lr"] * gradient / weight,
    }


def layers_of(histories: dict[str, pd.DataFrame]) -> list[str]:
    """The layers that watched histories have columns of."""
    columns = next(iter(histories.values())).columns
    return [
        name.split("_", 2)[2].rsplit("_", 1)[0]
        for name in columns
        if name.startswith("weight_norm_") and name.endswith("_hh")
    ]


def draw_plateau(path: Path, table: pd.DataFrame, title: str, cap: int) -> None:
    """Epochs to half the plateau against batch size and against history, a mark a run; open marks: not within `cap`."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    names = {"batch_size": "batch size, windows", "history": "history, bins"}
    for axes, (kind, name) in zip(panels, names.items(), strict=True):
        some = table[table["varied"].isin((kind, "both"))]
        for model, look in ((model, MODELS[model]) for model in MARKS):
            runs = some[some["model"] == model]
            epochs = runs["half_plateau_epoch"].astype(float).fillna(cap)
            axes.plot(epochs.groupby(runs[kind]).median(), **look)
            for within, fill in ((True, look["color"]), (False, "white")):
                those = runs["half_plateau_epoch"].notna() == within
                axes.plot(
                    runs[kind][those],
                    epochs[those],
                    MARKS[model],
                    color=look["color"],
                    markerfacecolor=fill,
                    markersize=7,
                )
        axes.axhline(cap, **PLATEAU)
        axes.set_xscale("log")
        axes.set_xticks(sorted(set(some[kind])), sorted(set(some[kind])), minor=False)
        axes.minorticks_off()
        axes.set(xlabel=name, ylim=(0, 1.08 * cap))
    fixed = table[table["varied"] == "both"].iloc[0]
    panels[0].set(ylabel="epochs to half the plateau", title=f"history {fixed['history']} bins")
    panels[1].set(title=f"batches of {fixed['batch_size']} windows")
    panels[0].plot([], [], "o", color="0.4", markerfacecolor="white", label=f"not within {cap}")
    panels[0].legend(frameon=False)
    figure.suptitle(title)
    save_figure(figure, path)
