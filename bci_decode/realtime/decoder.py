"""A trained run as a live decoder: one bin of counts in, its kinematics out.

Shapes: N units, D axes of the target, T bins.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from bci_decode.config import TARGETS, DataConfig
from bci_decode.errors import BciDecodeError
from bci_decode.realtime.engines import ENGINES
from bci_decode.runs.load import LoadedRun, load_run

WARM_UP = 64  # bins from which a new model starts: the default length of a training window


class Engine(Protocol):
    """Runs the step of a run, and keeps its state: arrays by name."""

    state: dict[str, np.ndarray]

    def reset(self) -> None:
        """Go back to the state before the first bin."""

    def step(self, counts: np.ndarray) -> np.ndarray:
        """Kinematics (D,), float64, of a bin of counts (N,), float32 in the order of the run."""
        ...

    def prepare(self) -> None:
        """Do now what the next step can do without its counts."""


class StreamingDecoder:
    """Decodes a stream bin by bin, as `LoadedRun.decode` decodes a session.

    Scaling, order of units, lag, history and filter of the run are inside. The recurrent state is
    carried from bin to bin; a run with data.window.kind=history decodes each bin from the last bins
    alone. Outputs equal those of `LoadedRun.decode` within float32 precision.

    `engine` is "fast" (compiled kernels for GRU and LayerNorm GRU, otherwise the same as torch),
    "torch", or "onnx" (onnxruntime). `units` is the table of the source's units (channel, area,
    row) where its columns are not the run's; units that it lacks count as average. Use a decoder in
    one thread at a time; `swap` alone may be called from another one.
    """

    def __init__(self, run: LoadedRun, engine: str = "fast", units: pd.DataFrame | None = None):
        if engine not in ENGINES:
            raise BciDecodeError(
                f"is {engine!r}", field="engine", remedy=f"choose {', '.join(ENGINES)}"
            )
        self.engine, self.units = engine, run.units if units is None else units
        self._lock = threading.Lock()
        self._recent = np.zeros((WARM_UP, len(self.units)), np.float32)
        self._bins = 0  # since the last reset
        self.run = run
        self._in_order = _reordering(run, self.units)
        self._engine: Engine = ENGINES[engine](run)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        engine: str = "fast",
        units: pd.DataFrame | None = None,
        trust: tuple[str, ...] = (),
    ) -> StreamingDecoder:
        """The decoder of a run's folder; `trust` as in `load_run`."""
        return cls(load_run(folder, trust=trust), engine, units)

    @property
    def config(self) -> DataConfig:
        """How the run bins spikes."""
        return self.run.config

    @property
    def bin_width(self) -> float:
        """Seconds."""
        return self.config.bin_width

    @property
    def lag(self) -> float:
        """Seconds from the end of a bin to the movement that is decoded from it."""
        return self.config.lag - self.config.delay

    @property
    def axes(self) -> tuple[str, ...]:
        return self.run.axes

    @property
    def target(self) -> str:
        return self.config.target

    @property
    def unit(self) -> str:
        """The unit of the output."""
        return TARGETS[self.target]

    def reset(self) -> None:
        """Start a new stream."""
        with self._lock:
            self._engine.reset()
            self._bins = 0

    def step(self, counts: np.ndarray) -> np.ndarray:
        """Kinematics (D,), float64 in the target's unit, of the next bin of counts (N,).

        Raises `BciDecodeError` for counts that are no N numbers of 0 or more.
        """
        counts = self._checked(counts)
        with self._lock:
            self._recent[self._bins % WARM_UP] = counts
            self._bins += 1
            return self._engine.step(self._in_order(counts))

    def prepare(self) -> None:
        """Do now what the next step can do without its counts; call it after the output is used.

        Optional: it shortens the next step and changes no result.
        """
        with self._lock:
            self._engine.prepare()

    def predict(self, counts: np.ndarray) -> np.ndarray:
        """Kinematics (T, D) of the next bins of counts (T, N), one after another."""
        outputs = [self.step(bin_) for bin_ in counts]
        return np.array(outputs).reshape(len(outputs), len(self.axes))

    @property
    def state(self) -> dict[str, np.ndarray]:
        """A copy of all that the decoder remembers, arrays by name; set it to continue from it."""
        with self._lock:
            return {name: values.copy() for name, values in self._engine.state.items()}

    @state.setter
    def state(self, state: dict[str, np.ndarray]) -> None:
        with self._lock:
            own = {name: values.shape for name, values in self._engine.state.items()}
            given = {name: np.shape(values) for name, values in state.items()}
            if own != given:
                raise BciDecodeError(
                    f"has {given}, the decoder {own}",
                    field="state",
                    remedy="set the state of a decoder of the same run and engine",
                )
            copies = {
                name: np.array(state[name], v.dtype) for name, v in self._engine.state.items()
            }
            self._engine.state = copies

    def swap(self, other: str | Path | LoadedRun) -> None:
        """Decode from the next bin on with another run, which starts from the last 64 bins.

        It must have the same bins, target and axes. It is loaded and warmed up before it takes
        over, so `step` in another thread waits for the last few bins only.
        """
        run = other if isinstance(other, LoadedRun) else load_run(other)
        for name in ("bin_width", "count_window", "presence", "target"):
            mine, theirs = getattr(self.config, name), getattr(run.config, name)
            if mine != theirs:
                raise BciDecodeError(
                    f"is {theirs}, in the running decoder {mine}",
                    file=run.folder,
                    field=f"data.{name}",
                    remedy="choose a run with the same bins and target, or start a new stream",
                )
        if run.axes != self.axes:
            raise BciDecodeError(f"decodes {run.axes}, not {self.axes}", file=run.folder)
        fresh = StreamingDecoder(run, self.engine, self.units)
        done = fresh._catch_up(self)
        with self._lock:
            fresh._catch_up(self, done)
            self._engine, self._in_order, self.run = fresh._engine, fresh._in_order, fresh.run

    def _catch_up(self, running: StreamingDecoder, done: int | None = None) -> int:
        """Step through the bins that the running decoder had, the last ones or those after `done`.

        Returns how many bins that one has had in all.
        """
        bins, recent = running._bins, running._recent.copy()
        first = max(0, bins - WARM_UP) if done is None else done
        for number in range(first, bins):
            self._engine.step(self._in_order(recent[number % WARM_UP]))
        return bins

    def _checked(self, counts: np.ndarray) -> np.ndarray:
        values = np.asarray(counts)
        shape = (len(self.units),)
        if values.shape != shape:
            raise _bad_counts(f"have shape {values.shape}, the decoder needs {shape}")
        whole = values.dtype.kind in "ui"
        if not (values.min() >= 0 and (whole or values.max() < np.inf)):  # NaN fails both
            unit = int(np.argmin((values >= 0) & (values < np.inf)))
            raise _bad_counts(f"are {values[unit]} for unit {unit}")
        return values.astype(np.float32)


def _bad_counts(problem: str) -> BciDecodeError:
    remedy = "give the number of spikes of each unit in the bin"
    return BciDecodeError(problem, field="counts", remedy=remedy)


def _reordering(run: LoadedRun, units: pd.DataFrame) -> Callable[[np.ndarray], np.ndarray]:
    """A function that puts a source's counts into the run's order.

    A unit that is missing gets its mean in training, which the scaling turns into 0.
    """
    columns = run.columns_of(units, "the stream")
    if np.array_equal(columns, np.arange(len(units))):
        return lambda counts: counts
    present = columns >= 0
    inputs = run.scaler("counts").mean.astype(np.float32)
    places, sources = np.flatnonzero(present), columns[present]

    def ordered(counts: np.ndarray) -> np.ndarray:
        inputs[places] = counts[sources]
        return inputs

    return ordered
