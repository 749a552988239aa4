"""The training windows of many sessions, whose counts stay on disk, and batches that mix them.

Shapes: G grids, T bins of a training part, W windows, B of a batch, L bins of a window, N units,
D axes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bci_decode.data.dataset import Preparation
from bci_decode.data.many_sessions import ManySessions
from bci_decode.training.distributed import Group
from bci_decode.training.windows import TrainingWindows, mean_squared_error, usable_grids

Batch = list[tuple[int, Tensor]]  # numbers of sessions, and windows (B, L) of each
ALONE = Group()


class StoredWindows(TrainingWindows):
    """The windows of a session whose counts stay on disk; numbers of bins are as in its parent."""

    def __init__(self, data: Preparation, device: torch.device):
        grids = usable_grids(data.training_grids(), data.window)
        self.stored = [grid.counts for grid in grids]
        self._place(grids, data.window, data.target_scaler, torch.device("cpu"))
        self.units = slice(None) if data.active.all() else np.flatnonzero(data.active)
        scaler = data.counts_scaler
        self.mean, self.std = (
            torch.as_tensor(values.astype(np.float32), device=device)
            for values in (scaler.mean, scaler.std)
        )
        self.device = device

    def counts_of(self, windows: Tensor) -> Tensor:
        """The scaled counts (B, L, N) of windows (B, L)."""
        bins = windows.numpy()
        first = self.last_bin + 1  # of the second grid
        grid = np.where(bins[:, 0] < first, 0, (bins[:, 0] - first) // max(self.last_bin, 1) + 1)
        start = np.where(grid == 0, 0, first + (grid - 1) * self.last_bin)
        inside = bins - start[:, None]
        found = np.empty((*bins.shape, self.stored[0].shape[1]), np.float32)
        for number in np.unique(grid):
            chosen = grid == number
            found[chosen] = self.stored[number][inside[chosen]]
        counts = torch.as_tensor(found[..., self.units], device=self.device)
        return (counts - self.mean) / self.std

    def target_of(self, windows: Tensor) -> Tensor:
        return super().target_of(windows).to(self.device)


class ManyWindows:
    """The training windows of all sessions, each of them a row."""

    def __init__(self, data: ManySessions, device: torch.device):
        self.sessions = [StoredWindows(one.prepared, device) for one in data.sessions]
        self.ends = torch.as_tensor(np.cumsum([len(one) for one in self.sessions]))
        self.masked = any(one.masked for one in self.sessions)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The mean squared error of scaled outputs (B, T, D) whose target is known."""
        return mean_squared_error(outputs, target, self.masked)

    def batches(
        self,
        size: int,
        shuffle: bool,
        generator: torch.Generator | None = None,
        group: Group = ALONE,
    ) -> Iterator[Batch]:
        """Every window once, `size` at a time; shuffled, a batch mixes sessions.

        Yields the windows of each batch that this process of a `group` takes. Without a
        `generator` all windows are of the first grid.
        """
        rows = torch.arange(len(self))
        windows = [one.windows for one in self.sessions]
        if generator is not None:
            windows = [one.order(False, generator) for one in self.sessions]
            rows = torch.randperm(len(self), generator=generator) if shuffle else rows
        starts = self.ends - torch.tensor([len(one) for one in self.sessions])
        for batch in rows.split(size):
            own = group.share(batch)
            of = torch.bucketize(own, self.ends, right=True)
            yield [
                (number, windows[number][own[of == number] - starts[number]])
                for number in of.unique().tolist()
            ]
