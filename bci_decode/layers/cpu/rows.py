"""One bin of one sequence, forward and backward, for each form of the recurrent layer.

Shapes: H hidden_size; rows of 3 H columns hold update gate z, reset gate r and candidate, in the
plain form r, z and candidate as in `torch.nn.GRU`. x is the input side of a bin, a the recurrent
side, h the state before, y the state after; `kept` holds the gates and the candidate for the
backward, `stats` the mean and 1 / SD of each normalized group. `norm` has four rows: gain and bias
of the input side, gain and bias of the recurrent side (also those of a norm of the sum).

Each loop writes one array and reads whole rows from their first element. LLVM makes vector
instructions of such loops only; others run ten times slower and give the same result.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from bci_decode.layers.cpu.product import JIT, at, number

FAST: dict[str, Any] = {**JIT, "fastmath": {"contract", "reassoc", "nsz", "arcp", "afn"}}
PLAIN, APART, SUM, SUM2 = range(4)
FORMS = {"plain": PLAIN, "apart": APART, "sum": SUM, "sum2": SUM2}
STATS = 8  # numbers per row

f32 = np.float32
TANH_LIMIT = f32(7.90531110763549805)  # the rational function is 1 beyond
TANH_TOP = tuple(map(f32, (
    4.89352455891786e-03, 6.37261928875436e-04, 1.48572235717979e-05, 5.12229709037114e-08,
    -8.60467152213735e-11, 2.00018790482477e-13, -2.76076847742355e-16,
)))  # fmt: skip
TANH_BOTTOM = tuple(map(f32, (
    4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06,
)))  # fmt: skip


def tanh(x: Any) -> Any:
    """In float32 a rational function (degrees 13 and 6, as in Eigen), exact to 3e-7 of itself."""
    return math.tanh(x)


@overload(tanh, jit_options=FAST)
def _tanh(x):
    if x == types.float64:
        return lambda x: math.tanh(x)
    t0, t1, t2, t3, t4, t5, t6 = TANH_TOP
    b0, b1, b2, b3 = TANH_BOTTOM

    def rational(x):
        x = TANH_LIMIT if x > TANH_LIMIT else x  # two comparisons keep NaN
        x = -TANH_LIMIT if x < -TANH_LIMIT else x
        s = x * x
        top = x * (t0 + s * (t1 + s * (t2 + s * (t3 + s * (t4 + s * (t5 + s * t6))))))
        return top / (b0 + s * (b1 + s * (b2 + s * b3)))

    return rational


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)) by `tanh`."""
    return 0.5 + 0.5 * math.tanh(0.5 * x)


@overload(sigmoid, jit_options=FAST)
def _sigmoid(x):
    half = f32(0.5) if x == types.float32 else 0.5
    return lambda x: half + half * tanh(half * x)


@njit(**FAST)
def moments(v, n, eps):
    """Mean of v[:n], and 1 / sqrt(variance + eps)."""
    total = number(0, v)
    for j in range(n):
        total += v[j]
    scale = number(1, v) / number(n, v)
    mean = total * scale
    squares = number(0, v)
    for j in range(n):
        deviation = v[j] - mean
        squares += deviation * deviation
    return mean, number(1, v) / math.sqrt(squares * scale + eps)


@njit(**FAST)
def add(total, values, n):
    for j in range(n):
        total[j] += values[j]


@njit(**FAST)
def _mix(h, z, c, y, n):
    for j in range(n):
        y[j] = h[j] + z[j] * (c[j] - h[j])


@njit(**FAST)
def _gates_of_sum(x, a, norm, total, kept, stats, group, n, eps):
    """Gates of LN(x + a), normalized over the first `group` columns; leaves the sum in `total`."""
    gain, shift = at(norm, 6 * n), at(norm, 9 * n)
    for j in range(group):
        total[j] = x[j] + a[j]
    mean, scale = moments(total, group, eps)
    for j in range(2 * n):
        kept[j] = sigmoid((total[j] - mean) * scale * gain[j] + shift[j])
    stats[0], stats[1] = mean, scale


@njit(**FAST)
def plain_forward(x, a, h, kept, y, n):
    """h' = (1 - z) n + z h with n = tanh(x + r a), as in `torch.nn.GRU`."""
    r, z, c = at(kept, 0), at(kept, n), at(kept, 2 * n)
    x_c, a_c = at(x, 2 * n), at(a, 2 * n)
    for j in range(2 * n):
        kept[j] = sigmoid(x[j] + a[j])
    for j in range(n):
        c[j] = tanh(x_c[j] + r[j] * a_c[j])
    _mix(c, z, h, y, n)


@njit(**FAST)
def apart_forward(x, a, norm, h, kept, stats, y, n, eps):
    """Ba, Kiros and Hinton 2016, supplement: LN(W_x x) + LN(W_h h); r multiplies LN(U h)."""
    z, r, c = at(kept, 0), at(kept, n), at(kept, 2 * n)
    x_c, a_c = at(x, 2 * n), at(a, 2 * n)
    gain_x, shift_x = at(norm, 0), at(norm, 3 * n)
    gain_a, shift_a = at(norm, 6 * n), at(norm, 9 * n)
    mean_x, scale_x = moments(x, 2 * n, eps)
    mean_a, scale_a = moments(a, 2 * n, eps)
    for j in range(2 * n):
        of_x = (x[j] - mean_x) * scale_x * gain_x[j] + shift_x[j]
        kept[j] = sigmoid(of_x + (a[j] - mean_a) * scale_a * gain_a[j] + shift_a[j])
    stats[0], stats[1], stats[2], stats[3] = mean_x, scale_x, mean_a, scale_a
    gain_x, shift_x = at(norm, 2 * n), at(norm, 5 * n)
    gain_a, shift_a = at(norm, 8 * n), at(norm, 11 * n)
    mean_x, scale_x = moments(x_c, n, eps)
    mean_a, scale_a = moments(a_c, n, eps)
    for j in range(n):
        of_a = (a_c[j] - mean_a) * scale_a * gain_a[j] + shift_a[j]
        c[j] = tanh((x_c[j] - mean_x) * scale_x * gain_x[j] + shift_x[j] + r[j] * of_a)
    stats[4], stats[5], stats[6], stats[7] = mean_x, scale_x, mean_a, scale_a
    _mix(h, z, c, y, n)


@njit(**FAST)
def sum_forward(x, a, norm, h, total, kept, stats, y, n, eps):
    """One LN over all of W x + U h; r multiplies the candidate's whole normalized value."""
    z, r, c = at(kept, 0), at(kept, n), at(kept, 2 * n)
    gain, shift = at(norm, 8 * n), at(norm, 11 * n)
    total_c = at(total, 2 * n)
    _gates_of_sum(x, a, norm, total, kept, stats, 3 * n, n, eps)
    mean, scale = stats[0], stats[1]
    for j in range(n):
        c[j] = tanh(r[j] * ((total_c[j] - mean) * scale * gain[j] + shift[j]))
    _mix(h, z, c, y, n)


@njit(**FAST)
def sum2_forward(x, a, norm, h, total, kept, stats, y, n, eps):
    """LN of the gates' W_x x + W_h h, and LN(W x + r * U h) for the candidate."""
    z, r, c = at(kept, 0), at(kept, n), at(kept, 2 * n)
    gain, shift = at(norm, 8 * n), at(norm, 11 * n)
    x_c, a_c, total_c = at(x, 2 * n), at(a, 2 * n), at(total, 2 * n)
    _gates_of_sum(x, a, norm, total, kept, stats, 2 * n, n, eps)
    for j in range(n):
        total_c[j] = x_c[j] + r[j] * a_c[j]
    mean, scale = moments(total_c, n, eps)
    for j in range(n):
        c[j] = tanh((total_c[j] - mean) * scale * gain[j] + shift[j])
    stats[2], stats[3] = mean, scale
    _mix(h, z, c, y, n)


@njit(**FAST)
def _norm_backward(d, v, mean, scale, gain, d_gain, out, n):
    """out: the gradient of v for the gradient d of LN(v) gain + bias; adds the gain's to d_gain."""
    plain = moved = number(0, v)
    for j in range(n):
        value = d[j] * gain[j]
        plain += value
        moved += value * (v[j] - mean)
    share = number(1, v) / number(n, v)
    plain, moved = plain * share, moved * share * scale * scale
    for j in range(n):
        out[j] = scale * (d[j] * gain[j] - plain - (v[j] - mean) * moved)
    for j in range(n):
        d_gain[j] += d[j] * (v[j] - mean) * scale


@njit(**FAST)
def _mix_backward(dh, h, z, c, d_z, d_c, n):
    """Gradients of z's and the candidate's arguments; dh becomes that of h through the mixture."""
    one = number(1, h)
    for j in range(n):
        d_c[j] = dh[j] * z[j] * (one - c[j] * c[j])
    for j in range(n):
        d_z[j] = dh[j] * (c[j] - h[j]) * z[j] * (one - z[j])
    for j in range(n):
        dh[j] = dh[j] * (one - z[j])


@njit(**FAST)
def plain_backward(dh, h, a, kept, dx, da, n):
    one = number(1, h)
    r, z, c = at(kept, 0), at(kept, n), at(kept, 2 * n)
    dx_r, dx_z, dx_c, da_c = at(dx, 0), at(dx, n), at(dx, 2 * n), at(da, 2 * n)
    a_c = at(a, 2 * n)
    for j in range(n):
        dx_c[j] = dh[j] * (one - z[j]) * (one - c[j] * c[j])
    for j in range(n):
        dx_z[j] = dh[j] * (h[j] - c[j]) * z[j] * (one - z[j])
    for j in range(n):
        dx_r[j] = dx_c[j] * a_c[j] * r[j] * (one - r[j])
    for j in range(2 * n):
        da[j] = dx[j]
    for j in range(n):
        da_c[j] = dx_c[j] * r[j]
    for j in range(n):
        dh[j] = dh[j] * z[j]


@njit(**FAST)
def apart_backward(dh, h, x, a, kept, stats, norm, sums, total, d, dx, da, n):
    one = number(1, h)
    z, r, c = at(kept, 0), at(kept, n), at(kept, 2 * n)
    d_z, d_r, d_c, d_n = at(d, 0), at(d, n), at(d, 2 * n), at(total, 0)
    x_c, a_c, dx_c, da_c = (
        at(x, 2 * n), at(a, 2 * n), at(dx, 2 * n), at(da, 2 * n)
    )  # fmt: skip
    gain, shift, mean, scale = at(norm, 8 * n), at(norm, 11 * n), stats[6], stats[7]
    _mix_backward(dh, h, z, c, d_z, d_c, n)
    for j in range(n):
        d_n[j] = d_c[j] * r[j]
    for j in range(n):
        of_a = (a_c[j] - mean) * scale * gain[j] + shift[j]
        d_r[j] = d_c[j] * of_a * r[j] * (one - r[j])
    gain_x, gain_a = at(sums, 0), at(sums, 6 * n)
    _norm_backward(d, x, stats[0], stats[1], norm, gain_x, dx, 2 * n)
    _norm_backward(d, a, stats[2], stats[3], at(norm, 6 * n), gain_a, da, 2 * n)
    gain_x, gain_a = at(sums, 2 * n), at(sums, 8 * n)
    _norm_backward(d_c, x_c, stats[4], stats[5], at(norm, 2 * n), gain_x, dx_c, n)
    _norm_backward(d_n, a_c, mean, scale, gain, gain_a, da_c, n)
    add(at(sums, 3 * n), d, 3 * n)  # biases; those of the gates are of both sides
    add(at(sums, 11 * n), d_n, n)


@njit(**FAST)
def sum_backward(dh, h, x, a, kept, stats, norm, sums, total, d, dx, da, n):
    one, mean, scale = number(1, h), stats[0], stats[1]
    z, r, c = at(kept, 0), at(kept, n), at(kept, 2 * n)
    d_z, d_r, d_c, total_c = at(d, 0), at(d, n), at(d, 2 * n), at(total, 2 * n)
    gain, shift = at(norm, 8 * n), at(norm, 11 * n)
    for j in range(3 * n):
        total[j] = x[j] + a[j]
    _mix_backward(dh, h, z, c, d_z, d_c, n)
    for j in range(n):
        value = (total_c[j] - mean) * scale * gain[j] + shift[j]
        d_r[j] = d_c[j] * value * r[j] * (one - r[j])
    for j in range(n):
        d_c[j] = d_c[j] * r[j]
    gains = at(norm, 6 * n)
    _norm_backward(d, total, mean, scale, gains, at(sums, 6 * n), dx, 3 * n)
    for j in range(3 * n):
        da[j] = dx[j]
    add(at(sums, 9 * n), d, 3 * n)


@njit(**FAST)
def sum2_backward(dh, h, x, a, kept, stats, norm, sums, total, d, dx, da, n):
    one = number(1, h)
    z, r, c = at(kept, 0), at(kept, n), at(kept, 2 * n)
    d_z, d_r, d_c, total_c = at(d, 0), at(d, n), at(d, 2 * n), at(total, 2 * n)
    x_c, a_c, dx_c, da_c = (
        at(x, 2 * n), at(a, 2 * n), at(dx, 2 * n), at(da, 2 * n)
    )  # fmt: skip
    for j in range(2 * n):
        total[j] = x[j] + a[j]
    for j in range(n):
        total_c[j] = x_c[j] + r[j] * a_c[j]
    _mix_backward(dh, h, z, c, d_z, d_c, n)
    gain, d_gain = at(norm, 8 * n), at(sums, 8 * n)
    _norm_backward(d_c, total_c, stats[2], stats[3], gain, d_gain, dx_c, n)
    for j in range(n):
        da_c[j] = dx_c[j] * r[j]
    for j in range(n):
        d_r[j] = dx_c[j] * a_c[j] * r[j] * (one - r[j])
    gain, d_gain = at(norm, 6 * n), at(sums, 6 * n)
    _norm_backward(d, total, stats[0], stats[1], gain, d_gain, dx, 2 * n)
    for j in range(2 * n):
        da[j] = dx[j]
    add(at(sums, 9 * n), d, 3 * n)
