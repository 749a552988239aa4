"""The fused GRU's arithmetic, bin by bin forward and backward, without autograd.

Shapes: B sequences, H hidden_size, n bins of a chunk; the 3 H columns are those of `layer_norm`.
The loops hold only what needs the state of the bin before. Each line in them is one call that
allocates nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bci_decode.layers.cpu.layer_norm import NormConstants
from bci_decode.layers.cpu.workspace import BackwardWork, ForwardWork
from bci_decode.layers.weights import GateWeights

# PyTorch's derivatives, written into existing buffers
sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
tanh_backward = torch.ops.aten.tanh_backward.grad_input
Steps = list[tuple[Tensor, ...]]
TANH_EXACT_BELOW = 0.1  # RMS of a below which the error of 2 sigmoid(2 a) - 1, 1e-7, is too large


def layernorm_gru_forward(
    views: Steps,
    work: ForwardWork,
    weight: Tensor,
    has_bias: bool,
    zero_initial_state: bool,
    exact_tanh: bool,
    side: GateWeights,
    norms: NormConstants,
) -> None:
    """Run a chunk's bins in order: from the first h and u compute the next h, a, rs, zr and c.

    `has_bias`: a already holds the linear map's bias. `zero_initial_state`: the first bin's a is
    complete, because its state is zero. `exact_tanh`: use tanh itself, three times as slow.
    """
    hidden, minus = work.c.shape[-1], work.c.new_full((), -1)
    gain, shift, squares, m = side.gain, side.shift, work.squares, work.m
    if gain is not None and shift is not None:
        gain_gates, gain_c, shift_c = (
            gain[: 2 * hidden],
            gain[2 * hidden :],
            2 * shift[2 * hidden :],
        )
    for h, a, a3, a_gates, a_c, rs, rs3, u_gates, u_c, zr, z, r, c, new in views:
        if zero_initial_state:
            zero_initial_state = False
        elif has_bias:
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
        if exact_tanh:
            c.mul_(0.5).tanh_()
        else:
            c.sigmoid_()
            torch.add(minus, c, alpha=2, out=c)
        torch.lerp(h, c, z, out=new)


def gru_forward(
    views: Steps, weight: Tensor, has_bias: bool, zero_initial_state: bool, exact_tanh: bool
) -> None:
    """The same for the plain GRU, with r in the place of z."""
    minus = weight.new_full((), -1)
    for h, a, _, a_gates, a_c, _, _, u_gates, u_c, rz, r, z, c, new in views:
        if zero_initial_state:
            zero_initial_state = False
        elif has_bias:
            a.addmm_(h, weight)
        else:
            torch.mm(h, weight, out=a)
        torch.add(u_gates, a_gates, out=rz)
        rz.sigmoid_()
        torch.addcmul(u_c, r, a_c, value=2, out=c)
        if exact_tanh:
            c.mul_(0.5).tanh_()
        else:
            c.sigmoid_()
            torch.add(minus, c, alpha=2, out=c)
        torch.lerp(c, h, z, out=new)


def layernorm_gru_local_gradients(
    work: BackwardWork,
    a: Tensor,
    zr: Tensor,
    c: Tensor,
    rs: Tensor,
    before: Tensor,
    side: GateWeights,
) -> None:
    """Compute the local derivatives of each bin, by which dh (B, H) is multiplied later.

    work.f: d h / d pre-activation; the candidate's entry is that of its recurrent term r * U h.
    work.d[:, :, 2]: that of the whole candidate. work.da: that of the linear map's outputs.
    work.stay: that of the state before.
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


def gru_local_gradients(
    work: BackwardWork, a: Tensor, rz: Tensor, c: Tensor, before: Tensor
) -> None:
    """The same for the plain GRU; work.da takes the place of work.f."""
    n = len(c)
    r, z = rz.chunk(2, dim=2)
    f, t, stay = work.da[:n], work.t[:n], work.stay[:n]
    whole = work.d[:n, :, 2]
    sigmoid_backward(torch.sub(before, c, out=t), z, grad_input=f[:, :, 1])
    tanh_backward(torch.sub(1, z, out=stay), c, grad_input=whole)
    sigmoid_backward(torch.mul(whole, a[:, :, 2], out=t), r, grad_input=f[:, :, 0])
    torch.mul(whole, r, out=f[:, :, 2])
    stay.copy_(z)


def layernorm_gru_backward(
    work: BackwardWork,
    a: Tensor,
    weight: Tensor,
    skip_initial_state_grad: bool,
    norms: NormConstants,
) -> None:
    """Run a chunk's bins backward: work.dh[:n] from dy to all of dh, work.da to the gradients.

    `skip_initial_state_grad`: do not compute the gradient of the state before the first bin.
    """
    products, sums, means, means3 = work.products, work.sums, work.means, work.means[:, :, None]
    bins, last = (
        list(zip(work.steps, a.unbind(0), strict=False)),
        work.steps[0][2] if skip_initial_state_grad else None,
    )
    for (da, da2, dh, dh3, stay, dh_before), a_bin in reversed(bins):
        da.mul_(dh3)
        torch.sum(torch.mul(da, a_bin, out=products), dim=2, out=sums)
        torch.mm(sums, norms.to_mean, out=means)
        da.addcmul_(a_bin, means3, value=-1)
        if dh is last:
            break
        dh_before.addcmul_(dh, stay).addmm_(da2, weight)


def gru_backward(work: BackwardWork, n: int, weight: Tensor, skip_initial_state_grad: bool) -> None:
    """The same for the plain GRU."""
    last = work.steps[0][2] if skip_initial_state_grad else None
    for da, da2, dh, dh3, stay, dh_before in reversed(work.steps[:n]):
        da.mul_(dh3)
        if dh is last:
            break
        dh_before.addcmul_(dh, stay).addmm_(da2, weight)
