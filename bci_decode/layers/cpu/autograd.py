"""The recurrence of `layers.LayerNormGRU` and of the plain GRU, with a backward of its own: the same, faster on CPU.

Shapes: T bins, B sequences, I inputs, H hidden_size; 3 H columns are update gate z, reset gate r and candidate. The plain
GRU keeps to torch's way: r before z, and z the share of the OLD state.

What makes it fast. The rows of a weight are centred over each LayerNorm group once a call (the group's mean row is
subtracted), so pre-activations have mean zero and a bin needs only their norms. Elementwise work goes over chunks of
bins that stay in cache; the loop over bins keeps what needs the state: one product, one norm, the gates. The backward
puts all that dh is multiplied by into factors of a whole chunk, and makes the weights' gradients in one product a chunk.
tanh(a) is 2 sigmoid(2 a) - 1, since ATen's sigmoid is much the faster: the candidate's columns hold 2 a throughout. Where
the candidates may be small, and that formula too coarse, a chunk is done with tanh itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bci_decode.layers.cpu.input_projection import Gradients, Projection
from bci_decode.layers.cpu.layer_norm import Norms, Side, centred, norms_of
from bci_decode.layers.cpu.matmul import gemm_backend
from bci_decode.layers.cpu.recurrence import (
    SMALL,
    factors,
    plain_factors,
    plain_steps,
    plain_steps_back,
    steps,
    steps_back,
)
from bci_decode.layers.cpu.workspace import (
    DIRECT,
    BackwardWork,
    ForwardWork,
    forward_steps,
    lease,
    workspace,
)


def recur(
    x: Tensor, h: Tensor | None, inputs: Side, recurrent: Side, eps: float | None, index: Tensor | None = None
) -> Tensor:
    """States (T, B, H) of inputs x (T, B, I) from the state h (B, H), of a LayerNorm GRU with `eps` under its variances.

    Without h it starts from zeros, and saves the products with them; without `eps` it is the plain GRU. With `index`
    (T, B) x is (bins, I), sequence b holds the bins index[:, b], and each is projected once. Differentiable once.
    """
    tensors = (x, h, *inputs, *recurrent)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        return _Recurrence.apply(eps, index, *tensors)
    if eps is not None:
        inputs, recurrent = centred(inputs), centred(recurrent)
    return _forward(x, h, inputs, recurrent, eps, index, None)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, eps: float | None, index: Tensor | None, x: Tensor, h: Tensor | None, *sides: Tensor | None
    ) -> Tensor:
        bins, sequences = (x if index is None else index).shape[:2]
        inputs, recurrent = Side(*sides[:4]), Side(*sides[4:])  # type: ignore[arg-type]
        if eps is not None:
            inputs, recurrent = centred(inputs), centred(recurrent)
        hidden, rows = recurrent.weight.shape[1], x.shape[:-1].numel() * (eps is not None)
        kept = [(bins, sequences, width * hidden) for width in (3, 2, 1)]
        # of the input side the normalised W x and its 1 / SD; of the recurrent side the same, the gates, the candidate
        saved = lease(x, (rows, 3 * hidden), (rows, 3), *kept, (bins, sequences, 3))
        y = _forward(x, h, inputs, recurrent, eps, index, saved)
        ctx.save_for_backward(x, h, y, index, *inputs, *recurrent, *saved)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True; the gradients would silently be constants
            raise RuntimeError(
                "this layer's fast path cannot be differentiated twice: set _fast = False on it, or drop create_graph"
            )
        x, h, y, index, *tensors = ctx.saved_tensors
        sides, saved = (Side(*tensors[:4]), Side(*tensors[4:8])), tensors[8:]
        with torch.autocast("cpu", enabled=False):
            return None, None, *_backward(dy, x, h, y, *sides, ctx.eps, index, saved, ctx.needs_input_grad[2])


def _forward(
    x: Tensor,
    h: Tensor | None,
    inputs: Side,
    recurrent: Side,
    eps: float | None,
    index: Tensor | None,
    saved: list[Tensor] | None,
) -> Tensor:
    (bins, sequences), hidden = (x if index is None else index).shape[:2], recurrent.weight.shape[1]
    work = workspace(ForwardWork, bins, sequences, hidden, x.dtype)
    weight, bias = recurrent.weight.t(), recurrent.bias
    if bins > 5:
        weight = weight.contiguous()  # dearer than a few slower products
    norms = norms_of(hidden, eps, x.dtype)
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
    with gemm_backend(multiply_adds=sequences * 3 * hidden * hidden):
        for start in range(0, bins, work.length):
            stop = min(start + work.length, bins)
            n, part = stop - start, slice(start * sequences, stop * sequences)
            u = work.u[:n].view(-1, 3 * hidden)
            if index is not None:
                torch.index_select(projected, 0, index[start:stop].flatten(), out=u)
            else:
                project(rows[part], u, saved and [tensor[part] for tensor in saved[:2]])
            kept = [] if saved is None else [tensor[start:stop] for tensor in saved[2:]]
            direct = bool(kept) and sequences * hidden >= DIRECT
            a, zr, c, rs = kept if direct else (work.a, work.zr, work.c, work.rs)
            views = forward_steps(work.h, a, rs, work.u, zr, c) if direct else work.steps
            from_zero = start == 0 and h is None
            if bias is not None:
                a[:n].copy_(bias)
            elif from_zero:
                a[0].zero_()
            begin = weight, bias is not None, from_zero, _small(work.u[:n, :, 2 * hidden :])
            if norms is None:
                plain_steps(views[:n], *begin)
            else:
                steps(views[:n], work, *begin, recurrent, norms)
            y[start:stop].copy_(work.h[1 : n + 1])
            work.h[0].copy_(work.h[n])
            if kept and not direct:
                for tensor, buffer in zip(kept, (a, zr, c, rs), strict=True):
                    tensor.copy_(buffer[:n])
    return y


def _small(u: Tensor) -> bool:
    """Whether the candidates' input side (n, B, H), 2 a, is so small in any bin that its tanh has to be exact."""
    if u.numel() == 0:
        return False
    return torch.linalg.vector_norm(u, dim=(1, 2)).min().item() < 2 * SMALL * u[0].numel() ** 0.5


def _backward(
    dy: Tensor,
    x: Tensor,
    h: Tensor | None,
    y: Tensor,
    inputs: Side,
    recurrent: Side,
    eps: float | None,
    index: Tensor | None,
    saved: list[Tensor],
    needs_dx: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, h and both sides' tensors."""
    bins, sequences, hidden = y.shape
    work = workspace(BackwardWork, bins, sequences, hidden, y.dtype)
    norms = norms_of(hidden, eps, y.dtype)
    project, of_x, of_h = Projection(inputs, recurrent.shift, norms), Gradients(inputs), Gradients(recurrent)
    rows = x.reshape(-1, x.shape[-1])
    dx = torch.empty_like(rows) if needs_dx else None
    du = None if index is None else rows.new_zeros(len(rows), 3 * hidden)
    with gemm_backend(multiply_adds=sequences * 3 * hidden * hidden):
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
            ends = start == 0 and h is None
            a, zr, c, rs = (tensor[start:stop] for tensor in saved[2:])
            a = a.unflatten(2, (3, hidden))
            if norms is None:
                plain_factors(work, a, zr, c, before)
                plain_steps_back(work, n, recurrent.weight, ends)
            else:
                factors(work, a, zr, c, rs, before, recurrent)
                steps_back(work, a, recurrent.weight, ends, norms)
            d = _of_pre_activations(work, a, recurrent, of_h, norms)
            of_h.add(before.reshape(-1, hidden), work.da[:n].view(-1, 3 * hidden))
            if du is None:
                project.backward(d, rows[part], [t[part] for t in saved[:2]], of_x, None if dx is None else dx[part])
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
        *of_x.finished(norms),
        *of_h.finished(norms),
    )


def _of_pre_activations(work: BackwardWork, a: Tensor, side: Side, of_h: Gradients, norms: Norms | None) -> Tensor:
    """Gradients of u (rows, 3 H); the recurrent norm's gain and bias get theirs on the way."""
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
        of_h.gain[: 2 * hidden] += torch.mul(d[:, :, :2], a[:, :, :2], out=f[:, :, :2]).sum((0, 1)).flatten()
    return d.view(-1, 3 * hidden)


def _shifted(y: Tensor, h: Tensor | None) -> Tensor:
    """The state before each bin: h, or zeros, and y (T, B, H) up to its last but one."""
    return torch.cat([y.new_zeros(1, *y.shape[1:]) if h is None else h[None], y[:-1]])
