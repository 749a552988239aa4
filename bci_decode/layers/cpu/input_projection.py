"""The input side of the fused GRU: linear map and norm of many bins at once, and their gradients.

Shapes: rows of bins * sequences, I inputs, H hidden_size; 3 H columns as in `layer_norm`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bci_decode.layers.cpu.layer_norm import NormConstants, center_rows
from bci_decode.layers.cpu.matmul import large_products
from bci_decode.layers.weights import GateWeights

SINGLE_GEMM_FACTOR = 3  # one product must be this much larger than one of a loop to change backends


class Projection:
    """LN(W x) with gain and bias, and its gradients; also adds the bias of the gates' LN(W_h h)."""

    def __init__(self, side: GateWeights, shift_h: Tensor | None, norms: NormConstants | None):
        self.hidden, self.norms = len(side.weight) // 3, norms
        self.weight, self.bias, self.gain = side.weight, side.bias, side.gain
        if norms is not None and side.shift is not None and shift_h is not None:
            self.shift = side.shift * norms.doubled
            self.shift[: 2 * self.hidden] += shift_h[: 2 * self.hidden]

    def __call__(self, x: Tensor, u: Tensor, saved: list[Tensor] | None) -> None:
        """Write u (rows, 3 H) of x (rows, I).

        Keeps the normalized W x (rows, 3 H) and 1 / SD (rows, 3) in `saved`.
        """
        a = u if saved is None or self.norms is None else saved[0]
        with large_products(x.numel() * u.shape[1] // SINGLE_GEMM_FACTOR):
            if self.bias is None:
                torch.mm(x, self.weight.t(), out=a)
            else:
                torch.addmm(self.bias, x, self.weight.t(), out=a)
        gates3 = a.view(-1, 3, self.hidden)
        if self.norms is None:
            gates3[:, 2].mul_(2)
            return
        norms = torch.linalg.vector_norm(gates3, dim=2)
        rs = torch.addmm(self.norms.eps, norms.mul_(norms), self.norms.to_variance).rsqrt_()
        gates3.mul_(rs[:, :, None])
        if saved is not None:
            saved[1].copy_(rs)
        if self.gain is not None:
            torch.addcmul(self.shift, a, self.gain, out=u)
        elif a is not u:
            u.copy_(a)

    def backward(
        self, d: Tensor, x: Tensor, saved: list[Tensor], grads: Gradients, dx: Tensor | None
    ) -> None:
        """Add to the gradients of all tensors and write dx; overwrites d (rows, 3 H)."""
        if self.norms is not None:
            self._through_norm(d, saved[0], saved[1], grads, self.norms)
        grads.add(x, d)
        if dx is not None:
            with large_products(x.numel() * d.shape[1] // SINGLE_GEMM_FACTOR):
                torch.mm(d, self.weight, out=dx)

    def _through_norm(
        self, d: Tensor, normalized: Tensor, rs: Tensor, grads: Gradients, norms: NormConstants
    ) -> None:
        products = d * normalized
        if self.gain is not None:
            grads.shift.add_(d.sum(0))
            grads.gain.add_(products.sum(0))
            products.mul_(self.gain)
            d.mul_(self.gain)
        means = products.view(-1, 3, self.hidden).sum(2) @ norms.to_mean
        gates3 = d.view(-1, 3, self.hidden)
        correction = normalized.view_as(gates3), means.mul_(rs)[:, :, None]
        gates3.mul_(rs[:, :, None]).addcmul_(*correction, value=-1)


class Gradients:
    """Sums over chunks of one side's gradients."""

    def __init__(self, side: GateWeights):
        self.weight = torch.empty_like(side.weight, memory_format=torch.contiguous_format)
        self.empty = True
        self.bias, self.gain, self.shift = (
            side.weight.new_zeros(len(side.weight) if tensor is not None else 0)
            for tensor in side[1:]
        )

    def add(self, x: Tensor, d: Tensor) -> None:
        """Add the part of inputs x (rows, .) and gradients d (rows, 3 H) of W x."""
        with large_products(x.numel() * d.shape[1] // SINGLE_GEMM_FACTOR):
            if self.empty:
                torch.mm(d.t(), x, out=self.weight)
            else:
                self.weight.addmm_(d.t(), x)
        self.empty = False
        if len(self.bias):
            self.bias.add_(d.sum(0))

    def result(self, norms: NormConstants | None) -> tuple[Tensor | None, ...]:
        """Gradients of weight, bias, gain and shift, None where the side has none."""
        if norms is not None:  # centering the rows is its own gradient
            self.weight = center_rows(self.weight)
            self.bias = center_rows(self.bias) if len(self.bias) else self.bias
        gradients = (grad if len(grad) else None for grad in (self.bias, self.gain, self.shift))
        return self.weight, *gradients
