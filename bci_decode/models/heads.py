"""What maps the outputs of a recurrent layer to the axes of the target.

Shapes: H outputs of the layer, D axes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropoutHead(nn.Sequential):
    """A linear map of the outputs after dropout: (..., H) -> (..., D)."""

    def __init__(self, inputs: int, outputs: int, dropout: float):
        super().__init__(nn.Dropout(dropout), nn.Linear(inputs, outputs))


class MLPHead(nn.Sequential):
    """One hidden layer of `width` with a ReLU, all axes together: (..., H) -> (..., D)."""

    def __init__(self, inputs: int, outputs: int, width: int):
        super().__init__(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))


class PerAxisHead(nn.Module):
    """A separate `MLPHead` for every axis: (..., H) -> (..., D)."""

    def __init__(self, inputs: int, outputs: int, width: int):
        super().__init__()
        self.axes = nn.ModuleList(MLPHead(inputs, 1, width) for _ in range(outputs))

    def forward(self, y: Tensor) -> Tensor:
        return torch.cat([axis(y) for axis in self.axes], dim=-1)
