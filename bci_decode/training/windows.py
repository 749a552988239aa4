"""The windows that a decoder learns from, as tensors on its device.

Shapes: G grids, T bins of the training part, W windows, L bins of a window, N units, D axes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bci_decode.data.dataset import Dataset
from bci_decode.data.parts import Part, Scaler, Window
from bci_decode.errors import BciDecodeError


class TrainingWindows:
    """Counts (G T, N) and scaled target (G T, D) of all grids, and windows (W, L) of indices.

    No window crosses a gap, and each has a known target in the first grid.
    """

    def __init__(self, data: Dataset, device: torch.device):
        grids = usable_grids([data.parts["train"], *data.shifted], data.window)
        self.counts = torch.as_tensor(np.concatenate([p.counts for p in grids]), device=device)
        self._place(grids, data.window, data.target_scaler, device)

    def _place(
        self, grids: list[Part], window: Window, scaler: Scaler, device: torch.device
    ) -> None:
        """Put the target and the windows of the first of `grids` on the device."""
        train = grids[0]
        target = scaler.transform(np.concatenate([part.target for part in grids]))
        self.target = torch.as_tensor(target, dtype=torch.float32, device=device)
        windows = window.of(train)  # of the first grid
        if not len(windows):
            raise BciDecodeError(
                "no window of the training part has an output of known movement",
                field="data.window",
                remedy="choose another data.source, or shorter windows",
            )
        self.windows = torch.as_tensor(windows, device=device)
        self.first_output, self.masked = window.first_output, bool(np.isnan(target).any())
        self.grids, self.last_bin = len(grids), len(train) - 1
        # where a segment ends, and where one begins that is as short as a window
        ends, tight = np.zeros((2, len(train)), bool)
        for start, stop in train.segments.tolist():
            ends[stop - 1] = True
            tight[start] |= stop - start == window.span
        self.ends, self.tight = (torch.as_tensor(flags, device=device) for flags in (ends, tight))

    def __len__(self) -> int:
        return len(self.windows)

    def order(self, shuffle: bool, generator: torch.Generator) -> Tensor:
        """The windows of one epoch (W, L), each from a grid that is chosen at random.

        Nothing here waits for the device, which would leave a GPU without work.
        """
        windows = self.windows
        if shuffle:
            windows = windows[self._on_device(torch.randperm(len(self), generator=generator))]
        if self.grids == 1:
            return windows
        grids = torch.randint(self.grids, (len(self), 1), generator=generator)
        grids = self._on_device(grids)
        grids = grids.masked_fill(self.tight[windows[:, :1]], 0)
        # the other grids lack the last bin of a segment, and follow one another in `counts`
        late = self.ends[windows[:, -1:]] & (grids > 0)
        return windows - late.long() + grids * self.last_bin + (grids > 0).long()

    def _on_device(self, numbers: Tensor) -> Tensor:
        if self.windows.device.type == "cuda":
            numbers = numbers.pin_memory()  # only then does its copy wait for nothing
        return numbers.to(self.windows.device, non_blocking=True)

    def target_of(self, windows: Tensor) -> Tensor:
        """The scaled target of the bins that have an output, (B, L - first_output, D)."""
        return self.target[windows[:, self.first_output :]]

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The mean squared error of scaled outputs (B, T, D) whose target is known."""
        return mean_squared_error(outputs, target, self.masked)


def usable_grids(grids: list[Part], window: Window) -> list[Part]:
    """The training part on the grids that windows are drawn from; all but the first are shorter."""
    return grids if len(grids[0]) > window.span else grids[:1]


def mean_squared_error(outputs: Tensor, target: Tensor, masked: bool) -> Tensor:
    """The mean squared error; if `masked`, only where the target is not NaN, and 0 for none."""
    if not masked:
        return F.mse_loss(outputs, target)
    known = ~target.isnan()
    missed = torch.where(known, outputs - target, 0.0)
    return missed.square().sum() / known.sum().clamp(min=1)
