"""The fast path for GPUs: the recurrence of a GRU as two Triton kernels.

`autograd` and `kernels` import triton, so they are imported where a layer runs on a GPU.
"""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor

from bci_decode.layers.weights import are_plain

MAX_HIDDEN = 512  # beyond it, a program's tiles do not fit into its registers


def serves(x: Tensor, h: Tensor | None, weight: Tensor) -> bool:
    """Whether Triton's kernels can run this call: plain tensors in float32 on one GPU."""
    return (
        weight.device.type == "cuda"
        and weight.dtype == torch.float32
        and weight.shape[1] <= MAX_HIDDEN
        and are_plain(weight, x, h)
        and _has_triton(weight.device)
    )


@functools.cache
def _has_triton(device: torch.device) -> bool:
    """Whether triton is installed and supports the GPU."""
    supported = torch.cuda.get_device_capability(device) >= (8, 0)
    return supported and importlib.util.find_spec("triton") is not None
