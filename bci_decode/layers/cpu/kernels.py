"""The loops over bins, compiled by numba: forward and backward of one layer in one direction.

Shapes: T bins, B sequences, I inputs, H hidden_size. All arrays are flat: inputs and their
gradients (T, B, I), states (T, B, H), and rows of 3 H columns as in `rows`: `projected`, the input
side; `recurrent`, the recurrent side, of the plain form only the candidate's H columns; `kept`,
gates and candidate. With `index` (T, B), `projected` has a row for each bin that it names.

A call works on the sequences `first` to `last` without the interpreter's lock and in the memory
`work` that is its own, so threads can share a batch. A state depends on no other sequence and on no
later bin. The caller makes all memory: the kernels use pointers, which keep no array alive.

`kernels_of` and `shared_kernels` compile at first use. numba keeps the code on disk under the hash
of a function's own text and closure. So `sources`, a hash of all compiled text, is in each closure.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from numba import njit

from bci_decode.layers.cpu.linking import KernelCompiler
from bci_decode.layers.cpu.product import (
    JIT,
    add_product,
    at,
    lanes,
    lanes_of,
    number,
    pack,
    padded,
    set_zero,
)
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
ROWS = 64  # rows of the input side that are multiplied together
LINE = 8  # numbers in a cache line, at least
CHUNK = 128  # rows whose gradients are multiplied together; more would leave the L2 cache


def _hash_of_sources() -> str:
    names = "kernels.py", "linking.py", "rows.py", "product.py"
    text = b"".join(Path(__file__).with_name(name).read_bytes() for name in names)
    return hashlib.sha256(text).hexdigest()


SOURCES = _hash_of_sources()


def _kernel(function: Callable) -> Callable:
    """Compile a function; keep the code on disk if numba finds a folder that it can write to."""
    try:
        return njit(cache=True, pipeline_class=KernelCompiler, **JIT)(function)
    except RuntimeError:
        return njit(pipeline_class=KernelCompiler, **JIT)(function)


class Kernels(NamedTuple):
    """The compiled functions of one form."""

    forward: Callable
    backward: Callable
    recur: Callable
    step: Callable


class SharedKernels(NamedTuple):
    """The compiled functions that all forms use."""

    packed: Callable
    project: Callable
    input_gradients: Callable


def backward_work(sizes, sequences, itemsize):
    """Elements of `work` that `backward` needs."""
    bins, _, inputs, n = sizes
    chunk_rows = min(max(1, CHUNK // max(1, sequences)), bins) * sequences
    widest = max(padded(n, lanes_of(itemsize)), padded(inputs, lanes_of(itemsize)))
    return (ROWS + chunk_rows) * widest + 24 * n + 2 * chunk_rows * 3 * n


@njit(**JIT)
def _map(x, stride, count, inputs, panels, biases, width, out):
    """Write x W^T + bias, `count` rows (padded), to `out`; without x only the bias."""
    out_stride = padded(width, lanes(out))
    for i in range(count):
        target = at(out, i * out_stride)
        for j in range(out_stride):
            target[j] = biases[j]
    if inputs:
        add_product(x, stride, 1, count, panels, inputs, width, out)


@njit(**JIT)
def _project(x, count, inputs, panels, biases, width, out):
    """`_map` of any number of rows, in parts that stay in the cache."""
    out_stride = padded(width, lanes(out))
    for first in range(0, count, ROWS):
        part, target = at(x, first * inputs), at(out, first * out_stride)
        _map(part, inputs, min(ROWS, count - first), inputs, panels, biases, width, target)


@njit(**JIT)
def _input_gradients(d, x, groups, size, distance, sizes, panels, d_weight, dx, wanted, work):
    """Add d^T x to W's gradient and, if dx is wanted, write dx = d W.

    The rows of x lie in `groups` of `size`, which begin `distance` rows apart.
    """
    inputs, width = sizes[2], 3 * sizes[3]
    stride, rows = padded(inputs, lanes(x)), groups * size
    product, columns = work, at(work, ROWS * stride)
    for g in range(groups):
        pack(at(x, g * distance * inputs), inputs, 1, size, inputs, columns, g * size, rows)
    add_product(d, 1, width, width, columns, rows, inputs, d_weight)
    for first in range(0, rows if wanted else 0, ROWS):
        count = min(ROWS, rows - first)
        set_zero(product, count * stride)
        add_product(at(d, first * width), width, 1, count, panels, width, inputs, product)
        for i in range(count):
            group, place = divmod(first + i, size)
            source = at(product, i * stride)
            target = at(dx, (group * distance + place) * inputs)
            for j in range(inputs):
                target[j] = source[j]


@functools.cache
def shared_kernels(sources: str = SOURCES) -> SharedKernels:
    @_kernel
    def packed(weight, outputs, inputs, transposed, panels):
        """Write the weight (outputs, inputs) as panels of W^T, or of W if not `transposed`."""
        text = sources  # noqa: F841  # only what is used is in the closure
        if transposed:
            pack(at(weight, 0), 1, inputs, inputs, outputs, at(panels, 0), 0, inputs)
        else:
            pack(at(weight, 0), inputs, 1, outputs, inputs, at(panels, 0), 0, outputs)

    @_kernel
    def project(x, count, sizes, panels, biases, out):
        """The input side of all rows of x."""
        text, inputs, width = sources, sizes[2], 3 * sizes[3]  # noqa: F841
        weights = at(panels, 0), at(biases, 0)
        _project(at(x, 0), count, inputs, *weights, width, at(out, 0))

    @_kernel
    def input_gradients(d, x, count, sizes, panels, d_weight, dx, work):
        """The gradients of `project`."""
        text, inputs, width = sources, sizes[2], 3 * sizes[3]  # noqa: F841
        for first in range(0, count, CHUNK):
            rows, place = min(CHUNK, count - first), first * inputs
            _input_gradients(
                at(d, first * width), at(x, place), 1, rows, 0, sizes, at(panels, 0),
                at(d_weight, 0), at(dx, place), len(dx) > 0, at(work, 0),
            )  # fmt: skip

    return SharedKernels(packed, project, input_gradients)


@functools.cache
def kernels_of(form: int, sources: str = SOURCES) -> Kernels:
    @_kernel
    def forward(
        x, index, h, has_state, panels_x, panels_h, biases_x, biases_h, norm, eps,
        y, projected, recurrent, kept, stats, keep, sizes, first, last, total,
    ):  # fmt: skip
        """Write the states y.

        `projected` holds all bins if their input side is kept, else as many as are projected at
        once. Without `keep`, `recurrent`, `kept` and `stats` hold a block.
        """
        bins, batch, inputs, n = sizes
        width, sequences, text = 3 * n, last - first, sources  # noqa: F841
        gate_stride, gathered = padded(width, lanes(at(x, 0))), len(index) > 0
        whole = form != PLAIN and keep
        norms, totals = at(norm, 0), at(total, 0)
        # bins whose rows lie one after another
        chunk = max(1, CHUNK // max(1, batch)) if batch == sequences else 1
        for t in range(bins):
            if not gathered and t % chunk == 0:
                start, count = t * batch + first, sequences * min(chunk, bins - t)
                target = at(projected, start * gate_stride if whole else 0)
                part = at(x, start * inputs)
                _project(part, count, inputs, at(panels_x, 0), at(biases_x, 0), width, target)
            for i in range(first, last, BLOCK):
                count = min(BLOCK, last - i)
                row = t * batch + i if keep else 0
                before = at(y, ((t - 1) * batch + i) * n) if t else at(h, i * n)
                _map(
                    before, n, count, n if t or has_state else 0, at(panels_h, 0), at(biases_h, 0),
                    width, at(recurrent, row * gate_stride),
                )  # fmt: skip
                for b in range(i, i + count):
                    place = t * batch + b
                    source = place if whole else (t % chunk) * sequences + b - first
                    if gathered:
                        source = index[place]
                    x_row, h_row = at(projected, source * gate_stride), at(before, (b - i) * n)
                    a, y_row = at(recurrent, (row + b - i) * gate_stride), at(y, place * n)
                    kept_row = at(kept, (row + b - i) * width)
                    stats_row = at(stats, (row + b - i) * STATS)
                    if form == PLAIN:
                        plain_forward(x_row, a, h_row, kept_row, y_row, n)
                    elif form == APART:
                        apart_forward(x_row, a, norms, h_row, kept_row, stats_row, y_row, n, eps)
                    elif form == SUM:
                        sum_forward(
                            x_row, a, norms, h_row, totals, kept_row, stats_row, y_row, n, eps
                        )
                    else:
                        sum2_forward(
                            x_row, a, norms, h_row, totals, kept_row, stats_row, y_row, n, eps
                        )

    @_kernel
    def backward(
        dy, x, index, h, y, has_state, panels_x, panels_h, norm,
        projected, recurrent, kept, stats,
        dx, d_projected, dh, d_weight_x, d_weight_h, totals, biased, sizes, first, last, work,
    ):  # fmt: skip
        """Add to the weights' gradients, to `dh` and to `totals` (18 H): gains and biases of norms,
        biases of maps. With an index, add to `d_projected`; else write `dx` if it is wanted."""
        bins, batch, inputs, n = sizes
        width, sequences, text = 3 * n, last - first, sources  # noqa: F841
        lane_count = lanes(at(x, 0))
        gate_stride, state_stride = padded(width, lane_count), padded(n, lane_count)
        chunk, gathered = max(1, CHUNK // max(1, sequences)), len(index) > 0
        chunk_rows = min(chunk, bins) * sequences
        # after the columns of products: the sum of both sides, gradients of what sigmoid and tanh
        # take, of norms and biases, and of both sides, as `backward_work` counts them
        total = at(work, (ROWS + chunk_rows) * max(state_stride, padded(inputs, lane_count)))
        d, sums, d_inputs = at(total, width), at(total, 2 * width), at(total, 8 * width)
        d_recurrent, norms = at(d_inputs, chunk_rows * width), at(norm, 0)
        for stop in range(bins, 0, -chunk):
            start = max(0, stop - chunk)
            set_zero(sums, 18 * n)  # of one chunk; their sum over chunks is in float64
            for t in range(stop - 1, start - 1, -1):
                for i in range(first, last, BLOCK):
                    count = min(BLOCK, last - i)
                    block = ((t - start) * sequences + i - first) * width
                    for b in range(i, i + count):
                        place, local = t * batch + b, block + (b - i) * width
                        source = index[place] if gathered else place
                        dh_row, h_row = at(dh, b * state_stride), at(h, b * n)
                        if t:
                            h_row = at(y, (place - batch) * n)
                        add(dh_row, at(dy, place * n), n)
                        x_row, a_row = (
                            at(projected, source * gate_stride),
                            at(recurrent, place * gate_stride),
                        )
                        kept_row, stats_row = at(kept, place * width), at(stats, place * STATS)
                        dx_row, da_row = at(d_inputs, local), at(d_recurrent, local)
                        if form == PLAIN:
                            plain_backward(dh_row, h_row, a_row, kept_row, dx_row, da_row, n)
                        elif form == APART:
                            apart_backward(
                                dh_row, h_row, x_row, a_row, kept_row, stats_row,
                                norms, sums, total, d, dx_row, da_row, n,
                            )  # fmt: skip
                        elif form == SUM:
                            sum_backward(
                                dh_row, h_row, x_row, a_row, kept_row, stats_row,
                                norms, sums, total, d, dx_row, da_row, n,
                            )  # fmt: skip
                        else:
                            sum2_backward(
                                dh_row, h_row, x_row, a_row, kept_row, stats_row,
                                norms, sums, total, d, dx_row, da_row, n,
                            )  # fmt: skip
                        if biased:
                            add(at(sums, 4 * width), dx_row, width)
                            add(at(sums, 5 * width), da_row, width)
                        if gathered:
                            add(at(d_projected, source * width), dx_row, width)
                    if t or has_state:
                        given, target = at(d_recurrent, block), at(dh, i * state_stride)
                        add_product(given, width, 1, count, at(panels_h, 0), width, n, target)
            rows, columns = (stop - start) * sequences, at(work, 0)
            for t in range(start, stop):
                before = at(y, ((t - 1) * batch + first) * n) if t else at(h, first * n)
                pack(before, n, 1, sequences, n, columns, (t - start) * sequences, rows)
            add_product(d_recurrent, 1, width, width, columns, rows, n, at(d_weight_h, 0))
            if not gathered:
                place = (start * batch + first) * inputs
                _input_gradients(
                    d_inputs, at(x, place), stop - start, sequences, batch, sizes, at(panels_x, 0),
                    at(d_weight_x, 0), at(dx, place), len(dx) > 0, columns,
                )  # fmt: skip
            for j in range(18 * n):
                totals[j] += sums[j]

    @_kernel
    def recur(h, recurrent, panels, biases, sizes, ahead):
        """The recurrent side of one bin in all layers, (layers, 3 H padded); see `step`.

        `ahead` then reads a number of each cache line of the input weights, so that a later `step`
        finds them in the cache; the result is only there to keep the compiler from skipping it.
        """
        layers, inputs, n = sizes
        width, text = 3 * n, sources  # noqa: F841
        matrix, stride = at(panels, 0), padded(width, lanes(at(h, 0)))
        for layer in range(layers):
            matrix, bias = at(matrix, stride * inputs), at(biases, (2 * layer + 1) * stride)
            _map(at(h, layer * n), n, 1, n, matrix, bias, width, at(recurrent, layer * stride))
            matrix, inputs = at(matrix, stride * n), n
        total, start, inputs = number(0, at(h, 0)), 0, sizes[1]
        for _ in range(layers if ahead else 0):
            for place in range(start, start + stride * inputs, LINE):
                total += panels[place]
            start, inputs = start + stride * (inputs + n), n
        return total

    @_kernel
    def step(x, h, recurrent, after, panels, biases, norm, eps, sizes, work):
        """One bin of one sequence through all layers: h and `after` (layers, H).

        The layers' panels (W_x^T, then W_h^T), biases (6 H) and norms (12 H) follow each other.
        """
        layers, inputs, n = sizes
        width, text = 3 * n, sources  # noqa: F841
        source, matrix, stride = at(x, 0), at(panels, 0), padded(width, lanes(at(x, 0)))
        u, total, kept = at(work, 0), at(work, stride), at(work, 2 * stride)
        stats = at(work, 3 * stride)
        for layer in range(layers):
            h_row, y_row, a = at(h, layer * n), at(after, layer * n), at(recurrent, layer * stride)
            norms = at(norm, 4 * layer * width)
            _map(source, inputs, 1, inputs, matrix, at(biases, 2 * layer * stride), width, u)
            matrix = at(matrix, stride * (inputs + n))
            if form == PLAIN:
                plain_forward(u, a, h_row, kept, y_row, n)
            elif form == APART:
                apart_forward(u, a, norms, h_row, kept, stats, y_row, n, eps)
            elif form == SUM:
                sum_forward(u, a, norms, h_row, total, kept, stats, y_row, n, eps)
            else:
                sum2_forward(u, a, norms, h_row, total, kept, stats, y_row, n, eps)
            source, inputs = y_row, n

    return Kernels(forward, backward, recur, step)
