"""The input side of the recurrence: the linear map and the norm of all bins at once, and their gradients.

Shapes: rows of T * B bins, I inputs, H hidden_size; 3 H columns as in `norms`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bci_decode.layers.cpu.layer_norm import Norms, Side, centre
from bci_decode.layers.cpu.matmul import gemm_backend

ONCE = 3  # a product alone must be so much larger than one of a loop for a change of backend to pay


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
            self.weight = centre(self.weight)
            self.bias = centre(self.bias) if len(self.bias) else self.bias
        return self.weight, *(grad if len(grad) else None for grad in (self.bias, self.gain, self.shift))
