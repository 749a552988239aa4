"""The two sides of a recurrent layer, and LayerNorm over the gates and over the candidate by constants made once.

Shapes: I inputs, H hidden_size; 3 H columns are update gate z, reset gate r and candidate, of the plain GRU r, z and
candidate. A "third" is one of these three, a "group" what LayerNorm takes together: both gates, or the candidate.

The rows of a weight are centred over each group: W x then has mean zero there, and its norm is all that LayerNorm needs.
The candidate's columns hold twice its pre-activation after the norm, since tanh(a) = 2 sigmoid(2 a) - 1.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor


class Side(NamedTuple):
    """Of the input or the recurrent side: weight (3 H, .), and bias, norm's gain and norm's bias (3 H), each or None."""

    weight: Tensor
    bias: Tensor | None
    gain: Tensor | None
    shift: Tensor | None


def centred(side: Side) -> Side:
    """The side with its linear map centred."""
    return side._replace(weight=centre(side.weight), bias=None if side.bias is None else centre(side.bias))


def centre(tensor: Tensor) -> Tensor:
    """A copy of (3 H, ...) whose rows have mean zero over the gates' 2 H and over the candidate's H."""
    thirds = tensor.reshape(3, len(tensor) // 3, -1)
    means = _gates_together(tensor.dtype) @ thirds.mean(1)
    return (thirds - means[:, None]).view(tensor.shape)


@cache
def _gates_together(dtype: torch.dtype) -> Tensor:
    """(3, 3): the means of the two gates become their common mean."""
    with torch.inference_mode(False):
        return torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]], dtype=dtype, device="cpu")


class Norms(NamedTuple):
    """Constants by which a third's squares become 1 / rs^2 of its group, the candidate's for 2 a."""

    to_variance: Tensor  # (3, 3)
    to_mean: Tensor  # (3, 3), of products over a group, in the backward
    eps: Tensor  # (3,)
    doubled: Tensor  # (3 H,): 1 for the gates, 2 for the candidate


@cache
def minus_one(dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return -torch.ones((), dtype=dtype, device="cpu")


@cache
def norms_of(hidden: int, eps: float | None, dtype: torch.dtype) -> Norms | None:
    if eps is None:
        return None
    with torch.inference_mode(False):
        means = _gates_together(dtype) / hidden
        quarter = torch.tensor([1, 1, 0.25], dtype=dtype, device="cpu")
        doubled = torch.ones(3 * hidden, dtype=dtype, device="cpu")
        doubled[2 * hidden :] = 2
        return Norms(means * quarter, means * quarter, quarter * eps, doubled)
