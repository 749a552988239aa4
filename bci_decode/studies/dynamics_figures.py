"""Figures of recurrent layers while they are trained; all readable in gray.

Histories are `history.csv` of runs with `trainer.monitor_layers=true`, by model. A layer has the
name that its weights end in, l0, l1, ..., and is shown as layer 1, layer 2, ...
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from bci_decode.studies.figures import draw_band, legend_below
from bci_decode.style import model_label, model_looks, save_figure

RELATIVE = "relative step, recurrent weights"


def layer_title(name: str) -> str:
    """l0 as layer 1, l1_reverse as layer 2, reverse."""
    number, _, direction = name.removeprefix("l").partition("_")
    return f"layer {int(number) + 1}" + f", {direction}" * bool(direction)


def draw_pre_activations(
    path: Path,
    found: dict[str, dict[str, dict[str, dict[str, np.ndarray]]]],
    title: str,
    band: float,
) -> None:
    """Densities of pre-activations by model, moment, layer and gate.

    A row of panels for each layer and moment, a column for each gate.
    """
    moments = next(iter(found.values()))
    layers = next(iter(moments.values()))
    gates = list(next(iter(layers.values())))
    rows = [(moment, layer) for layer in layers for moment in moments]
    tails = [
        np.quantile(np.abs(found[model][moment][layer][gate]), 0.9995)
        for moment, layer in rows
        for model in found
        for gate in gates
    ]
    limit = max(1.5 * band, float(max(tails)))
    edges = np.linspace(-limit, limit, 61)
    figure = Figure(figsize=(7.5, 1.1 * len(rows) + 1), layout="constrained")
    grid = figure.subplots(len(rows), len(gates), sharex=True, sharey=True)
    looks = model_looks(found)
    for line, (moment, layer) in zip(grid, rows, strict=True):
        for axes, gate in zip(line, gates, strict=True):
            draw_band(axes, band)
            for model, own in found.items():
                density, _ = np.histogram(own[moment][layer][gate], edges, density=True)
                shown = np.where(density > 0, density, np.nan)
                axes.plot((edges[1:] + edges[:-1]) / 2, shown, **looks[model])
        line[0].set_ylabel(f"{layer_title(layer)}\n{moment}")
    grid[0, 0].set_yscale("log")
    grid[0, 0].set_ylim(1e-4, 10)
    grid[0, 0].set_xticks([-band, 0, band])
    grid[0, 0].yaxis.set_minor_formatter(NullFormatter())
    _name_columns(figure, grid, gates, ["pre-activation"] * len(gates))
    figure.supylabel("density", fontsize="medium")
    figure.suptitle(title, fontsize="medium")
    save_figure(figure, path)


def _name_columns(
    figure: Figure, grid: np.ndarray, titles: Iterable[str], below: Iterable[str]
) -> None:
    """A title over each column of panels, the label of its x axis, and one legend for all."""
    for axes, name in zip(grid[0], titles, strict=True):
        axes.set_title(name, fontsize="small" if len(grid[0]) > 3 else "medium")
    for axes, name in zip(grid[-1], below, strict=True):
        axes.set_xlabel(name)
    legend_below(figure, grid[0, 0])


def draw_shares(path: Path, histories: dict[str, pd.DataFrame], title: str, band: float) -> None:
    """The share of pre-activations outside the band against epoch, by layer and gate."""
    layers = monitored_layers(histories)
    prefix = f"saturated_{layers[0]}_"
    columns = [name for name in next(iter(histories.values())) if name.startswith(prefix)]
    gates = [name.removeprefix(prefix) for name in columns if name.count("_") == 2]
    figure = Figure(figsize=(9, 1.9 * len(layers) + 1), layout="constrained")
    grid = figure.subplots(len(layers), len(gates), squeeze=False, sharex=True, sharey=True)
    highest = 1.0
    for line, layer in zip(grid, layers, strict=True):
        for axes, gate in zip(line, gates, strict=True):
            shares = {m: 100 * own[f"saturated_{layer}_{gate}"] for m, own in histories.items()}
            _draw_share(axes, histories, shares)
            highest = max(highest, *(1.08 * values.max() for values in shares.values()))
        line[0].set_ylabel(f"{layer_title(layer)}\n% outside ±{band:g}")
    grid[0, 0].set_ylim(-0.02 * highest, 1.1 * highest)
    _name_columns(figure, grid, gates, ["epoch (0: untrained)"] * len(gates))
    figure.suptitle(title)
    save_figure(figure, path)


def _draw_share(
    axes: Axes, histories: dict[str, pd.DataFrame], shares: dict[str, pd.Series]
) -> None:
    looks = model_looks(histories)
    for model, values in shares.items():
        axes.plot(histories[model]["epoch"], values, **looks[model])
    zero = [model_label(model) for model, values in shares.items() if not values.any()]
    if zero:
        corner: dict[str, Any] = {"ha": "right", "va": "top", "transform": axes.transAxes}
        axes.text(0.97, 0.93, f"{', '.join(zero)}: 0 throughout", fontsize="small", **corner)
    axes.margins(x=0.02)


def draw_norms(path: Path, histories: dict[str, pd.DataFrame], title: str, plain_sgd: bool) -> None:
    """`norm_curves` against epoch, a row of panels for each layer."""
    layers, looks = monitored_layers(histories), model_looks(histories)
    kinds = list(norm_curves(next(iter(histories.values())), layers[0], plain_sgd))
    figure = Figure(figsize=(2.7 * len(kinds), 2 * len(layers) + 1), layout="constrained")
    grid = figure.subplots(len(layers), len(kinds), squeeze=False, sharex=True)
    for line, layer in zip(grid, layers, strict=True):
        for model, history in histories.items():
            curves = norm_curves(history, layer, plain_sgd).values()
            for axes, values in zip(line, curves, strict=True):
                axes.plot(history["epoch"], values, **looks[model])
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
    """One scale for all layers, of a decade or more, so that a log axis has a label."""
    for axes in panels:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    low = min(axes.get_ylim()[0] for axes in panels)
    high = max(axes.get_ylim()[1] for axes in panels)
    for axes in panels:
        axes.set_ylim(10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high)))


def norm_curves(history: pd.DataFrame, layer: str, plain_sgd: bool) -> dict[str, pd.Series]:
    """Gradient norms, growth of the weights and relative step of one layer, by epoch.

    The relative step, rate x gradient / weights, is what SGD without momentum and clipping changes
    a weight matrix by; of other training it is left out.
    """
    gradient, weight = history[f"grad_norm_{layer}_hh"], history[f"weight_norm_{layer}_hh"]
    curves = {
        "gradient norm, input weights": history[f"grad_norm_{layer}_ih"],
        "gradient norm, recurrent weights": gradient,
        "growth of the recurrent weights, %": 100 * (weight / weight[0] - 1),
    }
    return curves | ({RELATIVE: history["lr"] * gradient / weight} if plain_sgd else {})


def monitored_layers(histories: dict[str, pd.DataFrame]) -> list[str]:
    """The layers that the histories have columns of."""
    columns = next(iter(histories.values())).columns
    weights = [name.removeprefix("weight_norm_") for name in columns if "weight_norm_" in name]
    return [name.removesuffix("_hh") for name in weights if name.endswith("_hh")]
