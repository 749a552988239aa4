"""The fused GRU for GPUs as a differentiable function; needs triton.

Shapes: T bins, B sequences, I inputs, H hidden_size. PyTorch computes the input side of all bins
and the weights' gradients, one product each; the kernels run the recurrence between them.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from bci_decode.layers.cuda import kernels
from bci_decode.layers.kernel_limits import refuse_second_derivatives
from bci_decode.layers.weights import GateWeights

# sequences of a program: the fewest that give each multiprocessor one program at most
TILES = (4, 8)


def fused_gru_cuda(
    x: Tensor, h: Tensor | None, inputs: GateWeights, recurrent: GateWeights, eps: float | None
) -> Tensor:
    """States (T, B, H) for inputs x (T, B, I) from the initial state h (B, H), or from zeros.

    `eps` is added to the variances of the LayerNorm GRU; None selects the plain GRU. All tensors
    are float32. Can be differentiated once, and gives the same bits for the same call.
    """
    projected = F.linear(x, inputs.weight, inputs.bias)
    u = projected if eps is None else _normalized(projected, inputs, eps)
    tensors = (u, h, *recurrent)
    keep = torch.is_grad_enabled() and any(a is not None and a.requires_grad for a in tensors)
    return _Recurrence.apply(eps, keep, *tensors)[1:]


def _normalized(u: Tensor, side: GateWeights, eps: float) -> Tensor:
    """LN of u (T, B, 3 H) over both gates together and over the candidate."""
    sizes = (u.shape[-1] // 3 * 2, u.shape[-1] // 3)
    gains = (None, None) if side.gain is None else side.gain.split(sizes)
    shifts = (None, None) if side.shift is None else side.shift.split(sizes)
    parts = zip(u.split(sizes, dim=-1), gains, shifts, strict=True)
    return torch.cat([F.layer_norm(a, a.shape[-1:], g, b, eps) for a, g, b in parts], dim=-1)


class _Recurrence(torch.autograd.Function):
    """States (T + 1, B, H) from the initial one on, which gets no gradient through them."""

    @staticmethod
    def forward(
        ctx: Any, eps: float | None, keep: bool, u: Tensor, h: Tensor | None, *side: Tensor | None
    ) -> Tensor:
        u, (weight, *vectors) = u.contiguous(), side
        assert weight is not None
        bins, sequences, hidden = *u.shape[:2], weight.shape[1]
        bias, gain, shift = (None if a is None else a.contiguous() for a in vectors)
        states = u.new_empty(bins + 1, sequences, hidden)
        states[0] = 0 if h is None else h
        kept = torch.empty_like(u) if keep else None
        scales = u.new_empty(bins, sequences, 2) if keep and eps is not None else None
        with torch.cuda.device_of(u):
            kernels.forward_kernel[_grid](
                u, weight.t().contiguous(), bias, gain, shift, states, kept, scales,
                bins, sequences, eps, KEEP=keep, **_options(states, eps),
            )  # fmt: skip
        if keep:
            ctx.save_for_backward(u, weight, gain, shift, states, kept, scales)
        ctx.eps = eps
        return states

    @staticmethod
    def backward(ctx: Any, dstates: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        with torch.autocast(dstates.device.type, enabled=False):
            gradients = _backward(dstates[1:].contiguous(), ctx.eps, ctx.saved_tensors)
        pairs = zip(gradients, ctx.needs_input_grad[2:], strict=True)
        return None, None, *(gradient if needed else None for gradient, needed in pairs)


def _backward(dy: Tensor, eps: float | None, saved: tuple) -> tuple[Tensor | None, ...]:
    """Gradients of u, h, and the recurrent side's weight, bias, gain and shift."""
    u, weight, gain, shift, states, kept, scales = saved
    bins, sequences, hidden = dy.shape
    du, da, dh = torch.empty_like(u), torch.empty_like(u), torch.empty_like(states[0])
    options, affine = _options(states, eps), gain is not None
    sums = u.new_empty(*_grid({"B": sequences, **options}), 4, hidden) if affine else None
    with torch.cuda.device_of(u):
        kernels.backward_kernel[_grid](
            dy, u, weight.contiguous(), gain, shift, states, kept, scales, du, da, dh, sums,
            bins, sequences, AFFINE=affine, **options,
        )  # fmt: skip
    rows = da.view(-1, 3 * hidden)
    of_linear = rows.t() @ states[:-1].view(-1, hidden), rows.sum(0)
    if sums is None:
        return du, dh, *of_linear, None, None
    total, of_gates = sums.sum(0), du[..., : 2 * hidden].sum((0, 1))
    return du, dh, *of_linear, total[:3].flatten(), torch.cat([of_gates, total[3]])


def _grid(arguments: dict[str, Any]) -> tuple[int]:
    return (triton.cdiv(arguments["B"], arguments["BLOCK_B"]),)


def _options(states: Tensor, eps: float | None) -> dict[str, Any]:
    """Constants of the kernels for states (T + 1, B, H): kind of layer, tiles and warps."""
    sequences, hidden = states.shape[1:]
    block = max(16, triton.next_power_of_2(hidden))
    processors, memory = _chip(states.device)
    tile = next((rows for rows in TILES if triton.cdiv(sequences, rows) <= processors), TILES[-1])
    room = (memory - 12 * block**2) // (4 * block * tile)  # for how many tiles beside the weights
    return {
        "H": hidden,
        "NORM": eps is not None,
        "RESIDENT": room > 0,
        "BLOCK_B": tile,
        "BLOCK_H": block,
        "BLOCK_K": min(64, max(16, 8192 // block)),
        "num_warps": 8 if block <= 256 else 16,
        "num_stages": 1 if 0 < room < 9 else 2,  # 2 fetches the next bin's 8 tiles
        "enable_fp_fusion": True,
    }


@functools.cache
def _chip(device: torch.device) -> tuple[int, int]:
    """Multiprocessors of a GPU, and the shared memory in bytes that a program may use."""
    if device.type != "cuda":
        return 2, 2**16  # any numbers do for Triton's interpreter
    chip = torch.cuda.get_device_properties(device)
    memory = getattr(chip, "shared_memory_per_block_optin", 48 * 2**10)  # old PyTorch lacks it
    return chip.multi_processor_count, memory - 2**11  # sums over columns need some too
