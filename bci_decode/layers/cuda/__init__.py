"""The recurrence of the LayerNorm GRU on GPUs as two Triton kernels.

They compute the plain GRU too, which `layers.GRU` leaves to cuDNN; on a GPU, a LayerNorm GRU with a
norm of the sum runs its loop.

`autograd` and `kernels` import triton, so they are imported where a layer runs on a GPU.
"""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor

from bci_decode.layers.kernel_limits import are_plain
from bci_decode.layers.weights import GateWeights

_log = logging.getLogger(__name__)

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
    """Whether Triton compiles for the GPU; if not, says once that the layers run slower."""
    if torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        from bci_decode.layers.cuda.autograd import fused_gru_cuda

        weight = torch.zeros(6, 2, device=device)
        side = GateWeights(weight, None, None, None)
        fused_gru_cuda(torch.zeros(1, 1, 2, device=device), None, side, side, 1e-5)
    except Exception as error:  # no triton, no C compiler, an old driver
        _log.warning("Triton is not usable (%s): recurrent layers run as loops", error)
        return False
    return True
