"""A run behind the interface of FALCON's decoders (`falcon_challenge.interface.BCIDecoder`).

Its evaluator calls `reset` for files, then `predict` or `observe` for each bin and `on_done` after
it. It needs no base class, and falcon_challenge is not needed here. FALCON's bins must be those of
the run, and its outputs are compared with the run's target as it is.

Shapes: B streams, N units, D axes of the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bci_decode.errors import BciDecodeError
from bci_decode.realtime.decoder import StreamingDecoder
from bci_decode.realtime.interfaces.count_window import CountWindow
from bci_decode.runs.load import load_run
from bci_decode.runs.loaded_run import LoadedRun


class FalconDecoder:
    """Decodes B streams at the same time, each with a state of its own.

    `run` is a run's folder, or a loaded run. Each stream keeps its state from trial to trial of a
    file, because the movement continues between trials.
    """

    def __init__(self, run: str | Path | LoadedRun, batch_size: int = 1, engine: str = "fast"):
        self._run = run if isinstance(run, LoadedRun) else load_run(run)
        self._engine = engine
        self.set_batch_size(batch_size)

    def set_batch_size(self, batch_size: int) -> None:
        """Set the number of streams, and start all of them from their beginning."""
        if batch_size < 1:
            raise BciDecodeError(f"is {batch_size}", field="batch_size", remedy="give 1 or more")
        self.batch_size = batch_size
        self._decoders = [StreamingDecoder(self._run, self._engine) for _ in range(batch_size)]
        config, units = self._run.config, len(self._run.units)
        self._windows = [CountWindow(config, units) for _ in range(batch_size)]
        self._tags: list[str] | None = None

    def reset(self, dataset_tags: Sequence[str] = ("",)) -> None:
        """Start new files, named by `dataset_tags`: one tag for each stream, or one for all.

        A stream whose tag is the same as before continues. If no tag has changed, the same files
        start again, and all streams are reset.
        """
        tags = [str(tag) for tag in dataset_tags]
        if len(tags) == 1:
            tags *= self.batch_size
        if len(tags) != self.batch_size:
            raise BciDecodeError(
                f"has {len(tags)} entries for {self.batch_size} streams",
                field="dataset_tags",
                remedy="give one tag for each stream",
            )
        before = self._tags if self._tags not in (None, tags) else [None] * self.batch_size
        streams = zip(self._decoders, self._windows, tags, before or (), strict=True)
        for decoder, window, tag, old in streams:
            if tag != old:
                decoder.reset()
                window.reset()
        self._tags = tags

    def predict(self, neural_observations: np.ndarray) -> np.ndarray:
        """Kinematics (B, D), in the target's unit, of the next bin's counts (B, N) or (N,)."""
        counts = np.atleast_2d(neural_observations)
        if len(counts) != self.batch_size:
            raise BciDecodeError(
                f"have {len(counts)} rows for {self.batch_size} streams",
                field="neural_observations",
                remedy="give one row for each stream",
            )
        windows = zip(self._windows, counts, strict=True)
        rows = [window.checked(row) for window, row in windows]  # all, before any state changes
        streams = zip(self._decoders, self._windows, rows, strict=True)
        return np.stack([decoder.step(window.add(row)) for decoder, window, row in streams])

    def observe(self, neural_observations: np.ndarray) -> None:
        """Take a bin whose movement is not needed; the state follows it."""
        self.predict(neural_observations)

    def on_done(self, dones: np.ndarray) -> None:
        """Does nothing: streams keep their state at the end of a trial (`dones` (B,))."""
