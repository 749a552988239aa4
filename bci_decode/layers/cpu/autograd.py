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
from bci_decode.layers.weights import SIDES, GateWeights, gate_weights

MIN_SHARED = 2**18  # T B H from which a batch is split into two shares
SHARE_MULTIPLE = 8  # a share has whole tiles of the product
Array = np.ndarray


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
    weight = torch.zeros(6, 2, dtype=dtype)
    sides = [GateWeights(weight, None, None, None) for _ in range(2)]
    call = _Call(form, 1.0, None, torch.zeros(1, 1, 2, dtype=dtype), None, *sides[0], *sides[1])
    y = call.forward(keep=True)
    call.backward(y, y, needs_dx=True)
    loaded = sum(kernels.forward.stats.cache_hits.values())  # type: ignore[attr-defined]
    return 0.0 if loaded else time.perf_counter() - started


def step_kernel(layer: Any, form: str) -> Callable[[Array, Array], Array]:
    """A function of x (I,) and h (L, H) that returns the states (L, H) after one bin.

    It copies the weights now.
    """
    panels: list[Array] = []
    biases: list[Array] = []
    norms: list[Array] = []
    hidden, inputs, step = layer.hidden_size, layer.input_size, kernels_of(FORMS[form]).step
    for number in range(layer.num_layers):
        sides = [gate_weights(layer, side, f"l{number}") for side in SIDES]
        x = layer.weight_hh_l0.new_zeros(1, 1, sides[0].weight.shape[1])
        call = _Call(form, 0.0, None, x, None, *sides[0], *sides[1])
        panels += [call.packed(side, True) for side in sides]
        biases += [call.biases(side) for side in sides]
        norms.append(call.norm)
    dtype = panels[0].dtype
    fixed = np.concatenate(panels), np.concatenate(biases), np.concatenate(norms)
    eps, sizes = dtype.type(getattr(layer, "eps", 0)), (layer.num_layers, inputs, hidden)
    work = np.empty(4 * padded(3 * hidden, lanes_of(dtype.itemsize)) + STATS, dtype)

    def run(x: Array, h: Array) -> Array:
        after = np.empty_like(h, order="C")
        flat = np.ascontiguousarray(x), np.ascontiguousarray(h).reshape(-1), after.reshape(-1)
        step(*flat, *fixed, eps, sizes, work)
        return after

    return run


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
        if torch.is_grad_enabled():  # create_graph=True: the gradients would silently be constants
            raise RuntimeError(
                "the fused layer has no second derivatives: set its use_fused = False, "
                "or drop create_graph"
            )
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
        self.x_array, self.rows = _flat(x), x.shape[:-1].numel()
        self.dtype = self.x_array.dtype
        self.eps = self.dtype.type(eps)
        self.index = np.empty(0, np.int64) if index is None else _checked(index, len(x))
        self.gathered = index is not None
        self.h_array = np.zeros(batch * hidden, self.dtype) if h is None else _flat(h)
        norms = [
            self._or(values, default)
            for side in (self.inputs, self.recurrent)
            for values, default in ((side.gain, 1), (side.shift, 0))
        ]
        self.norm = np.concatenate(norms)

    def forward(self, keep: bool) -> Tensor:
        """y (T, B, H); keeps what the backward needs, if asked to."""
        bins, batch, _, hidden = self.sizes
        panels_x, panels_h = (self.packed(side, True) for side in (self.inputs, self.recurrent))
        biases_x, biases_h = self.biases(self.inputs), self.biases(self.recurrent)
        whole = keep and self.form != PLAIN  # whether the backward needs the input side
        rows = self.rows if whole or self.gathered else 0
        kept = self._memory(rows, bins * batch if keep else 0)
        if self.gathered:
            given = self.x_array, self.rows, self.sizes
            shared_kernels().project(*given, panels_x, biases_x, kept[0])
        y = self.x.new_empty(bins, batch, hidden)
        y_array = _flat(y)

        def run(share: int, first: int, last: int) -> None:
            own = self._memory(0 if rows else max(CHUNK, last - first), 0 if keep else BLOCK)
            memory = [k if len(k) else o for k, o in zip(kept, own, strict=True)]
            self.kernels.forward(
                self.x_array, self.index, self.h_array, self.h is not None, panels_x, panels_h,
                biases_x, biases_h, self.norm, self.eps, y_array, *memory, keep, self.sizes,
                first, last, np.empty(self.width, self.dtype),
            )  # fmt: skip

        self._share(run)
        self.kept = [kept[0] if whole else kept[0][:0], *kept[1:]]
        return y

    def _memory(self, inputs: int, places: int) -> list[Array]:
        """Padded rows of the input side and of the recurrent side; gates and candidate; statistics.

        It is one block, because the C library reuses one of up to 32 MB and returns three of 10 MB
        to the system, which then clears their pages again: a tenth of a training step.
        """
        stride, numbers = self._padded(self.width), STATS * (self.form != PLAIN)
        sizes = inputs * stride, places * stride, places * self.width, places * numbers
        return np.split(np.empty(sum(sizes), self.dtype), np.cumsum(sizes[:-1]))

    def backward(self, dy: Tensor, y: Tensor, needs_dx: bool) -> list[Tensor | None]:
        """Gradients of x, h and the tensors of both sides."""
        _, batch, inputs, hidden = self.sizes
        shares, biased = len(self._shares()), self.inputs.bias is not None
        nothing = np.empty(0, self.dtype)
        panels_x = self.packed(self.inputs, False) if needs_dx else nothing
        panels_h = self.packed(self.recurrent, False)
        dx = np.empty(self.x.numel() * needs_dx, self.dtype)
        d_projected = np.zeros((shares, self.rows * self.width * self.gathered), self.dtype)
        dh = np.zeros(batch * self._padded(hidden), self.dtype)
        d_weight_x, d_weight_h = (
            np.zeros((shares, self.width * self._padded(columns)), self.dtype)
            for columns in (inputs, hidden)
        )
        totals, size = np.zeros((shares, 18 * hidden)), self.dtype.itemsize
        dy_array, y_array = _flat(dy), _flat(y)

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
        return [
            torch.from_numpy(dx).view_as(self.x) if needs_dx else None,
            None if self.h is None else torch.from_numpy(dh).view(batch, -1)[:, :hidden],
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

    def biases(self, side: GateWeights) -> Array:
        """A padded row."""
        row = np.zeros(self._padded(self.width), self.dtype)
        row[: self.width] = self._or(side.bias, 0)
        return row

    def _or(self, values: Tensor | None, default: float) -> Array:
        return np.full(self.width, default, self.dtype) if values is None else _flat(values)

    def packed(self, side: GateWeights, transposed: bool) -> Array:
        outputs, inputs = side.weight.shape
        depth, columns = (inputs, outputs) if transposed else (outputs, inputs)
        panels = np.empty(depth * self._padded(columns), self.dtype)
        shared_kernels().packed(_flat(side.weight), outputs, inputs, transposed, panels)
        return panels

    def _padded(self, columns: int) -> int:
        return padded(columns, lanes_of(self.dtype.itemsize))

    def _shares(self) -> list[tuple[int, int]]:
        """First and last sequence of each share.

        They do not depend on the number of threads, so that the results do not either.
        """
        bins, batch, _, hidden = self.sizes
        if batch < 2 * SHARE_MULTIPLE or bins * batch * hidden < MIN_SHARED:
            return [(0, batch)]
        middle = -(-batch // (2 * SHARE_MULTIPLE)) * SHARE_MULTIPLE
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


def _flat(tensor: Tensor) -> Array:
    return tensor.detach().contiguous().view(-1).numpy()


def _checked(index: Tensor, bins: int) -> Array:
    """The index, flat; a kernel would read any memory."""
    flat = _flat(index.to(torch.int64))
    if len(flat) and not 0 <= flat.min() <= flat.max() < bins:
        raise IndexError(
            f"the windows name bins {flat.min()} to {flat.max()}, there are 0 to {bins - 1}"
        )
    return flat


def _summed(shares: Array) -> Array:
    return shares[0] if len(shares) == 1 else shares[0] + shares[1]
