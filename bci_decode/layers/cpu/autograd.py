"""From PyTorch's tensors to the compiled kernels and back.

Shapes: T bins, B sequences, I inputs, H hidden_size; rows of 3 H columns as in `rows`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bci_decode.layers.cpu.arrays import Array, flat, norm_rows, packed, padded_bias
from bci_decode.layers.cpu.kernels import (
    BLOCK,
    CHUNK,
    Kernels,
    backward_work,
    kernels_of,
    shared_kernels,
)
from bci_decode.layers.cpu.product import lanes_of, padded
from bci_decode.layers.cpu.rows import FORMS, PLAIN, STATS
from bci_decode.layers.cpu.steps import StepKernel
from bci_decode.layers.kernel_limits import refuse_second_derivatives
from bci_decode.layers.weights import GateWeights

MIN_SHARED = 2**18  # T B H from which a batch is split into two shares


def fused_gru(
    x: Tensor,
    h: Tensor | None,
    inputs: GateWeights,
    recurrent: GateWeights,
    form: str,
    eps: float = 0.0,
    index: Tensor | None = None,
) -> Tensor:
    """States (T, B, H) for inputs x (T, B, I) from the initial state h (B, H), or from zeros.

    `form` is "plain" or the place of the norm. With `index` (T, B), x is (bins, I),
    sequence b has the bins index[:, b], and each bin is projected once. Can be differentiated once.
    """
    tensors = (x, h, *inputs, *recurrent)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return _FusedGRU.apply(form, eps, index, *tensors)
    return _Call(form, eps, index, *tensors).forward(keep=False)


def compile_kernels(form: str, dtype: torch.dtype) -> float:
    """Run a tiny layer; the seconds that compiling took, 0 if numba's cache had the kernels."""
    started, kernels = time.perf_counter(), kernels_of(FORMS[form])
    hits = kernels.forward.stats.cache_hits  # type: ignore[attr-defined]
    before = sum(hits.values())
    sides = [GateWeights(torch.zeros(6, 2, dtype=dtype), None, None, None) for _ in range(2)]
    x = torch.zeros(1, 1, 2, dtype=dtype)
    for given, index in ((x, None), (x[0], torch.zeros(1, 1, dtype=torch.int64))):
        call = _Call(form, 1.0, index, given, None, *sides[0], *sides[1])
        y = call.forward(keep=True)
        call.backward(y, y, needs_dx=True)
    stepped = StepKernel([sides], form, 1.0)
    stepped.prepare(np.zeros((1, 2), call.dtype), False)
    stepped.step(np.zeros(2, call.dtype))
    return 0.0 if sum(hits.values()) > before else time.perf_counter() - started


class _FusedGRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, form: str, eps: float, index: Tensor | None, *tensors: Any) -> Tensor:
        call = _Call(form, eps, index, *tensors)
        y = call.forward(keep=True)
        ctx.save_for_backward(index, *tensors, y, *map(torch.from_numpy, call.kept))
        ctx.form, ctx.eps = form, eps
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        index, *tensors = ctx.saved_tensors
        call, y = _Call(ctx.form, ctx.eps, index, *tensors[:10]), tensors[10]
        call.kept = [tensor.numpy() for tensor in tensors[11:]]
        return (None, None, None, *call.backward(dy, y, ctx.needs_input_grad[3]))


class _Call:
    """One call of one layer in one direction: its arrays, flat, and how threads share the batch."""

    kernels: Kernels
    kept: list[Array]  # inputs' side, recurrent side, gates and candidate, statistics

    def __init__(
        self,
        form: str,
        eps: float,
        index: Tensor | None,
        x: Tensor,
        h: Tensor | None,
        *sides: Any,
    ):
        self.form, self.kernels = FORMS[form], kernels_of(FORMS[form])
        self.x, self.h = x, h
        self.inputs, self.recurrent = GateWeights(*sides[:4]), GateWeights(*sides[4:])
        bins, batch = (x if index is None else index).shape[:2]
        hidden = self.recurrent.weight.shape[1]
        self.sizes, self.width = (bins, batch, x.shape[-1], hidden), 3 * hidden
        self.x_array, self.rows = flat(x), x.shape[:-1].numel()
        self.dtype = self.x_array.dtype
        self.eps = self.dtype.type(eps)
        self.index = np.empty(0, np.int64) if index is None else _checked(index, len(x))
        self.gathered = index is not None
        self.h_array = np.zeros(batch * hidden, self.dtype) if h is None else flat(h)
        self.norm = norm_rows([self.inputs, self.recurrent], self.form)

    def forward(self, keep: bool) -> Tensor:
        """y (T, B, H); keeps what the backward needs, if asked to."""
        bins, batch, _, hidden = self.sizes
        panels_x, panels_h = (packed(s.weight, True) for s in (self.inputs, self.recurrent))
        biases_x, biases_h = padded_bias(self.inputs), padded_bias(self.recurrent)
        needed = keep and self.form != PLAIN  # whether the backward needs the input side
        projected, *gates = self.kept = self._memory(self.rows * needed, bins * batch * keep)
        if self.gathered:
            projected = projected if needed else self._memory(self.rows, 0)[0]
            given = self.x_array, self.rows, self.sizes
            shared_kernels().project(*given, panels_x, biases_x, projected)
        y = self.x.new_empty(bins, batch, hidden)
        y_array = flat(y)

        def run(share: int, first: int, last: int) -> None:
            own = self._memory(max(CHUNK, last - first) * (not len(projected)), BLOCK * (not keep))
            memory = [m if len(m) else o for m, o in zip((projected, *gates), own, strict=True)]
            self.kernels.forward(
                self.x_array, self.index, self.h_array, self.h is not None, panels_x, panels_h,
                biases_x, biases_h, self.norm, self.eps, y_array, *memory, keep, self.sizes,
                first, last, np.empty(self.width, self.dtype),
            )  # fmt: skip

        self._share(run)
        return y

    def _memory(self, inputs: int, places: int) -> list[Array]:
        """Padded rows of the input side and of the recurrent side; gates and candidate; statistics.

        It is one block, because the C library reuses one of up to 32 MB, while it returns three of
        10 MB to the system, which then has to clear their pages again.
        """
        stride, numbers = self._padded(self.width), STATS * (self.form != PLAIN)
        sizes = inputs * stride, places * stride, places * self.width, places * numbers
        return np.split(np.empty(sum(sizes), self.dtype), np.cumsum(sizes[:-1]))

    def backward(self, dy: Tensor, y: Tensor, needs_dx: bool) -> list[Tensor | None]:
        """Gradients of x, h and the tensors of both sides."""
        _, batch, inputs, hidden = self.sizes
        shares, biased = len(self._shares()), self.inputs.bias is not None
        nothing = np.empty(0, self.dtype)
        panels_x = packed(self.inputs.weight, False) if needs_dx else nothing
        panels_h = packed(self.recurrent.weight, False)
        dx = np.empty(self.x.numel() * needs_dx, self.dtype)
        d_projected = np.zeros((shares, self.rows * self.width * self.gathered), self.dtype)
        dh = np.zeros(batch * self._padded(hidden), self.dtype)
        d_weight_x, d_weight_h = (
            np.zeros((shares, self.width * self._padded(columns)), self.dtype)
            for columns in (inputs, hidden)
        )
        totals, size = np.zeros((shares, 18 * hidden)), self.dtype.itemsize
        dy_array, y_array = flat(dy), flat(y)

        def run(share: int, first: int, last: int) -> None:
            self.kernels.backward(
                dy_array, self.x_array, self.index, self.h_array, y_array, self.h is not None,
                panels_x, panels_h, self.norm, *self.kept, dx, d_projected[share], dh,
                d_weight_x[share], d_weight_h[share], totals[share], biased, self.sizes,
                first, last, np.empty(backward_work(self.sizes, last - first, size), self.dtype),
            )  # fmt: skip

        self._share(run)
        if self.gathered:
            work = np.empty(
                backward_work((1, 0, inputs, hidden), min(self.rows, CHUNK), size), self.dtype
            )
            shared_kernels().input_gradients(
                _summed(d_projected), self.x_array, self.rows, self.sizes, panels_x,
                d_weight_x[0], dx, work,
            )  # fmt: skip
        of_x, of_h = (
            torch.from_numpy(_summed(d)).view(self.width, -1)[:, :columns]
            for d, columns in ((d_weight_x, inputs), (d_weight_h, hidden))
        )
        of_state = torch.from_numpy(dh).view(batch, self._padded(hidden))[:, :hidden]
        return [
            torch.from_numpy(dx).view_as(self.x) if needs_dx else None,
            None if self.h is None else of_state,
            *self._by_parameter(of_x, of_h, totals.sum(0).astype(self.dtype)),
        ]

    def _by_parameter(self, d_weight_x: Tensor, d_weight_h: Tensor, totals: Array) -> list:
        """The gradients of both sides' tensors, in their order; None for those it lacks."""
        gain_x, shift_x, gain_h, shift_h, bias_x, bias_h = (
            torch.from_numpy(totals).view(6, self.width).unbind()
        )
        if self.inputs.shift is not None:  # the biases of the gates of both sides are added
            gates = 2 * self.width // 3
            shift_h[:gates] = shift_x[:gates]
        found = d_weight_x, bias_x, gain_x, shift_x, d_weight_h, bias_h, gain_h, shift_h
        given = (*self.inputs, *self.recurrent)
        return [None if t is None else d for t, d in zip(given, found, strict=True)]

    def _padded(self, columns: int) -> int:
        return padded(columns, lanes_of(self.dtype.itemsize))

    def _shares(self) -> list[tuple[int, int]]:
        """First and last sequence of each share.

        They do not depend on the number of threads, so that the results do not either.
        """
        bins, batch, _, hidden = self.sizes
        if batch < 2 * BLOCK or bins * batch * hidden < MIN_SHARED:
            return [(0, batch)]
        middle = -(-batch // (2 * BLOCK)) * BLOCK
        return [(0, middle), (middle, batch)]

    def _share(self, work: Callable[[int, int, int], None]) -> None:
        """Run the shares, at the same time if PyTorch may use two threads."""
        shares = [(number, *share) for number, share in enumerate(self._shares())]
        if len(shares) == 1 or torch.get_num_threads() == 1:
            for share in shares:
                work(*share)
            return
        with ThreadPoolExecutor(1) as pool:  # a new one: no state is shared, and a fork is safe
            second = pool.submit(work, *shares[1])
            work(*shares[0])
            second.result()


def _checked(index: Tensor, bins: int) -> Array:
    """The index, flat; a kernel would read any memory."""
    values = flat(index.to(torch.int64))
    if len(values) and not 0 <= values.min() <= values.max() < bins:
        raise IndexError(
            f"the windows name bins {values.min()} to {values.max()}, there are 0 to {bins - 1}"
        )
    return values


def _summed(shares: Array) -> Array:
    return shares[0] if len(shares) == 1 else shares[0] + shares[1]
