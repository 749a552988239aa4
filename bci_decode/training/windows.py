"""The windows that a decoder learns from, as tensors on its device.

Shapes: G grids, T bins of the training part, W windows, L bins of a window, N units, D axes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bci_decode.data.dataset import Dataset


class TrainingWindows:
    """Counts (G T, N) and scaled target (G T, D) of all grids, and windows (W, L) of indices."""

    def __init__(self, data: Dataset, device: torch.device):
        train, window = data.parts["train"], data.window
        # the other grids are a bin shorter
        parts = [train, *(data.shifted if len(train) > window.span else ())]
        self.counts = torch.as_tensor(np.concatenate([p.counts for p in parts]), device=device)
        target = data.target_scaler.transform(np.concatenate([p.target for p in parts]))
        self.target = torch.as_tensor(target, dtype=torch.float32, device=device)
        bins = len(train)
        self.windows = torch.as_tensor(window.bins(bins), device=device)  # of the first grid
        self.first_output = window.first_output
        self.grids, self.last_bin = len(parts), bins - 1

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
        # the other grids lack the last bin, and follow one another in `counts`
        late = (windows[:, -1:] == self.last_bin) & (grids > 0)
        return windows - late.long() + grids * self.last_bin + (grids > 0).long()

    def _on_device(self, numbers: Tensor) -> Tensor:
        if self.windows.device.type == "cuda":
            numbers = numbers.pin_memory()  # only then does its copy wait for nothing
        return numbers.to(self.windows.device, non_blocking=True)

    def target_of(self, windows: Tensor) -> Tensor:
        """The scaled target of the bins that have an output, (B, L - first_output, D)."""
        return self.target[windows[:, self.first_output :]]
