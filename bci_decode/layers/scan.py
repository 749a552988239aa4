"""The linear recurrence h_t = a_t h_{t-1} + b_t of all bins, forward and backward.

It is associative, so it needs no loop over all bins (Blelloch 1990; Martin and Cundy 2018). The
bins are cut into chunks. A loop over the bins of a chunk runs in all chunks at once, from zero
states. The same recurrence over the chunks' last states gives the states between the chunks; these,
multiplied by products of a, complete the others. That is O(T) work in O(log T) operations after
each other. Where one bin alone fills a processor, a loop over the bins is faster, and runs.

Shapes: T bins; any shape of one bin, (B, H) say, here "...".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 16  # bins; 8 to 32 differ by less than a third
LOOP_SIZE = 1024  # numbers in one bin from which the loop over bins is faster on a CPU
BLOCK_SIZE = 16_384  # numbers that are multiplied at once: their product stays in the cache


def linear_scan(a: Tensor, b: Tensor, initial: Tensor | None = None) -> Tensor:
    """All states h_t = a_t h_{t-1} + b_t, (T, ...), contiguous.

    b is (T, ...), real or complex. a has the shape of b; or it is constant over time, without T and
    with a shape that broadcasts to one bin's. `initial` (...) is the state before the first bin,
    None for zeros. The state of a bin depends on no later bin. There are no second derivatives.
    """
    if initial is None:
        initial = b.new_zeros(b.shape[1:])
    if not a.dtype == b.dtype == initial.dtype:
        raise ValueError(f"a, b and initial have types {a.dtype}, {b.dtype}, {initial.dtype}")
    if a.shape != b.shape if a.dim() >= b.dim() else initial.shape != b.shape[1:]:
        raise ValueError(f"a, b and initial have shapes {a.shape}, {b.shape}, {initial.shape}")
    if len(b) == 1:
        return torch.addcmul(b, a, initial[None])
    return _Scan.apply(a, b, initial)


class _Scan(torch.autograd.Function):
    """The gradient is the same recurrence from the last bin to the first.

    With dh_t the gradient of the outputs, that of b is g_t = dh_t + conj(a_{t+1}) g_{t+1}, that of
    a conj(h_{t-1}) g_t, and that of the initial state conj(a_0) g_0.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, initial: Tensor) -> Tensor:
        h = _states(a, b, initial)
        ctx.save_for_backward(a, initial, h)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        a, initial, h = ctx.saved_tensors
        factor, constant = a.conj().resolve_conj(), a.dim() < h.dim()
        # the first step back multiplies zeros, whatever its factor
        later = factor if constant else torch.cat([factor[1:], factor[:1]])
        db = _states_from_the_end(later, dh, torch.zeros_like(initial))
        da = d_initial = None
        if ctx.needs_input_grad[0]:
            first = initial.conj() * db[0]
            if constant:
                da = (first + _product_sum(h[:-1], db[1:])).sum_to_size(a.shape)
            else:
                da = torch.cat([first[None], h[:-1].conj() * db[1:]])
        if ctx.needs_input_grad[2]:
            d_initial = (factor if constant else factor[0]) * db[0]
        return da, db, d_initial


def _states(a: Tensor, b: Tensor, before: Tensor) -> Tensor:
    """The states from the first bin on; arguments as in `linear_scan`."""
    h = torch.empty_like(b, memory_format=torch.contiguous_format)
    chunks = len(b) // CHUNK
    if _fills(before) or chunks < 2:
        _loop(_bins(a, b), b.unbind(0), h.unbind(0), before)
        return h
    constant, inside = a.dim() < b.dim(), chunks * CHUNK
    factors = [a] * CHUNK if constant else _cut(a[:inside]).unbind(0)
    states = _cut(h[:inside])  # (CHUNK, chunks, ...)
    _loop(factors, _cut(b[:inside]).unbind(0), states.unbind(0), torch.zeros_like(states[0]))
    products = _products(factors)  # (CHUNK, chunks, ...); without `chunks` of a constant
    ends = _states(products[-1], states[-1], before)
    starts = torch.cat([before[None], ends[:-1]])
    if constant:
        products = products[(slice(None), *[None] * (b.dim() - a.dim()))]
    states.addcmul_(products, starts)
    a, b = (a if constant else a[inside:]), b[inside:]
    _loop(_bins(a, b), b.unbind(0), h[inside:].unbind(0), ends[-1])
    return h


def _states_from_the_end(a: Tensor, b: Tensor, before: Tensor) -> Tensor:
    if not _fills(before):
        a = a if a.dim() < b.dim() else a.flip(0)
        return _states(a, b.flip(0), before).flip(0)
    h = torch.empty_like(b, memory_format=torch.contiguous_format)
    _loop(_bins(a, b)[::-1], b.unbind(0)[::-1], h.unbind(0)[::-1], before)
    return h


def _loop(a: Sequence[Tensor], b: Sequence[Tensor], h: Sequence[Tensor], before: Tensor) -> None:
    """Write the states into h, one operation for each bin."""
    for factor, input_, state in zip(a, b, h, strict=True):
        torch.addcmul(input_, factor, before, out=state)
        before = state


def _fills(bin_: Tensor) -> bool:
    """Whether the numbers of one bin occupy the processor."""
    return bin_.device.type == "cpu" and bin_.numel() >= LOOP_SIZE


def _cut(x: Tensor) -> Tensor:
    """Bins (T, ...) as chunks (CHUNK, T / CHUNK, ...)."""
    return x.unflatten(0, (-1, CHUNK)).transpose(0, 1)


def _bins(a: Tensor, b: Tensor) -> Sequence[Tensor]:
    """The factor of each bin of b."""
    return [a] * len(b) if a.dim() < b.dim() else a.unbind(0)


def _products(factors: Sequence[Tensor]) -> Tensor:
    """Products of the first 1, 2, ... factors."""
    products = [factors[0]]
    for factor in factors[1:]:
        products.append(products[-1] * factor)
    return torch.stack(products)


def _product_sum(h: Tensor, g: Tensor) -> Tensor:
    """The sum over bins of conj(h) g, a few bins at a time."""
    block = max(1, BLOCK_SIZE // max(1, g[0].numel())) if len(g) else 1
    total = torch.zeros(g.shape[1:], dtype=g.dtype, device=g.device)
    for left, right in zip(h.split(block), g.split(block), strict=True):
        total += (left.conj() * right).sum(0)
    return total
