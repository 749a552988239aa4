"""The recurrent layers on CPUs, compiled by numba (the extra `fast`) at first use.

This module decides whether the compiled kernels serve a call; importing it imports no numba.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading

import torch
from torch import Tensor

from bci_decode.layers.weights import are_plain

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


def import_kernels() -> None:
    """Import numba and the kernels' source, where a CPU is going to train; compiles nothing."""
    if not torch.cuda.is_available() and available():
        import bci_decode.layers.cpu.autograd  # noqa: F401


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
    except OSError as error:  # a full disk
        _log.warning("%s: numba cannot keep compiled code; recurrent layers run as loops", error)
        return False
    finally:
        timer.cancel()
    if seconds:
        _log.warning("compiled the recurrent layer in %.0f s", seconds)
    return True


def serves(x: Tensor, h: Tensor | None, weight: Tensor, form: str) -> bool:
    """Whether the compiled kernels can run this call.

    The tensors must be plain, in float32 or float64 on the CPU. Without gradients the kernels run
    only if training has loaded them: one decoding pass would not repay the import of numba.
    """
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.float64)
        and are_plain(weight, x, h)
        and (torch.is_grad_enabled() or "bci_decode.layers.cpu.autograd" in sys.modules)
        and prepare(form, weight.dtype)
    )
