"""The linear maps of the recurrence and their normalisation: the input side of all bins at once, and its gradients.

Shapes: rows of T * B bins, I inputs, H hidden_size; 3 H columns are update gate z, reset gate r and candidate, of the
plain GRU reset gate, update gate and candidate.

The rows of a weight are centred over each LayerNorm group: W x then has mean zero over the group, and its norm is all that
LayerNorm needs. The candidate's columns hold twice its pre-activation after the norm; `Norms` has the factors for that.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from bci_decode.gemm import gemm_backend

ONCE = 3  # a product alone must be so much larger than one of a loop for a change of backend to pay


class Side(NamedTuple):
    """Of the input or the recurrent side: weight (3 H, .), and bias, norm's gain and norm's bias (3 H), each or None."""

    weight: Tensor
    bias: Tensor | None
    gain: Tensor | None
    shift: Tensor | None


def centred(side: Side) -> Side:
    """The side with its linear map centred."""
    return side._replace(weight=_centred(side.weight), bias=None if side.bias is None else _centred(side.bias))


def _centred(tensor: Tensor) -> Tensor:
    """A copy of (3 H, ...) whose rows have mean zero over the gates' 2 H and over the candidate's H."""
    thirds = tensor.reshape(3, len(tensor) // 3, -1)
    means = _gates_together(tensor.dtype) @ thirds.mean(1)
    return (thirds - means[:, None]).view(tensor.shape)


@cache
def _gates_together(dtype: torch.dtype) -> Tensor:
    """(3, 3): the means of the two gates become their common mean."""
    with torch.inference_mode(False):
        return torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]], dtype=dtype)


class Norms(NamedTuple):
    """Constants by which a third's squares become 1 / rs^2 of its group, the candidate's for 2 a."""

    to_variance: Tensor  # (3, 3)
    to_mean: Tensor  # (3, 3), of products over a group, in the backward
    eps: Tensor  # (3,)
    doubled: Tensor  # (3 H,): 1 for the gates, 2 for the candidate


@cache
def minus_one(dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return -torch.ones((), dtype=dtype)


@cache
def norms_of(hidden: int, eps: float | None, dtype: torch.dtype) -> Norms | None:
    if eps is None:
        return None
    with torch.inference_mode(False):
        means = _gates_together(dtype) / hidden
        quarter = torch.tensor([1, 1, 0.25], dtype=dtype)
        doubled = torch.ones(3 * hidden, dtype=dtype)
        doubled[2 * hidden :] = 2
        return Norms(means * quarter, means * quarter, quarter * eps, doubled)


class Projection:
    """The input side: LN(W x) with gain and bias, and its gradients; the recurrent gates' norm bias rides along."""

    def __init__(self, side: Side, shift_h: Tensor | None, norms: Norms | None):
        self.hidden, self.norms = len(side.weight) // 3, norms
        self.weight, self.bias, self.gain = side.weight, side.bias, side.gain
        if norms is not None and side.shift is not None and shift_h is not None:
            self.shift = side.shift * norms.doubled
            self.shift[: 2 * self.hidden] += shift_h[: 2 * self.hidden]

    def __call__(self, x: Tensor, u: Tensor, saved: list[Tensor] | None) -> None:
        """u (rows, 3 H) of x (rows, I); keeps the normalised W x (rows, 3 H) and rs (rows, 3) in `saved`."""
        a = u if saved is None or self.norms is None else saved[0]
        with gemm_backend(multiply_adds=x.numel() * u.shape[1] // ONCE):
            if self.bias is None:
                torch.mm(x, self.weight.t(), out=a)
            else:
                torch.addmm(self.bias, x, self.weight.t(), out=a)
        thirds = a.view(-1, 3, self.hidden)
        if self.norms is None:
            thirds[:, 2].mul_(2)
            return
        norms = torch.linalg.vector_norm(thirds, dim=2)
        rs = torch.addmm(self.norms.eps, norms.mul_(norms), self.norms.to_variance).rsqrt_()
        thirds.mul_(rs[:, :, None])
        if saved is not None:
            saved[1].copy_(rs)
        if self.gain is not None:
            torch.addcmul(self.shift, a, self.gain, out=u)
        elif a is not u:
            u.copy_(a)

    def backward(self, d: Tensor, x: Tensor, saved: list[Tensor], grads: Gradients, dx: Tensor | None) -> None:
        """Adds up the gradients of weight, bias, gain and shift, and writes dx; `d` (rows, 3 H) is used up."""
        if self.norms is not None:
            self._through_norm(d, saved[0], saved[1], grads, self.norms)
        grads.add(x, d)
        if dx is not None:
            with gemm_backend(multiply_adds=x.numel() * d.shape[1] // ONCE):
                torch.mm(d, self.weight, out=dx)

    def _through_norm(self, d: Tensor, normalised: Tensor, rs: Tensor, grads: Gradients, norms: Norms) -> None:
        products = d * normalised
        if self.gain is not None:
            grads.shift.add_(d.sum(0))
            grads.gain.add_(products.sum(0))
            products.mul_(self.gain)
            d.mul_(self.gain)
        means = products.view(-1, 3, self.hidden).sum(2) @ norms.to_mean
        thirds = d.view(-1, 3, self.hidden)
        thirds.mul_(rs[:, :, None]).addcmul_(normalised.view_as(thirds), means.mul_(rs)[:, :, None], value=-1)


class Gradients:
    """Sums over chunks of one side's gradients."""

    def __init__(self, side: Side):
        self.weight = torch.empty_like(side.weight, memory_format=torch.contiguous_format)
        self.begun = False
        self.bias, self.gain, self.shift = (
            side.weight.new_zeros(len(side.weight) if tensor is not None else 0) for tensor in side[1:]
        )

    def add(self, x: Tensor, d: Tensor) -> None:
        """x (rows, .), and d (rows, 3 H) of the linear map's outputs."""
        with gemm_backend(multiply_adds=x.numel() * d.shape[1] // ONCE):
            if self.begun:
                self.weight.addmm_(d.t(), x)
            else:
                torch.mm(d.t(), x, out=self.weight)
        self.begun = True
        if len(self.bias):
            self.bias.add_(d.sum(0))

    def finished(self, norms: Norms | None) -> tuple[Tensor | None, ...]:
        """Of weight, bias, gain and shift, None where the side has none. The centring's gradient is the centring."""
        if norms is not None:
            self.weight = _centred(self.weight)
            self.bias = _centred(self.bias) if len(self.bias) else self.bias
        return self.weight, *(grad if len(grad) else None for grad in (self.bias, self.gain, self.shift))
