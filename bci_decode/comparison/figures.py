"""Pictures of many runs: loss against epoch, and LN-GRU against GRU; a panel for each protocol, readable in grey."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from bci_decode.comparison.finished_runs import Group
from bci_decode.comparison.tables import pairs, run_table
from bci_decode.data.catalog import monkeys
from bci_decode.style import MODELS, PLATEAU, loss_limit, save_figure

MANY = 9  # lines from which on they are thin and pale
OTHERS = ("-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))  # models without a look of their own
AXES: dict[str, dict[str, Any]] = {"r2_x": {"marker": "o"}, "r2_y": {"marker": "^"}}
FILLS = ("#1a3a9c", "white", "0.75")  # the catalogue's monkeys in order, then whatever else


def draw_losses(groups: list[Group], path: Path) -> None:
    """Test loss against epoch, a line for each run; dotted, the plateau: the variance of the test part's target."""
    _draw_panels(groups, path, (7, 4.5), _draw_losses)


def _draw_losses(axes: plt.Axes, group: Group) -> None:
    models = sorted({run.metrics["model"] for run in group.runs})
    others = [model for model in models if model not in MODELS]
    many = len(group.runs) >= MANY
    weight = {"linewidth": 0.8, "alpha": 0.6} if many else {"linewidth": 1.5}
    for model in models:
        dash = {"color": "0.35", "linestyle": OTHERS[others.index(model) % len(OTHERS)]} if model in others else {}
        look = dash | {"label": model} | MODELS.get(model, {})
        for run in (run for run in group.runs if run.metrics["model"] == model):
            axes.plot(run.history["epoch"], run.history["test_loss"], **look | weight | {"label": None})
        axes.plot([], [], **look)
    plateaus = sorted({run.metrics["target_variance"]["test"] for run in group.runs})
    for plateau in plateaus:  # of many, but the beginning: lines all the way would hide the losses
        axes.axhline(plateau, xmax=0.05 if len(plateaus) > 3 else 1, **PLATEAU)
    axes.plot([], [], label="variance of the target", **PLATEAU)
    unit = group.runs[0].metrics["protocol"]["unit"]
    axes.set(xlabel="epoch (0: untrained)", ylabel=f"test loss, ({unit})²", title=_title(group))
    losses = [run.history["test_loss"] for run in group.runs]
    axes.set_ylim(0, loss_limit(plateaus[-1], min(loss.min() for loss in losses), max(loss.max() for loss in losses)))
    axes.margins(x=0.02)
    axes.legend(frameon=False)


def draw_scatter(groups: list[Group], path: Path) -> None:
    """Test R2 of the LN-GRU against that of the GRU, a mark for each session and axis: above the diagonal it is higher."""
    _draw_panels(groups, path, (6.5, 5), _draw_scatter)


def _draw_scatter(axes: plt.Axes, group: Group) -> None:
    known, fills = sorted(monkeys()), {}
    ends: list[float] = []
    for score, shape in AXES.items():
        both = pairs(run_table(group.runs), score).reset_index()
        for monkey, gru, lngru in both[["monkey", "gru", "lngru"]].itertuples(index=False):
            name, place = (monkey, known.index(monkey)) if monkey in known else ("other sessions", -1)
            fills[name] = FILLS[place]
            axes.plot(gru, lngru, **shape, color=FILLS[place], markeredgecolor="black", markersize=7, linestyle="")
            ends += [gru, lngru]
    target = group.runs[0].metrics["protocol"]["target"]
    axes.set(xlabel="test R² of the GRU", ylabel="test R² of the LN-GRU", title=_title(group))
    axes.set_aspect("equal")
    if not ends:
        axes.text(0.5, 0.5, "no session has both a GRU and an LN-GRU", ha="center", transform=axes.transAxes)
        return
    margin = 0.08 * max(max(ends) - min(ends), 0.1)
    limits = (min(ends) - margin, max(ends) + margin)
    axes.plot(limits, limits, **PLATEAU)
    axes.set(xlim=limits, ylim=limits)
    for score, shape in AXES.items():
        axes.plot([], [], **shape, color="white", markeredgecolor="black", linestyle="", label=f"{score[-1]} {target}")
    if len(fills) > 1 or "other sessions" not in fills:
        for name, fill in sorted(fills.items()):
            axes.plot([], [], "s", color=fill, markeredgecolor="black", label=name)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def _draw_panels(
    groups: list[Group], path: Path, size: tuple[float, float], draw: Callable[[plt.Axes, Group], None]
) -> None:
    columns = min(len(groups), 3)
    rows = -(-len(groups) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(size[0] * columns, size[1] * rows), layout="constrained", squeeze=False
    )
    panels = list(np.ravel(grid))
    for spare in panels[len(groups) :]:
        spare.remove()
    for axes, group in zip(panels, groups, strict=False):
        draw(axes, group)
    save_figure(figure, path)


def _title(group: Group) -> str:
    sessions = sorted({run.metrics["session"] for run in group.runs})
    seeds = sorted({run.metrics["seed"] for run in group.runs})
    first = sessions[0] if len(sessions) == 1 else f"{len(sessions)} sessions"
    return f"{group.name}:\n" * bool(group.differs) + (
        f"{group.runs[0].metrics['experiment']}: " * (not group.differs)
        + f"{first}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    )
