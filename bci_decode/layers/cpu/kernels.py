"""The loops over bins, compiled by numba: forward and backward of one layer in one direction.

Shapes: T bins, B sequences, I inputs, H hidden_size. All arrays are flat: inputs and their
gradients (T, B, I), states (T, B, H), and rows of 3 H columns as in `rows`: `projected`, the input
side, (T, B) rows or one for each bin that `index` (T, B) names; `recurrent`, the recurrent side, of
the plain form only the candidate's H columns; `kept`, gates and candidate.

A call works on the sequences `first` to `last` without the interpreter's lock and in memory of its
own, so threads can share a batch. A state depends on no other sequence and on no later bin.

`kernels_of` and `shared_kernels` compile at first use. numba keeps the code on disk under the hash
of a function's own text and closure. So `sources`, a hash of all compiled text, is in each closure.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit

from bci_decode.layers.cpu.product import JIT, add_product, pack, padded, row
from bci_decode.layers.cpu.rows import (
    APART,
    PLAIN,
    STATS,
    SUM,
    add,
    apart_backward,
    apart_forward,
    plain_backward,
    plain_forward,
    sum2_backward,
    sum2_forward,
    sum_backward,
    sum_forward,
)

BLOCK = 8  # sequences whose products and gates follow each other while they are in the L1 cache
CHUNK = 512  # rows of inputs, and of gradients, that are multiplied together


def _hash_of_sources() -> str:
    names = "kernels.py", "rows.py", "product.py"
    text = b"".join(Path(__file__).with_name(name).read_bytes() for name in names)
    return hashlib.sha256(text).hexdigest()


SOURCES = _hash_of_sources()


class Kernels(NamedTuple):
    """The compiled functions of one form."""

    forward: Callable
    backward: Callable
    step: Callable


class SharedKernels(NamedTuple):
    """The compiled functions that all forms use."""

    packed: Callable
    project: Callable
    input_gradients: Callable


@njit(**JIT)
def _project(x, start, count, inputs, panels, biases, columns, out, place):
    """Write `count` rows of x W^T + bias to `out` from element `place`."""
    stride = padded(columns, x.itemsize)
    product = np.zeros(count * stride, x.dtype)
    add_product(x, start, inputs, 1, count, panels, inputs, columns, product)
    for i in range(count):
        source, target = row(product, i * stride, columns), row(out, place + i * columns, columns)
        for j in range(columns):
            target[j] = source[j] + biases[j]


@njit(**JIT)
def _input_gradients(d, x, first, groups, size, distance, inputs, width, panels, d_weight, dx):
    """Add d^T x to W's gradient and, if dx is wanted, write dx = d W.

    The rows of x lie in `groups` of `size`, which begin `distance` rows apart.
    """
    stride, rows = padded(inputs, x.itemsize), groups * size
    columns = np.empty(rows * stride, x.dtype)
    for g in range(groups):
        start = (first + g * distance) * inputs
        pack(x, start, inputs, 1, size, inputs, columns, g * size, rows)
    add_product(d, 0, 1, width, width, columns, rows, inputs, d_weight)
    if len(dx):
        product = columns  # its memory is free now
        product[:] = 0
        add_product(d, 0, width, 1, rows, panels, width, inputs, product)
        for i in range(rows):
            group, place = divmod(i, size)
            source = row(product, i * stride, inputs)
            target = row(dx, (first + group * distance + place) * inputs, inputs)
            for j in range(inputs):
                target[j] = source[j]


@functools.cache
def shared_kernels(sources: str = SOURCES) -> SharedKernels:
    @njit(cache=True, **JIT)
    def packed(weight, outputs, inputs, transposed):
        """The weight (outputs, inputs) as panels of W^T, or of W if not `transposed`."""
        text = sources  # noqa: F841
        if transposed:
            panels = np.empty(padded(outputs, weight.itemsize) * inputs, weight.dtype)
            pack(weight, 0, 1, inputs, inputs, outputs, panels, 0, inputs)
        else:
            panels = np.empty(padded(inputs, weight.itemsize) * outputs, weight.dtype)
            pack(weight, 0, inputs, 1, outputs, inputs, panels, 0, outputs)
        return panels

    @njit(cache=True, **JIT)
    def project(x, count, inputs, panels, biases, width, out):
        """Project all rows of x."""
        text = sources  # noqa: F841
        for first in range(0, count, CHUNK):
            rows, place = min(CHUNK, count - first), first * width
            _project(x, first * inputs, rows, inputs, panels, biases, width, out, place)

    @njit(cache=True, **JIT)
    def input_gradients(d, x, count, inputs, width, panels, d_weight, dx):
        """The gradients of `project`."""
        text = sources  # noqa: F841
        for first in range(0, count, CHUNK):
            rows = min(CHUNK, count - first)
            part = row(d, first * width, rows * width)
            _input_gradients(part, x, first, 1, rows, 0, inputs, width, panels, d_weight, dx)

    return SharedKernels(packed, project, input_gradients)


@functools.cache
def kernels_of(form: int, sources: str = SOURCES) -> Kernels:
    @njit(cache=True, **JIT)
    def forward(
        x, index, h, has_state, panels_x, panels_h, biases, norm, eps,
        y, projected, recurrent, kept, stats, keep, sizes, first, last,
    ):  # fmt: skip
        """Write the states y; `projected` is given if there is an index."""
        bins, batch, inputs, n = sizes
        width, sequences, text = 3 * n, last - first, sources  # noqa: F841
        wide, stride, gathered = (
            n if form == PLAIN else width,
            padded(width, x.itemsize),
            len(index),
        )
        biases_h = row(biases, width, width)
        product, a = np.empty(BLOCK * stride, x.dtype), np.empty(width, x.dtype)
        total = np.empty(width, x.dtype)
        # bins whose rows lie one after another
        chunk = max(1, CHUNK // max(1, batch)) if batch == sequences else 1
        if not keep:
            kept, stats = np.empty(width, x.dtype), np.empty(STATS, x.dtype)
            if not gathered:
                projected = np.empty(min(chunk, bins) * sequences * width, x.dtype)
        for t in range(bins):
            if not gathered and t % chunk == 0:
                start, count = t * batch + first, sequences * min(chunk, bins - t)
                at = start * width if keep else 0
                _project(x, start * inputs, count, inputs, panels_x, biases, width, projected, at)
            for i in range(first, last, BLOCK):
                count = min(BLOCK, last - i)
                product[:] = 0
                if t:
                    before = ((t - 1) * batch + i) * n
                    add_product(y, before, n, 1, count, panels_h, n, width, product)
                elif has_state:
                    add_product(h, i * n, n, 1, count, panels_h, n, width, product)
                for b in range(i, i + count):
                    place = t * batch + b
                    source = place if keep else (t % chunk) * sequences + b - first
                    if gathered:
                        source = index[place]
                    product_row = row(product, (b - i) * stride, width)
                    for j in range(width):
                        a[j] = product_row[j] + biases_h[j]
                    at = place if keep else 0
                    rows = (
                        row(projected, source * width, width),
                        a,
                        norm,
                        row(y, (place - batch) * n, n) if t else row(h, b * n, n),
                        total,
                        row(kept, at * width, width),
                        row(stats, at * STATS, STATS),
                        row(y, place * n, n),
                    )
                    if form == PLAIN:
                        plain_forward(*rows, n, eps)
                    elif form == APART:
                        apart_forward(*rows, n, eps)
                    elif form == SUM:
                        sum_forward(*rows, n, eps)
                    else:
                        sum2_forward(*rows, n, eps)
                    if keep:
                        part, target = (
                            row(a, width - wide, wide),
                            row(recurrent, place * wide, wide),
                        )
                        for j in range(wide):
                            target[j] = part[j]

    @njit(cache=True, **JIT)
    def backward(
        dy, x, index, h, y, has_state, panels_x, panels_h, norm,
        projected, recurrent, kept, stats,
        dx, d_projected, dh, d_weight_x, d_weight_h, totals, biased, sizes, first, last,
    ):  # fmt: skip
        """Add to the weights' gradients, to `dh` and to `totals` (18 H): gains, biases of norms,
        biases of maps. With an index, add to `d_projected`; else write `dx` if it is wanted."""
        bins, batch, inputs, n = sizes
        width, sequences, text = 3 * n, last - first, sources  # noqa: F841
        wide, stride = n if form == PLAIN else width, padded(n, x.itemsize)
        gathered = len(index) > 0
        chunk = max(1, CHUNK // max(1, sequences))
        most = min(chunk, bins) * sequences
        product, panels = np.empty(BLOCK * stride, x.dtype), np.empty(most * stride, x.dtype)
        d_recurrent, d_inputs = np.empty(most * width, x.dtype), np.empty(most * width, x.dtype)
        total, d = np.empty(width, x.dtype), np.empty(width, x.dtype)
        sums = np.empty(len(totals), x.dtype)
        for stop in range(bins, 0, -chunk):
            start = max(0, stop - chunk)
            sums[:] = 0  # begun anew in each chunk and added up in float64
            for t in range(stop - 1, start - 1, -1):
                for i in range(first, last, BLOCK):
                    count = min(BLOCK, last - i)
                    block = ((t - start) * sequences + i - first) * width
                    for b in range(i, i + count):
                        place, local = t * batch + b, block + (b - i) * width
                        source = index[place] if gathered else place
                        dh_row = row(dh, b * n, n)
                        add(dh_row, row(dy, place * n, n), n)
                        dx_row, da_row = row(d_inputs, local, width), row(d_recurrent, local, width)
                        rows = (
                            dh_row,
                            row(y, (place - batch) * n, n) if t else row(h, b * n, n),
                            row(projected, source * width, width),
                            row(recurrent, place * wide, wide),
                            row(kept, place * width, width),
                            row(stats, place * STATS, STATS),
                            norm, sums, total, d, dx_row, da_row,
                        )  # fmt: skip
                        if form == PLAIN:
                            plain_backward(*rows, n)
                        elif form == APART:
                            apart_backward(*rows, n)
                        elif form == SUM:
                            sum_backward(*rows, n)
                        else:
                            sum2_backward(*rows, n)
                        if biased:
                            add(row(sums, 12 * n, width), dx_row, width)
                            add(row(sums, 15 * n, width), da_row, width)
                        if gathered:
                            add(row(d_projected, source * width, width), dx_row, width)
                    if t or has_state:
                        product[:] = 0
                        add_product(
                            d_recurrent, block, width, 1, count, panels_h, width, n, product
                        )
                        for b in range(count):
                            add(row(dh, (i + b) * n, n), row(product, b * stride, n), n)
            bins_here, rows_here = stop - start, (stop - start) * sequences
            for t in range(start, stop):
                before, above = ((t - 1) * batch + first) * n, (t - start) * sequences
                if t:
                    pack(y, before, n, 1, sequences, n, panels, above, rows_here)
                else:
                    pack(h, first * n, n, 1, sequences, n, panels, above, rows_here)
            add_product(d_recurrent, 0, 1, width, width, panels, rows_here, n, d_weight_h)
            if not gathered:
                _input_gradients(
                    d_inputs, x, start * batch + first, bins_here, sequences, batch, inputs, width,
                    panels_x, d_weight_x, dx,
                )  # fmt: skip
            for j in range(len(totals)):
                totals[j] += sums[j]

    @njit(cache=True, **JIT)
    def step(x, h, after, panels, biases, norm, eps, sizes, scratch):
        """One bin of one sequence through all layers: h and `after` (layers, H).

        The layers' panels (W_x^T, then W_h^T), biases (6 H) and norms (12 H) follow each other.
        """
        layers, inputs, n = sizes
        width, text = 3 * n, sources  # noqa: F841
        stride = padded(width, x.itemsize)
        product, u, a, total, kept = (
            row(scratch, 0, stride), row(scratch, stride, stride), row(scratch, 2 * stride, stride),
            row(scratch, 3 * stride, stride), row(scratch, 4 * stride, stride),
        )  # fmt: skip
        stats, place, source = row(scratch, 5 * stride, STATS), 0, row(x, 0, inputs)
        for layer in range(layers):
            h_row, y_row = row(h, layer * n, n), row(after, layer * n, n)
            for side in range(2):
                given, columns, target = (source, inputs, u) if side == 0 else (h_row, n, a)
                bias = row(biases, (2 * layer + side) * width, width)
                matrix = row(panels, place, stride * columns)
                product[:] = 0
                add_product(given, 0, columns, 1, 1, matrix, columns, width, product)
                for j in range(width):
                    target[j] = product[j] + bias[j]
                place += stride * columns
            rows = (u, a, row(norm, 4 * layer * width, 4 * width), h_row, total, kept, stats, y_row)
            if form == PLAIN:
                plain_forward(*rows, n, eps)
            elif form == APART:
                apart_forward(*rows, n, eps)
            elif form == SUM:
                sum_forward(*rows, n, eps)
            else:
                sum2_forward(*rows, n, eps)
            source, inputs = y_row, n

    return Kernels(forward, backward, step)
