"""The recurrence of `layers.LayerNormGRU` and of the plain GRU, with a backward of its own: the same, faster on CPU.

Shapes: T bins, B sequences, I inputs, H hidden_size; 3 H columns are update gate z, reset gate r and candidate. The plain
GRU keeps to torch's way: r before z, and z the share of the OLD state.

What makes it fast. The rows of a weight are centred over each LayerNorm group once a call (the group's mean row is
subtracted), so pre-activations have mean zero and a bin needs only their norms. Elementwise work goes over chunks of
bins that stay in cache; the loop over bins keeps what needs the state: one product, one norm, the gates. The backward
puts all that dh is multiplied by into factors of a whole chunk, and makes the weights' gradients in one product a chunk.
tanh(a) is 2 sigmoid(2 a) - 1, since ATen's sigmoid is much the faster: the candidate's columns hold 2 a throughout.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bci_decode.buffers import DIRECT, BackwardWork, ForwardWork, forward_steps, lease, workspace
from bci_decode.gemm import gemm_backend
from bci_decode.projection import Gradients, Norms, Projection, Side, centred, minus_one, norms_of

sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
Steps = list[tuple[Tensor, ...]]
tanh_backward = torch.ops.aten.tanh_backward.grad_input


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
            steps = forward_steps(work.h, a, rs, work.u, zr, c) if direct else work.steps
            if bias is not None:
                a[:n].copy_(bias)
            elif start == 0 and h is None:
                a[0].zero_()
            begin = weight, bias is not None, start == 0 and h is None
            if norms is None:
                _plain_steps(steps[:n], *begin)
            else:
                _steps(steps[:n], work, *begin, recurrent, norms)
            y[start:stop].copy_(work.h[1 : n + 1])
            work.h[0].copy_(work.h[n])
            if kept and not direct:
                for tensor, buffer in zip(kept, (a, zr, c, rs), strict=True):
                    tensor.copy_(buffer[:n])
    return y


def _steps(
    steps: Steps, work: ForwardWork, weight: Tensor, biased: bool, known: bool, side: Side, norms: Norms
) -> None:
    """The chunk's bins one after the other, from the first h and u to the next h, a, rs, zr and c.

    `biased`: a holds the linear map's bias; `known`: the first bin's whole a, since its state is zero.
    """
    hidden, minus = work.c.shape[-1], minus_one(work.c.dtype)
    gain, shift, squares, m = side.gain, side.shift, work.squares, work.m
    if gain is not None and shift is not None:
        gain_gates, gain_c, shift_c = gain[: 2 * hidden], gain[2 * hidden :], 2 * shift[2 * hidden :]
    for h, a, a3, a_gates, a_c, rs, rs3, u_gates, u_c, zr, z, r, c, new in steps:
        if known:
            known = False
        elif biased:
            a.addmm_(h, weight)
        else:
            torch.mm(h, weight, out=a)
        torch.linalg.vector_norm(a3, dim=2, out=squares)
        torch.addmm(norms.eps, squares.mul_(squares), norms.to_variance, out=rs)
        rs.rsqrt_()
        a3.mul_(rs3)
        if gain is None:
            torch.add(u_gates, a_gates, out=zr)
            m = a_c
        else:
            torch.addcmul(u_gates, a_gates, gain_gates, out=zr)
            torch.addcmul(shift_c, a_c, gain_c, out=m)
        zr.sigmoid_()
        torch.addcmul(u_c, r, m, out=c)
        c.sigmoid_()
        torch.add(minus, c, alpha=2, out=c)
        torch.lerp(h, c, z, out=new)


def _plain_steps(steps: Steps, weight: Tensor, biased: bool, known: bool) -> None:
    """The same of the plain GRU, whose r stands where the other's z does."""
    minus = minus_one(weight.dtype)
    for h, a, _, a_gates, a_c, _, _, u_gates, u_c, rz, r, z, c, new in steps:
        if known:
            known = False
        elif biased:
            a.addmm_(h, weight)
        else:
            torch.mm(h, weight, out=a)
        torch.add(u_gates, a_gates, out=rz)
        rz.sigmoid_()
        torch.addcmul(u_c, r, a_c, value=2, out=c)
        c.sigmoid_()
        torch.add(minus, c, alpha=2, out=c)
        torch.lerp(c, h, z, out=new)


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
                _plain_factors(work, a, zr, c, before)
                _plain_steps_back(work, n, recurrent.weight, ends)
            else:
                _factors(work, a, zr, c, rs, before, recurrent)
                _steps_back(work, a, recurrent.weight, ends, norms)
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


def _factors(work: BackwardWork, a: Tensor, zr: Tensor, c: Tensor, rs: Tensor, before: Tensor, side: Side) -> None:
    """What each bin's dh (B, H) is to be multiplied by: work.f for the pre-activations (of the candidate, r's share),
    work.d's last third for the candidate's whole, work.da for the linear map's outputs, work.stay for the state before.
    """
    n, hidden = len(c), c.shape[-1]
    z, r = zr.chunk(2, dim=2)
    f, t = work.f[:n], work.t[:n]
    whole = work.d[:n, :, 2]
    sigmoid_backward(torch.sub(c, before, out=t), z, grad_input=f[:, :, 0])
    tanh_backward(z, c, grad_input=whole).mul_(0.5)  # by 2 a
    m = a[:, :, 2]
    if side.gain is not None and side.shift is not None:
        m = torch.addcmul(2 * side.shift[2 * hidden :], m, side.gain[2 * hidden :], out=t)
    sigmoid_backward(torch.mul(whole, m, out=t), r, grad_input=f[:, :, 1])
    torch.mul(whole, r, out=f[:, :, 2])
    da = torch.mul(f, rs[..., None], out=work.da[:n])
    if side.gain is not None:
        da.mul_(side.gain.view(3, hidden))
    torch.sub(1, z, out=work.stay[:n])


def _plain_factors(work: BackwardWork, a: Tensor, rz: Tensor, c: Tensor, before: Tensor) -> None:
    """The same of the plain GRU; work.da is work.f."""
    n = len(c)
    r, z = rz.chunk(2, dim=2)
    f, t, stay = work.da[:n], work.t[:n], work.stay[:n]
    whole = work.d[:n, :, 2]
    sigmoid_backward(torch.sub(before, c, out=t), z, grad_input=f[:, :, 1])
    tanh_backward(torch.sub(1, z, out=stay), c, grad_input=whole)
    sigmoid_backward(torch.mul(whole, a[:, :, 2], out=t), r, grad_input=f[:, :, 0])
    torch.mul(whole, r, out=f[:, :, 2])
    stay.copy_(z)


def _steps_back(work: BackwardWork, a: Tensor, weight: Tensor, ends: bool, norms: Norms) -> None:
    """From the last bin of a chunk to its first: work.dh[:n] from dy to all of dh, work.da from factor to gradient.

    `ends`: nobody asks for the gradient of the state before the first bin.
    """
    products, sums, means, means3 = work.products, work.sums, work.means, work.means[:, :, None]
    bins = list(zip(work.steps, a.unbind(0), strict=False))
    for (da, da2, dh, dh3, stay, dh_before), a_bin in reversed(bins):
        da.mul_(dh3)
        torch.sum(torch.mul(da, a_bin, out=products), dim=2, out=sums)
        torch.mm(sums, norms.to_mean, out=means)
        da.addcmul_(a_bin, means3, value=-1)
        if ends and dh is work.steps[0][2]:
            break
        dh_before.addcmul_(dh, stay).addmm_(da2, weight)


def _plain_steps_back(work: BackwardWork, n: int, weight: Tensor, ends: bool) -> None:
    for da, da2, dh, dh3, stay, dh_before in reversed(work.steps[:n]):
        da.mul_(dh3)
        if ends and dh is work.steps[0][2]:
            break
        dh_before.addcmul_(dh, stay).addmm_(da2, weight)


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
