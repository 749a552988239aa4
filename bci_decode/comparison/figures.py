"""Figures of many runs: loss against epoch, and R2 of models against that of a baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from bci_decode.comparison.finished_runs import Run
from bci_decode.comparison.groups import ProtocolGroup
from bci_decode.comparison.intervals import Resampled
from bci_decode.comparison.pairs import matched_runs, model_pairs, paired_scores
from bci_decode.comparison.tables import MAX_LISTED
from bci_decode.data.catalog import monkeys
from bci_decode.style import (
    BIDIRECTIONAL,
    OTHER_COLORS,
    OTHER_LINES,
    PLATEAU,
    loss_limit,
    model_label,
    model_looks,
    save_figure,
)

Look = dict[str, Any]
AXES: dict[str, Look] = {"r2_x": {"marker": "o"}, "r2_y": {"marker": "^"}}
FILLS = ("full", "none", "left")  # monkeys in the order of their names, then other sessions
MAX_PLATEAUS = 3  # lines across the whole panel; more of them would hide the losses
TITLE_WIDTH = 60  # characters


def draw_losses(groups: list[ProtocolGroup], path: Path) -> None:
    """Test loss against epoch, a line for each run; dotted, the variance of the target."""
    _draw_panels(groups, path, (8, 4.5), _draw_losses)


def _draw_losses(axes: Axes, group: ProtocolGroup) -> None:
    for run, look in _run_looks(group):
        if run.closed_form:
            axes.axhline(run.metrics["loss"]["test"], **look)
        else:
            axes.plot(run.history["epoch"], run.history["test_loss"], **look)
    if len(group.runs) > MAX_LISTED:
        for look in model_looks(group.models).values():
            axes.plot([], [], **look)
    plateaus = sorted({run.plateau for run in group.runs})
    for plateau in plateaus:  # of many only the beginning
        axes.axhline(plateau, xmax=0.05 if len(plateaus) > MAX_PLATEAUS else 1, **PLATEAU)
    axes.plot([], [], label="variance of the target", **PLATEAU)
    unit = group.runs[0].metrics["protocol"]["unit"]
    axes.set(xlabel="epoch (0: untrained)", ylabel=f"test loss, ({unit})²", title=_title(group))
    losses = [_finite_losses(run) for run in group.runs]
    lowest, highest = min(min(one) for one in losses), max(max(one) for one in losses)
    axes.set_ylim(0, loss_limit(plateaus[-1], lowest, highest))
    axes.margins(x=0.02)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")


def _finite_losses(run: Run) -> list[float]:
    return [run.metrics["loss"]["test"], *run.history["test_loss"].dropna()]


def _run_looks(group: ProtocolGroup) -> Iterator[tuple[Run, Look]]:
    """Each run with its line: of few runs all lines differ, of many only those of the models."""
    looks = model_looks(group.models)
    for model in group.models:
        runs = group.of_model(model)
        for number, run in enumerate(runs):
            look = looks[model] | {"linewidth": 1.5, "label": _run_label(run, group)}
            if len(group.runs) > MAX_LISTED:
                look |= {"linewidth": 0.8, "alpha": 0.6, "label": None}
            elif len(runs) == len(group.runs) > 1:
                color = OTHER_COLORS[number % len(OTHER_COLORS)]
                look |= {"color": color, "linestyle": OTHER_LINES[number % len(OTHER_LINES)]}
            else:
                look["color"] = _lighter(look["color"], 0.65 * number / len(runs))
            yield run, look


def _run_label(run: Run, group: ProtocolGroup) -> str:
    """The model, with session and seed where they tell runs apart."""
    parts = [model_label(run.model)]
    if len({other.metrics["session"] for other in group.runs}) > 1:
        parts.append(str(run.metrics["session"]))
    if len({other.metrics["seed"] for other in group.runs}) > 1:
        parts.append(f"seed {run.metrics['seed']}")
    if run.cut is not None:
        parts.append(f"cut {run.cut}")
    return ", ".join(parts)


def _lighter(color: Any, share: float) -> tuple[float, ...]:
    """A color mixed with a share of white."""
    return tuple(channel + share * (1 - channel) for channel in to_rgb(color))


def draw_scatter(groups: list[ProtocolGroup], path: Path, baseline: str) -> None:
    """Test R2 of models against the baseline's, a mark for each session and axis.

    Above the diagonal a model is better than the baseline. The lines through a mark are the 95 %
    intervals of both scores.
    """
    _draw_panels(groups, path, (6.5, 4.6), lambda *panel: _draw_scatter(baseline, *panel))


def _draw_scatter(baseline: str, axes: Axes, group: ProtocolGroup) -> None:
    resampled, looks = Resampled(group), model_looks(group.models)
    table, any_ranges = resampled.table, False
    pairs = model_pairs(group.models, baseline)
    label, others = model_label(baseline), [model_label(model) for model, _ in pairs]
    above = others[0] if len(others) == 1 else "other models"
    axes.set(xlabel=f"test R² of {label}", ylabel=f"test R² of {above}", title=_title(group))
    axes.set_aspect("equal")
    fills = _fills(table["monkey"])
    ends: list[float] = []
    for model, base in pairs:
        if model.endswith(BIDIRECTIONAL):  # a look differs from that of one direction by its line
            looks[model]["color"] = _lighter(looks[model]["color"], 0.5)
        style = {"color": looks[model]["color"], "linestyle": "", "markersize": 8}
        # of the runs that make the mark
        ranges = resampled.session_intervals(matched_runs(table, model, base))
        any_ranges = any_ranges or bool(ranges)
        for score, shape in AXES.items():
            scores = paired_scores(table, score, model, base).reset_index()
            columns = ["monkey", "session", "model", "base"]
            for monkey, session, y, x in scores[columns].itertuples(index=False):
                line = {"color": style["color"], "linewidth": 0.8, "alpha": 0.5}
                across, up = (ranges.get((session, name, score), ()) for name in (base, model))
                axes.plot(across, [y] * len(across), **line)
                axes.plot([x] * len(up), up, **line)
                axes.plot(x, y, **shape, **style, fillstyle=fills[monkey])
                ends += [x, y, *across, *up]
    if not ends:
        text = f"no session has both\n{label} and another model"
        axes.text(0.5, 0.5, text, ha="center", transform=axes.transAxes)
        return
    margin = 0.08 * max(max(ends) - min(ends), 0.1)
    limits = (min(ends) - margin, max(ends) + margin)
    axes.plot(limits, limits, **PLATEAU)
    axes.set(xlim=limits, ylim=limits)
    _explain_marks(
        axes, group.target, {model: looks[model] for model, _ in pairs}, fills, any_ranges
    )


def _fills(names: Iterable[str]) -> dict[str, str]:
    """How marks are filled by monkey; alike if all sessions are of one kind."""
    known = sorted(monkeys())
    places = {name: known.index(name) if name in known else len(known) for name in set(names)}
    if len(set(places.values())) == 1:
        return dict.fromkeys(places, FILLS[0])
    return {name: FILLS[place] for name, place in places.items()}


def _explain_marks(
    axes: Axes, target: str, looks: dict[str, Look], fills: dict[str, str], intervals: bool
) -> None:
    for look in looks.values():
        axes.plot([], [], "s", color=look["color"], label=look["label"])
    gray: Look = {"color": "0.4", "linestyle": ""}
    for score, shape in AXES.items():
        axes.plot([], [], **shape, **gray, label=f"{score[-1]} {target}")
    if intervals:
        axes.plot([], [], color="0.4", linewidth=0.8, alpha=0.5, label="95 % interval")
    if len(set(fills.values())) > 1:
        known = {
            name if name in monkeys() else "other sessions": how for name, how in fills.items()
        }
        for name, how in sorted(known.items()):
            axes.plot([], [], "D", **gray, fillstyle=how, label=name)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")


def _draw_panels(
    groups: list[ProtocolGroup],
    path: Path,
    size: tuple[float, float],
    draw: Callable[[Axes, ProtocolGroup], None],
) -> None:
    """A panel for each group, two in a row."""
    columns = min(len(groups), 2)
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    panels = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for spare in panels[len(groups) :]:
        spare.remove()
    for axes, group in zip(panels, groups, strict=False):
        draw(axes, group)
    save_figure(figure, path)


def _title(group: ProtocolGroup) -> str:
    """Name of the group, sessions and seeds, wrapped to the width of a panel."""
    sessions = sorted({run.metrics["session"] for run in group.runs})
    seeds = sorted({run.metrics["seed"] for run in group.runs})
    first = sessions[0] if len(sessions) == 1 else f"{len(sessions)} sessions"
    runs = f"{first}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    if cuts := {run.cut for run in group.runs} - {None}:
        runs += f", {len(cuts)} cuts"
    return fill(group.name, TITLE_WIDTH) + "\n" + fill(runs, TITLE_WIDTH)
