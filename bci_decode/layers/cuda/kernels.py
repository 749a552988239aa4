"""Triton kernels of the GRU's recurrence: one program runs a block of sequences through all bins.

Shapes: T bins, B sequences, H hidden_size. Each gate is a tile of BLOCK_B sequences and BLOCK_H
columns, BLOCK_H being the power of two from H on; columns beyond H are zeros. With NORM the 3 H
columns are z, r, candidate, without it r, z, candidate as in `torch.nn.GRU`; z stands here for the
share of the NEW candidate in both. Per bin, with the input side u and the recurrent side a:

    a         = h W^T + bias, with NORM standardized over both gates and over the candidate
    z, r      = sigmoid(+-(u + gain a + shift)), sigmoid(u + gain a + shift)
    candidate = tanh(u + r (gain a + shift))
    h         = h + z (candidate - h)

Products are float32 without TF32, and no sum depends on the order in which programs run.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def forward_kernel(
    u, weight, bias, gain, shift, states, kept, scales, T, B, eps,
    H: tl.constexpr, NORM: tl.constexpr, KEEP: tl.constexpr, RESIDENT: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Fill states[1:] of (T + 1, B, H) from states[0]; u (T, B, 3 H), weight = W^T (H, 3 H).

    With KEEP also a (T, B, 3 H) into `kept` and, with NORM, 1 / SD (T, B, 2) into `scales`.
    """
    rows = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    columns = tl.arange(0, BLOCK_H)
    row_mask, inside = rows < B, columns < H
    mask = row_mask[:, None] & inside[None, :]
    Z: tl.constexpr = 0 if NORM else H
    R: tl.constexpr = H - Z
    C: tl.constexpr = 2 * H
    bias_z, bias_r, bias_c = _load(bias, columns, Z, R, C, inside, 0.0)
    gain_z, gain_r, gain_c = _load(gain, columns, Z, R, C, inside, 1.0)
    shift_z, shift_r, shift_c = _load(shift, columns, Z, R, C, inside, 0.0)
    if RESIDENT:
        square = columns[:, None] * (3 * H) + columns[None, :]
        w_z, w_r, w_c = _load(weight, square, Z, R, C, inside[:, None] & inside[None, :], 0.0)
    h = tl.load(states + rows[:, None] * H + columns[None, :], mask=mask, other=0.0)
    zeros = tl.zeros((BLOCK_B, BLOCK_H), tl.float32)
    for t in range(T):
        at = t * B + rows
        a_z, a_r, a_c = zeros + bias_z[None, :], zeros + bias_r[None, :], zeros + bias_c[None, :]
        if RESIDENT:
            a_z = tl.dot(h, w_z, a_z, input_precision="ieee")
            a_r = tl.dot(h, w_r, a_r, input_precision="ieee")
            a_c = tl.dot(h, w_c, a_c, input_precision="ieee")
        else:
            before = states + at * H
            a_z = _product(a_z, before, row_mask, weight + Z, 3 * H, H, BLOCK_H, BLOCK_K)
            a_r = _product(a_r, before, row_mask, weight + R, 3 * H, H, BLOCK_H, BLOCK_K)
            a_c = _product(a_c, before, row_mask, weight + C, 3 * H, H, BLOCK_H, BLOCK_K)
        if NORM:
            mean = (tl.sum(a_z, 1) + tl.sum(a_r, 1)) / (2 * H)
            a_z, a_r = _centered(a_z, mean, inside), _centered(a_r, mean, inside)
            a_c = _centered(a_c, tl.sum(a_c, 1) / H, inside)
            variance = (tl.sum(a_z * a_z, 1) + tl.sum(a_r * a_r, 1)) / (2 * H)
            gates_scale = 1.0 / tl.sqrt(variance + eps)
            new_scale = 1.0 / tl.sqrt(tl.sum(a_c * a_c, 1) / H + eps)
            a_z, a_r = a_z * gates_scale[:, None], a_r * gates_scale[:, None]
            a_c = a_c * new_scale[:, None]
            if KEEP:
                tl.store(scales + 2 * at, gates_scale, mask=row_mask)
                tl.store(scales + 2 * at + 1, new_scale, mask=row_mask)
        wide = at[:, None] * (3 * H) + columns[None, :]
        if KEEP:
            _store(kept, wide, Z, R, C, mask, a_z, a_r, a_c)
        m_z = a_z * gain_z[None, :] + shift_z[None, :]
        m_r = a_r * gain_r[None, :] + shift_r[None, :]
        m_c = a_c * gain_c[None, :] + shift_c[None, :]
        u_z, u_r, u_c = _load(u, wide, Z, R, C, mask, 0.0)
        z, _, candidate = _gates(u_z, u_r, u_c, m_z, m_r, m_c, NORM)
        h = h + z * (candidate - h)
        tl.store(states + (at + B)[:, None] * H + columns[None, :], h, mask=mask)
        if not RESIDENT:
            tl.debug_barrier()  # the next bin's product reads what other threads have written


@triton.jit
def backward_kernel(
    dy, u, weight, gain, shift, states, kept, scales, du, da, dh_first, sums, T, B,
    H: tl.constexpr, NORM: tl.constexpr, AFFINE: tl.constexpr, RESIDENT: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Gradients of u and of h W^T + bias (T, B, 3 H), and of the initial state; weight (3 H, H).

    With AFFINE also this program's part of those of `gain` and of the candidate's `shift`, into
    sums (programs, 4, H). Those of the gates' `shift` are sums of `du`.
    """
    rows = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    columns = tl.arange(0, BLOCK_H)
    row_mask, inside = rows < B, columns < H
    mask = row_mask[:, None] & inside[None, :]
    Z: tl.constexpr = 0 if NORM else H
    R: tl.constexpr = H - Z
    C: tl.constexpr = 2 * H
    gain_z, gain_r, gain_c = _load(gain, columns, Z, R, C, inside, 1.0)
    shift_z, shift_r, shift_c = _load(shift, columns, Z, R, C, inside, 0.0)
    if RESIDENT:
        square, both = columns[:, None] * H + columns[None, :], inside[:, None] & inside[None, :]
        w_z, w_r, w_c = _load(weight, square, Z * H, R * H, C * H, both, 0.0)
    sum_z = tl.zeros((BLOCK_H,), tl.float32)
    sum_r, sum_c, sum_shift = sum_z, sum_z, sum_z
    dh = tl.zeros((BLOCK_B, BLOCK_H), tl.float32)
    for back in range(T):
        at = (T - 1 - back) * B + rows
        narrow = at[:, None] * H + columns[None, :]
        wide = at[:, None] * (3 * H) + columns[None, :]
        dh += tl.load(dy + narrow, mask=mask, other=0.0)
        h = tl.load(states + narrow, mask=mask, other=0.0)
        a_z, a_r, a_c = _load(kept, wide, Z, R, C, mask, 0.0)
        m_z = a_z * gain_z[None, :] + shift_z[None, :]
        m_r = a_r * gain_r[None, :] + shift_r[None, :]
        m_c = a_c * gain_c[None, :] + shift_c[None, :]
        u_z, u_r, u_c = _load(u, wide, Z, R, C, mask, 0.0)
        z, r, candidate = _gates(u_z, u_r, u_c, m_z, m_r, m_c, NORM)
        d_z = dh * (candidate - h) * z * (1 - z)
        if not NORM:
            d_z = -d_z
        d_c = dh * z * (1 - candidate * candidate)
        d_r = d_c * m_c * r * (1 - r)
        _store(du, wide, Z, R, C, mask, d_z, d_r, d_c)
        d_c = d_c * r
        if AFFINE:
            sum_z += tl.sum(d_z * a_z, 0)
            sum_r += tl.sum(d_r * a_r, 0)
            sum_c += tl.sum(d_c * a_c, 0)
            sum_shift += tl.sum(d_c, 0)
        if NORM:
            gates_scale = tl.load(scales + 2 * at, mask=row_mask, other=0.0)
            new_scale = tl.load(scales + 2 * at + 1, mask=row_mask, other=0.0)
            d_z, d_r, d_c = d_z * gain_z[None, :], d_r * gain_r[None, :], d_c * gain_c[None, :]
            mean = (tl.sum(d_z, 1) + tl.sum(d_r, 1)) / (2 * H)
            slope = (tl.sum(d_z * a_z, 1) + tl.sum(d_r * a_r, 1)) / (2 * H)
            d_z = (_centered(d_z, mean, inside) - a_z * slope[:, None]) * gates_scale[:, None]
            d_r = (_centered(d_r, mean, inside) - a_r * slope[:, None]) * gates_scale[:, None]
            slope = tl.sum(d_c * a_c, 1) / H
            mean = tl.sum(d_c, 1) / H
            d_c = (_centered(d_c, mean, inside) - a_c * slope[:, None]) * new_scale[:, None]
        _store(da, wide, Z, R, C, mask, d_z, d_r, d_c)
        dh = dh * (1 - z)
        if RESIDENT:
            dh = tl.dot(d_z, w_z, dh, input_precision="ieee")
            dh = tl.dot(d_r, w_r, dh, input_precision="ieee")
            dh = tl.dot(d_c, w_c, dh, input_precision="ieee")
        else:
            tl.debug_barrier()  # the product reads what other threads have written
            left = da + at * (3 * H)
            dh = _product(dh, left + Z, row_mask, weight + Z * H, H, H, BLOCK_H, BLOCK_K)
            dh = _product(dh, left + R, row_mask, weight + R * H, H, H, BLOCK_H, BLOCK_K)
            dh = _product(dh, left + C, row_mask, weight + C * H, H, H, BLOCK_H, BLOCK_K)
    tl.store(dh_first + rows[:, None] * H + columns[None, :], dh, mask=mask)
    if AFFINE:
        part = sums + tl.program_id(0) * (4 * H)
        _store(part, columns, Z, R, C, inside, sum_z, sum_r, sum_c)
        tl.store(part + 3 * H + columns, sum_shift, mask=inside)


@triton.jit
def _load(
    pointer, offsets, Z: tl.constexpr, R: tl.constexpr, C: tl.constexpr, mask, default: tl.constexpr
):
    """Tiles of z, r and candidate; where there is no tensor, a default that has no effect."""
    if pointer is None:
        z = tl.zeros_like(offsets).to(tl.float32) + default
        r, c = z, z
    else:
        z = tl.load(pointer + Z + offsets, mask=mask, other=0.0)
        r = tl.load(pointer + R + offsets, mask=mask, other=0.0)
        c = tl.load(pointer + C + offsets, mask=mask, other=0.0)
    return z, r, c


@triton.jit
def _store(pointer, offsets, Z: tl.constexpr, R: tl.constexpr, C: tl.constexpr, mask, z, r, c):
    tl.store(pointer + Z + offsets, z, mask=mask)
    tl.store(pointer + R + offsets, r, mask=mask)
    tl.store(pointer + C + offsets, c, mask=mask)


@triton.jit
def _product(
    total, left, row_mask, right, stride: tl.constexpr,
    H: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Total (BLOCK_B, BLOCK_H) + left (B, H) @ right (H, H); `left` points at the rows."""
    columns = tl.arange(0, BLOCK_H)
    for first in range(0, H, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        mask = row_mask[:, None] & (k < H)[None, :]
        a = tl.load(left[:, None] + k[None, :], mask=mask, other=0.0)
        mask = (k < H)[:, None] & (columns < H)[None, :]
        b = tl.load(right + k[:, None] * stride + columns[None, :], mask=mask, other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee")
    return total


@triton.jit
def _centered(a, mean, inside):
    return tl.where(inside[None, :], a - mean[:, None], 0.0)


@triton.jit
def _gates(u_z, u_r, u_c, m_z, m_r, m_c, NORM: tl.constexpr):
    """Share of the new candidate, reset gate and candidate from both sides' tiles."""
    z = tl.sigmoid(u_z + m_z) if NORM else tl.sigmoid(-(u_z + m_z))
    r = tl.sigmoid(u_r + m_r)
    return z, r, _tanh(u_c + r * m_c)


@triton.jit
def _tanh(a):
    """By exp, which is inexact where the result is near 0; there by tanh's series."""
    square = a * a
    tail = 2 / 15 + square * (-17 / 315 + square * (62 / 2835))
    series = a * (1 + square * (-1 / 3 + square * tail))
    e = tl.exp(-2 * tl.abs(a))
    return tl.where(square < 0.0625, series, tl.where(a < 0, -1.0, 1.0) * (1 - e) / (1 + e))
