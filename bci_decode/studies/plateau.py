"""How long a decoder stays on the plateau: epochs until the test loss is below half of the target's variance."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from bci_decode.comparison.finished_runs import half_plateau_epoch
from bci_decode.data.dataset import Dataset
from bci_decode.training.trainer import Trainer


class PlateauTrainer(Trainer):
    """A trainer that stops once it has left the plateau: it measures how long that takes, and chooses nothing by it."""

    @property
    def plateau(self) -> float:
        """The target's variance on the test part, the loss of a decoder that knows but the mean."""
        return float(self.data.parts["test"].target.var(axis=0).mean())

    def half_epoch(self) -> int | None:
        return half_plateau_epoch(pd.DataFrame(self.history), self.plateau)

    def is_over(self) -> bool:
        return self.half_epoch() is not None or super().is_over()


def with_short_test(data: Dataset, bins: int) -> Dataset:
    """The same data with the first `bins` of the test part: enough to see a plateau end, and fewer to decode each epoch."""
    test = data.parts["test"]
    short = replace(
        test, time=test.time[:bins], counts=test.counts[:bins], target=test.target[:bins]
    )
    where = data.bins["test"]
    stop = min(where.start + bins, where.stop)
    return replace(
        data,
        parts=data.parts | {"test": short},
        bins=data.bins | {"test": slice(where.start, stop)},
    )
