"""LayerNorm over both gates and over the candidate by constants that are computed once.

Shapes: I inputs, H hidden_size. The 3 H columns are update gate z, reset gate r and candidate; of
the plain GRU r, z and candidate. LayerNorm has two groups: both gates together, and the candidate.

The rows of each weight are centered over a group: W x then has mean zero there, and LayerNorm needs
only its norm. The candidate's columns hold twice its pre-activation after the norm, because
tanh(a) = 2 sigmoid(2 a) - 1.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from bci_decode.layers.weights import GateWeights


def with_centered_weights(side: GateWeights) -> GateWeights:
    bias = None if side.bias is None else center_rows(side.bias)
    return side._replace(weight=center_rows(side.weight), bias=bias)


def center_rows(tensor: Tensor) -> Tensor:
    """A copy of (3 H, ...) whose rows have mean zero over the gates' 2 H and the candidate's H."""
    gates3 = tensor.reshape(3, len(tensor) // 3, -1)
    means = _gates_together(tensor.dtype) @ gates3.mean(1)
    return (gates3 - means[:, None]).view(tensor.shape)


@cache
def _gates_together(dtype: torch.dtype) -> Tensor:
    """(3, 3): replaces the means of the two gates by their common mean."""
    with torch.inference_mode(False):
        rows = [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]
        return torch.tensor(rows, dtype=dtype, device="cpu")


class NormConstants(NamedTuple):
    """Map sums of squares of z, r and candidate to 1 / rs^2 of their group (candidate: of 2 a)."""

    to_variance: Tensor  # (3, 3)
    to_mean: Tensor  # (3, 3), for products over a group in the backward
    eps: Tensor  # (3,)
    doubled: Tensor  # (3 H,): 1 for the gates, 2 for the candidate


@cache
def norm_constants(hidden: int, eps: float | None, dtype: torch.dtype) -> NormConstants | None:
    """The constants of a LayerNorm GRU; None for the plain GRU (eps None)."""
    if eps is None:
        return None
    with torch.inference_mode(False):
        means = _gates_together(dtype) / hidden
        quarter = torch.tensor([1, 1, 0.25], dtype=dtype, device="cpu")
        doubled = torch.ones(3 * hidden, dtype=dtype, device="cpu")
        doubled[2 * hidden :] = 2
        return NormConstants(means * quarter, means * quarter, quarter * eps, doubled)
