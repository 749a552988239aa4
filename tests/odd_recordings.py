"""Hypothesis strategies for the variables of recordings: valid ones, and odd in many ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from recordings import recording

Variables = dict[str, Any]
Draw = Callable[[st.SearchStrategy], Any]

NUMERIC = ("t", "cursor_pos", "target_pos", "finger_pos")
DTYPES = ("f2", "f4", "f8", "g", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c16")
EXTREMES = (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-300, 1e7, -1e200, 1e308)
NAMES = ("", " ", "M1", "M1 001", "x" * 300, "é 1", "a\nb", "\x1b[2J", "\ud800", "\0", "脳 001")


@st.composite
def variables(draw: Draw, faults: int = 3) -> Variables:
    """A small recording with up to so many odd features, each of which may be allowed."""
    found: Variables = recording(
        channels=draw(st.integers(1, 5)),
        rows=draw(st.integers(1, 4)),
        samples=draw(st.sampled_from([60, 60, 250, 2, 3])),
        start=draw(st.sampled_from([4644.642, 0.0, -3.0, 1.7e9])),
        finger_columns=draw(st.sampled_from([3, 6])),
    )
    for change in draw(st.lists(st.sampled_from(CHANGES), max_size=faults)):
        change(draw, found)
    return found


def _numeric(draw: Draw, found: Variables) -> str | None:
    names = [name for name in NUMERIC if _is_numeric(found.get(name))]
    return draw(st.sampled_from(names)) if names else None


def _is_numeric(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim > 0 and value.dtype.kind in "fiu"


def without_one(draw: Draw, found: Variables) -> None:
    found.pop(draw(st.sampled_from(sorted(found))), None)


def with_another(draw: Draw, found: Variables) -> None:
    name = draw(st.sampled_from(["wf", "T", "spikes2", "x" * 63]))
    found[name] = draw(st.sampled_from([np.zeros((3, 3)), "text", np.zeros((0, 0))]))


def another_type(draw: Draw, found: Variables) -> None:
    if name := _numeric(draw, found):
        with np.errstate(all="ignore"):
            found[name] = found[name].astype(draw(st.sampled_from(DTYPES)))


def another_shape(draw: Draw, found: Variables) -> None:
    if name := _numeric(draw, found):
        values = found[name]
        found[name] = draw(
            st.sampled_from(
                [
                    values.T,
                    values[:-1],
                    values[:, :0],
                    values[:1],
                    values.reshape(-1, 1),
                    values[None],
                    np.zeros((0, 0)),
                    np.float64(3.0),
                    np.repeat(values, 2, axis=0),
                ]
            )
        )


def another_clock(draw: Draw, found: Variables) -> None:
    if _is_numeric(found.get("t")) and found["t"].size:
        t = np.array(found["t"], np.float64)
        with np.errstate(all="ignore"):
            found["t"] = draw(
                st.sampled_from(
                    [
                        t[::-1].copy(),
                        t * 0,
                        t * 1000,
                        t * 1e300,
                        t / 1000000.0,
                        t - t[:1],
                        np.floor(t),
                        np.where(
                            np.arange(t.size).reshape(t.shape) > t.size // 2, t + 1000000000.0, t
                        ),
                    ]
                )
            )


def an_extreme(draw: Draw, found: Variables) -> None:
    name = _numeric(draw, found)
    if name and found[name].size:
        values = np.array(found[name], np.float64, copy=True, ndmin=1)
        values.flat[draw(st.integers(0, values.size - 1))] = draw(st.sampled_from(EXTREMES))
        found[name] = values


def odd_cell(draw: Draw, found: Variables) -> None:
    spikes = found.get("spikes")
    if isinstance(spikes, np.ndarray) and spikes.dtype == object and spikes.size:
        cell = draw(st.integers(0, spikes.size - 1))
        before = np.atleast_1d(spikes.flat[cell])
        nested = np.empty((1, 1), object)
        nested[0, 0] = np.ones((2, 1))
        choices = [np.zeros(shape) for shape in ((0, 0), (0, 1), (1, 0), (3, 3), (1, 2))]
        choices += [np.full((2, 1), value) for value in EXTREMES]
        choices += [before.T, before[::-1].copy(), nested, "text", np.float64(5), np.ones(3) * 1j]
        choices += [np.ones((5, 1), kind) for kind in ("u1", "i8", "f4", "f2", "?")]
        spikes.flat[cell] = draw(st.sampled_from(choices))


def other_cells(draw: Draw, found: Variables) -> None:
    if isinstance(found.get("spikes"), np.ndarray) and found["spikes"].ndim == 2:
        s = found["spikes"]
        found["spikes"] = draw(
            st.sampled_from([s.T.copy(), s[:-1], s[:, :0], s[:1], np.zeros((4, 3)), "text"])
        )


def odd_names(draw: Draw, found: Variables) -> None:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=0, max_size=5))
    cells = np.empty((len(names), 1), object)
    cells[:, 0] = names
    numbers = np.empty((2, 1), object)
    numbers[:, 0] = [np.ones((1, 1)), np.zeros((0, 0))]
    found["chan_names"] = draw(st.sampled_from([cells, cells, cells.T, numbers, np.ones((4, 1))]))


def another_kind(draw: Draw, found: Variables) -> None:
    cell = np.empty((1, 1), object)
    cell[0, 0] = np.ones((3, 1))
    values = [cell, "text", np.ones((4, 1)), np.zeros((0, 0))]
    found[draw(st.sampled_from([*NUMERIC, "spikes", "chan_names"]))] = draw(st.sampled_from(values))


CHANGES = [without_one, with_another, another_type, another_shape, another_clock, an_extreme]
CHANGES += [odd_cell, odd_cell, other_cells, odd_names, another_kind]
