"""The fast path for GPUs: the recurrence of a GRU as two Triton kernels.

`autograd` and `kernels` import triton, so they are imported where a layer runs on a GPU.
"""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor, nn

MAX_HIDDEN = 512  # beyond it, a program's tiles do not fit into its registers


def fused_supported(x: Tensor, h: Tensor | None, weight: Tensor) -> bool:
    """Whether all tensors are plain float32 on one GPU for Triton, and not traced or cast."""
    if weight.device.type != "cuda":
        return False
    given = [weight, x] if h is None else [weight, x, h]
    return (
        _has_triton(weight.device)
        and weight.shape[1] <= MAX_HIDDEN
        and all(type(a) in (Tensor, nn.Parameter) for a in given)
        and all(a.dtype == torch.float32 and a.device == weight.device for a in given)
        and not torch.is_autocast_enabled("cuda")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


@functools.cache
def _has_triton(device: torch.device) -> bool:
    """Whether triton is installed and supports the GPU."""
    supported = torch.cuda.get_device_capability(device) >= (8, 0)
    return supported and importlib.util.find_spec("triton") is not None
