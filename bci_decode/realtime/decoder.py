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

from bci_decode.config import DataConfig
from bci_decode.errors import BciDecodeError
from bci_decode.realtime.checks import check_state, checked_counts
from bci_decode.realtime.engines import ENGINES
from bci_decode.runs.load import load_run
from bci_decode.runs.loaded_run import LoadedRun

WARM_UP = 512  # bins from which a new model starts: its state then is as if it had always run
FEW = 8  # bins that a swap may decode while `step` waits
RECENT = "recent"  # the last bins, as a part of the state


class Engine(Protocol):
    """Runs the step of a run, and keeps its state: arrays by name."""

    name: str
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
        self._recent = np.zeros((WARM_UP, len(self.units)), np.float32)  # a ring
        self._bins = self._resets = 0  # bins since the last reset
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
    def runs_on(self) -> str:
        """The engine that runs: "torch" where the fast one has no kernels for the model."""
        return self._engine.name

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
        return self.run.unit

    def reset(self) -> None:
        """Start a new stream."""
        with self._lock:
            self._engine.reset()
            self._bins = 0
            self._resets += 1

    def step(self, counts: np.ndarray) -> np.ndarray:
        """Kinematics (D,), float64 in the target's unit, of the next bin of counts (N,).

        The counts are the spikes in the bin; with data.count_window those of so many seconds up to
        its end, and with data.presence the number of intervals that hold one, as `SpikeBinner`
        makes them. Raises `BciDecodeError` for counts that are no N numbers of 0 or more.
        """
        counts = checked_counts(counts, len(self.units))
        with self._lock:
            self._recent[self._bins % WARM_UP] = counts  # for a swap
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
        """A copy of all that the decoder remembers, arrays by name; set it to continue from it.

        "recent" are the last bins (T, N), from which `swap` starts another run.
        """
        with self._lock:
            last = np.arange(max(0, self._bins - WARM_UP), self._bins) % WARM_UP
            state = {name: values.copy() for name, values in self._engine.state.items()}
            return state | {RECENT: self._recent[last]}

    @state.setter
    def state(self, state: dict[str, np.ndarray]) -> None:
        rest = {name: np.asarray(values) for name, values in state.items()}
        recent = rest.pop(RECENT, np.zeros((0, len(self.units))))
        with self._lock:
            own = self._engine.state
            _check_state(rest, own, recent, len(self.units))
            self._engine.state = {name: np.array(rest[name], own[name].dtype) for name in own}
            self._bins = len(recent)
            self._recent[: len(recent)] = recent
            self._resets += 1

    def swap(self, other: str | Path | LoadedRun) -> None:
        """Decode from the next bin on with another run, which starts from the last 512 bins.

        It must have the same bins, target and axes. It is loaded and warmed up before it takes
        over, so `step` in another thread waits for the last few bins only.
        """
        run = other if isinstance(other, LoadedRun) else load_run(other)
        self._check_same_bins(run)
        fresh, done = StreamingDecoder(run, self.engine, self.units), None
        while True:
            with self._lock:
                resets, bins, recent = self._resets, self._bins, self._recent.copy()
            if done is None or not bins - len(recent) <= done <= bins:
                fresh._engine.reset()
                done = max(0, bins - len(recent))
            fresh._decode(recent, done, bins)
            with self._lock:
                if self._resets == resets and self._bins - bins <= FEW:
                    fresh._decode(self._recent, bins, self._bins)
                    self._engine, self._in_order, self.run = fresh._engine, fresh._in_order, run
                    return
            done = bins if self._resets == resets else None

    def _decode(self, recent: np.ndarray, first: int, last: int) -> None:
        """Step through the bins from `first` to before `last` of a ring of bins."""
        for number in range(first, last):
            self._engine.step(self._in_order(recent[number % len(recent)]))

    def _check_same_bins(self, run: LoadedRun) -> None:
        for name in ("bin_width", "count_window", "presence", "target"):
            mine, theirs = getattr(self.config, name), getattr(run.config, name)
            if mine != theirs:
                raise BciDecodeError(
                    f"is {theirs}, in the running decoder {mine}",
                    file=run.source,
                    field=f"data.{name}",
                    remedy="choose a run with the same bins and target, or start a new stream",
                )
        if run.axes != self.axes:
            remedy = "choose a run with the same axes"
            raise BciDecodeError(
                f"decodes {run.axes}, not {self.axes}", file=run.source, remedy=remedy
            )


def _check_state(
    state: dict[str, np.ndarray], own: dict[str, np.ndarray], recent: np.ndarray, units: int
) -> None:
    remedy = "set the state of a decoder of the same run and engine"
    check_state(state, own, remedy)
    if recent.ndim != 2 or recent.shape[1] != units or len(recent) > WARM_UP:
        raise BciDecodeError(f"are {recent.shape}", field=f"state: {RECENT}", remedy=remedy)
    check_state({RECENT: recent}, {RECENT: recent}, remedy)


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
