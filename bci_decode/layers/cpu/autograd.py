"""The fused GRU for CPUs: `LayerNormGRU` and the plain GRU with a hand-written backward.

Shapes: T bins, B sequences, I inputs, H hidden_size; the 3 H columns are update gate z, reset gate
r and candidate. The plain GRU has torch's convention: r before z; z is the share of the OLD state.

Why it is fast:

- The rows of each weight are centered over each LayerNorm group once per call (the mean row is
  subtracted). Pre-activations then have mean zero, and each bin needs only their norms.
- Elementwise work runs over chunks of bins that stay in cache. The loop over bins contains only
  what needs the state: one product, one norm, the gates.
- The backward computes all local derivatives of a chunk first, and the weights' gradients in one
  product per chunk.
- tanh(a) is computed as 2 sigmoid(2 a) - 1, because ATen's sigmoid is much faster, so the
  candidate's columns hold 2 a. Chunks with small candidates, where this is inexact, use tanh.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bci_decode.layers.cpu import recurrence as loops
from bci_decode.layers.cpu.input_projection import Gradients, Projection
from bci_decode.layers.cpu.layer_norm import NormConstants, norm_constants, with_centered_weights
from bci_decode.layers.cpu.matmul import large_products
from bci_decode.layers.cpu.workspace import (
    MIN_SIZE_FOR_VIEWS,
    BackwardWork,
    ForwardWork,
    allocate,
    forward_steps,
    workspace,
)
from bci_decode.layers.weights import GateWeights


def fused_gru(
    x: Tensor,
    h: Tensor | None,
    inputs: GateWeights,
    recurrent: GateWeights,
    eps: float | None,
    index: Tensor | None = None,
) -> Tensor:
    """States (T, B, H) for inputs x (T, B, I) from the initial state h (B, H), or from zeros.

    `eps` is added to the variances of the LayerNorm GRU; None selects the plain GRU. With `index`
    (T, B), x is (bins, I), sequence b has the bins index[:, b], and each bin is projected once. Can
    be differentiated once.
    """
    tensors = (x, h, *inputs, *recurrent)
    if torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    ):
        return _FusedGRU.apply(eps, index, *tensors)
    if eps is not None:
        inputs, recurrent = with_centered_weights(inputs), with_centered_weights(recurrent)
    return _forward(x, h, inputs, recurrent, eps, index, None)


class _FusedGRU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        eps: float | None,
        index: Tensor | None,
        x: Tensor,
        h: Tensor | None,
        *sides: Tensor | None,
    ) -> Tensor:
        bins, sequences = (x if index is None else index).shape[:2]
        inputs, recurrent = GateWeights(*sides[:4]), GateWeights(*sides[4:])  # type: ignore[arg-type]
        if eps is not None:
            inputs, recurrent = with_centered_weights(inputs), with_centered_weights(recurrent)
        hidden, rows = recurrent.weight.shape[1], x.shape[:-1].numel() * (eps is not None)
        kept = [(bins, sequences, width * hidden) for width in (3, 2, 1)]
        # input side: normalized W x, 1 / SD; recurrent side: the same after gates and candidate
        saved = allocate(x, (rows, 3 * hidden), (rows, 3), *kept, (bins, sequences, 3))
        y = _forward(x, h, inputs, recurrent, eps, index, saved)
        ctx.save_for_backward(x, h, y, index, *inputs, *recurrent, *saved)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True: the gradients would silently be constants
            raise RuntimeError(
                "the fused layer has no second derivatives: set its use_fused = False, "
                "or drop create_graph"
            )
        x, h, y, index, *tensors = ctx.saved_tensors
        sides, saved = (GateWeights(*tensors[:4]), GateWeights(*tensors[4:8])), tensors[8:]
        with torch.autocast("cpu", enabled=False):
            return (
                None,
                None,
                *_backward(dy, x, h, y, *sides, ctx.eps, index, saved, ctx.needs_input_grad[2]),
            )


def _forward(
    x: Tensor,
    h: Tensor | None,
    inputs: GateWeights,
    recurrent: GateWeights,
    eps: float | None,
    index: Tensor | None,
    saved: list[Tensor] | None,
) -> Tensor:
    (bins, sequences), hidden = (x if index is None else index).shape[:2], recurrent.weight.shape[1]
    work = workspace(ForwardWork, bins, sequences, hidden, x.dtype)
    weight, bias = recurrent.weight.t(), recurrent.bias
    if bins > 5:
        weight = weight.contiguous()  # costs more than a few slower products
    norms = norm_constants(hidden, eps, x.dtype)
    project = Projection(inputs, recurrent.shift, norms)
    rows = x.reshape(-1, x.shape[-1])
    if index is not None:
        projected = rows.new_empty(len(rows), 3 * hidden)
        project(rows, projected, saved and saved[:2])
    y = x.new_empty(bins, sequences, hidden)
    if h is None:
        work.h[0].zero_()
    else:
        work.h[0].copy_(h)
    with large_products(sequences * 3 * hidden * hidden):
        for start in range(0, bins, work.length):
            stop = min(start + work.length, bins)
            n, part = stop - start, slice(start * sequences, stop * sequences)
            u = work.u[:n].view(-1, 3 * hidden)
            if index is not None:
                torch.index_select(projected, 0, index[start:stop].flatten(), out=u)
            else:
                project(rows[part], u, saved and [tensor[part] for tensor in saved[:2]])
            kept = [] if saved is None else [tensor[start:stop] for tensor in saved[2:]]
            direct = bool(kept) and sequences * hidden >= MIN_SIZE_FOR_VIEWS
            a, zr, c, rs = kept if direct else (work.a, work.zr, work.c, work.rs)
            views = forward_steps(work.h, a, rs, work.u, zr, c) if direct else work.steps
            zero_initial_state = start == 0 and h is None
            if bias is not None:
                a[:n].copy_(bias)
            elif zero_initial_state:
                a[0].zero_()
            begin = (
                weight,
                bias is not None,
                zero_initial_state,
                _small(work.u[:n, :, 2 * hidden :]),
            )
            if norms is None:
                loops.gru_forward(views[:n], *begin)
            else:
                loops.layernorm_gru_forward(views[:n], work, *begin, recurrent, norms)
            y[start:stop].copy_(work.h[1 : n + 1])
            work.h[0].copy_(work.h[n])
            if kept and not direct:
                for tensor, buffer in zip(kept, (a, zr, c, rs), strict=True):
                    tensor.copy_(buffer[:n])
    return y


def _small(u: Tensor) -> bool:
    """Whether 2 a, the candidates' input side (n, B, H), is too small in a bin: it needs tanh."""
    if u.numel() == 0:
        return False
    return (
        torch.linalg.vector_norm(u, dim=(1, 2)).min().item()
        < 2 * loops.TANH_EXACT_BELOW * u[0].numel() ** 0.5
    )


def _backward(
    dy: Tensor,
    x: Tensor,
    h: Tensor | None,
    y: Tensor,
    inputs: GateWeights,
    recurrent: GateWeights,
    eps: float | None,
    index: Tensor | None,
    saved: list[Tensor],
    needs_dx: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, h and the tensors of both sides."""
    bins, sequences, hidden = y.shape
    work = workspace(BackwardWork, bins, sequences, hidden, y.dtype)
    norms = norm_constants(hidden, eps, y.dtype)
    project, of_x, of_h = (
        Projection(inputs, recurrent.shift, norms),
        Gradients(inputs),
        Gradients(recurrent),
    )
    rows = x.reshape(-1, x.shape[-1])
    dx = torch.empty_like(rows) if needs_dx else None
    du = None if index is None else rows.new_zeros(len(rows), 3 * hidden)
    with large_products(sequences * 3 * hidden * hidden):
        for start in reversed(range(0, bins, work.length)):
            stop = min(start + work.length, bins)
            n, part = stop - start, slice(start * sequences, stop * sequences)
            before = y[start - 1 : stop - 1] if start else _shifted(y[:stop], h)
            work.dh[n].copy_(dy[-1] if stop == bins else work.dh[0])
            work.dh[1:n].copy_(dy[start : stop - 1])
            if start:
                work.dh[0].copy_(dy[start - 1])
            else:
                work.dh[0].zero_()
            skip_initial_state_grad = start == 0 and h is None
            a, zr, c, rs = (tensor[start:stop] for tensor in saved[2:])
            a = a.unflatten(2, (3, hidden))
            if norms is None:
                loops.gru_local_gradients(work, a, zr, c, before)
                loops.gru_backward(work, n, recurrent.weight, skip_initial_state_grad)
            else:
                loops.layernorm_gru_local_gradients(work, a, zr, c, rs, before, recurrent)
                loops.layernorm_gru_backward(
                    work, a, recurrent.weight, skip_initial_state_grad, norms
                )
            d = _of_pre_activations(work, a, recurrent, of_h, norms)
            of_h.add(before.reshape(-1, hidden), work.da[:n].view(-1, 3 * hidden))
            if du is None:
                project.backward(
                    d,
                    rows[part],
                    [t[part] for t in saved[:2]],
                    of_x,
                    None if dx is None else dx[part],
                )
            else:
                du.index_add_(0, index[start:stop].flatten(), d)  # type: ignore[index]
    if du is not None:
        project.backward(du, rows, saved[:2], of_x, dx)
    if norms is not None and recurrent.gain is not None:
        of_h.shift[: 2 * hidden] = of_x.shift[: 2 * hidden]
        of_h.shift[2 * hidden :] *= 2
        of_x.shift.mul_(norms.doubled)
    return (
        None if dx is None else dx.view_as(x),
        None if h is None else work.dh[0].clone(),
        *of_x.result(norms),
        *of_h.result(norms),
    )


def _of_pre_activations(
    work: BackwardWork, a: Tensor, side: GateWeights, of_h: Gradients, norms: NormConstants | None
) -> Tensor:
    """Gradients of u (rows, 3 H); adds those of the recurrent norm's gain and bias to `of_h`."""
    n, hidden = len(a), a.shape[-1]
    dh, f, d = work.dh[1 : n + 1, :, None], work.f[:n], work.d[:n]
    d[:, :, 2].mul_(dh[:, :, 0])
    if norms is None:
        d[:, :, :2].copy_(work.da[:n, :, :2])
    else:
        torch.mul(f[:, :, :2], dh, out=d[:, :, :2])
    if side.gain is not None:
        dm = f[:, :, 2].mul_(dh[:, :, 0])
        of_h.shift[2 * hidden :] += dm.sum((0, 1))
        of_h.gain[2 * hidden :] += dm.mul_(a[:, :, 2]).sum((0, 1))
        of_h.gain[: 2 * hidden] += (
            torch.mul(d[:, :, :2], a[:, :, :2], out=f[:, :, :2]).sum((0, 1)).flatten()
        )
    return d.view(-1, 3 * hidden)


def _shifted(y: Tensor, h: Tensor | None) -> Tensor:
    """The state before each bin: h or zeros, then y (T, B, H) without its last bin."""
    return torch.cat([y.new_zeros(1, *y.shape[1:]) if h is None else h[None], y[:-1]])
