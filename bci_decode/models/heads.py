"""What maps the outputs of a recurrent layer to the axes of the target.

Shapes: H outputs of the layer, D axes.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call

AT_ONCE = 4096  # bins that are mapped together: float64 copies of all would be hundreds of MB


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


class Float64Head(nn.Module):
    """A copy of a head that computes in float64: (..., H) -> (..., D) in the type of its input."""

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = copy.deepcopy(head).double()

    def forward(self, y: Tensor) -> Tensor:
        return self.head(y.double()).to(y.dtype)


def in_float64(head: nn.Module, y: Tensor) -> Tensor:
    """What a head gives for y (B, T, H), computed in float64, in the type of y."""
    if isinstance(head, Float64Head):
        return head(y)
    tensors = {name: tensor.double() for name, tensor in head.state_dict(keep_vars=True).items()}
    parts = [functional_call(head, tensors, part.double()) for part in y.split(AT_ONCE, dim=1)]
    return torch.cat(parts, dim=1).to(y.dtype)
