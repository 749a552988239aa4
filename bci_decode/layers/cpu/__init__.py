"""The recurrent layers on CPUs, compiled by numba (the extra `fast`) at first use.

This module decides whether the compiled kernels serve a call; importing it imports no numba.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading

import torch
from torch import Tensor, nn

_log = logging.getLogger(__name__)


@functools.cache
def available() -> bool:
    """Whether numba can be imported; if not, says once that the layers run slower."""
    try:
        import numba  # noqa: F401
    except Exception as error:  # a broken numba raises many kinds
        _log.warning(
            "numba is not usable (%s): recurrent layers run as loops of PyTorch operations, which "
            "take two to ten times as long; remedy: pip install 'bci_decode[fast]'",
            error,
        )
        return False
    return True


@functools.cache
def prepare(form: str, dtype: torch.dtype = torch.float32) -> bool:
    """Compile the kernels of a form, or load them from numba's cache; whether they are usable.

    `form` is "plain" or the place of a `LayerNormGRU`'s norm. Compiling takes 5 to 30
    seconds, once for each form, type, machine and version; it says so.
    """
    if not available():
        return False
    note = "compiling the recurrent layer for this processor: 5 to 30 s, once; it is kept on disk"
    timer = threading.Timer(2.0, _log.warning, [note])
    timer.daemon = True
    timer.start()
    try:
        from bci_decode.layers.cpu.autograd import compile_kernels

        seconds = compile_kernels(form, dtype)
    finally:
        timer.cancel()
    if seconds:
        _log.warning("compiled the recurrent layer in %.0f s", seconds)
    return True


def serves(x: Tensor, h: Tensor | None, weight: Tensor, form: str) -> bool:
    """Whether the compiled kernels can run this call.

    All tensors must be plain, on the CPU and of the weights' type, and PyTorch must not trace or
    cast. Without gradients the kernels run only if training has loaded them: a single decoding
    pass would not repay that numba is imported.
    """
    given = [weight, x] if h is None else [weight, x, h]
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.float64)
        and all(type(a) in (Tensor, nn.Parameter) for a in given)
        and all(a.dtype == weight.dtype and a.device == weight.device for a in given)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and (torch.is_grad_enabled() or "bci_decode.layers.cpu.autograd" in sys.modules)
        and prepare(form, weight.dtype)
    )
