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
from bci_decode.runs.load import LoadedRun, load_run


class FalconDecoder:
    """Decodes B streams at the same time, each with a state of its own.

    `run` is a run's folder, or a loaded run. The state goes on from trial to trial of a file, as
    the movement does.
    """

    def __init__(self, run: str | Path | LoadedRun, batch_size: int = 1, engine: str = "fast"):
        self._run = run if isinstance(run, LoadedRun) else load_run(run)
        self._engine = engine
        self.set_batch_size(batch_size)

    def set_batch_size(self, batch_size: int) -> None:
        """Decode so many streams from now on, all of them from their beginning."""
        if batch_size < 1:
            raise BciDecodeError(f"is {batch_size}", field="batch_size", remedy="give 1 or more")
        self.batch_size = batch_size
        self._decoders = [StreamingDecoder(self._run, self._engine) for _ in range(batch_size)]
        self._tags: list[str] | None = None

    def reset(self, dataset_tags: Sequence[str] = ("",)) -> None:
        """Begin new files: the streams whose tag is another; all of them if none is another."""
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
        for decoder, tag, old in zip(self._decoders, tags, before or (), strict=True):
            if tag != old:
                decoder.reset()
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
        return np.stack([d.step(row) for d, row in zip(self._decoders, counts, strict=True)])

    def observe(self, neural_observations: np.ndarray) -> None:
        """Take a bin whose movement is not asked for; the state goes on."""
        self.predict(neural_observations)

    def on_done(self, dones: np.ndarray) -> None:
        """Trials ended: nothing to do, since the movement goes on across trials."""
