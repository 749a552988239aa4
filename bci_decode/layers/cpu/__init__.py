"""The recurrent layers on CPUs, compiled by numba (the extra `fast`) at first use.

This module decides whether the compiled kernels serve a call; importing it imports no numba.
"""

from __future__ import annotations

import functools
import logging
import threading

import torch
from torch import Tensor

from bci_decode.layers.kernel_limits import are_plain

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_ready: dict[tuple[str, torch.dtype], bool] = {}  # form and type: whether its kernels work


@functools.cache
def available() -> bool:
    """Whether numba can be imported and has what the kernels use; if not, says so once."""
    try:
        import bci_decode.layers.cpu.autograd  # noqa: F401
    except Exception as error:  # an old or broken numba raises many kinds
        _say_loops_run(f"numba is not usable ({error})", "pip install 'bci_decode[fast]'")
        return False
    return True


def import_kernels() -> None:
    """Import numba and the kernels' source, where a CPU is going to train; compiles nothing."""
    if not torch.cuda.is_available():
        available()


def prepare(form: str, dtype: torch.dtype = torch.float32) -> bool:
    """Compile the kernels of a form, or load them from numba's cache; whether they work.

    `form` is "plain" or the place of a `LayerNormGRU`'s norm. Compiling takes some seconds, once
    for each form, type, processor and version; it says so.
    """
    key = form, dtype
    if key not in _ready:
        with _lock:
            if key not in _ready:
                _ready[key] = available() and _compiled(form, dtype)
    return _ready[key]


def _compiled(form: str, dtype: torch.dtype) -> bool:
    note = "compiling the recurrent layer for this processor takes some seconds, once"
    timer = threading.Timer(2.0, _log.warning, [note])
    timer.daemon = True
    timer.start()
    try:
        from bci_decode.layers.cpu.autograd import compile_kernels

        seconds = compile_kernels(form, dtype)
    except Exception as error:  # a full disk, damaged code on disk, a numba that lacks a function
        remedy = "free disk space, delete numba's *.nbi files (NUMBA_CACHE_DIR, or __pycache__ in "
        remedy += "bci_decode/layers/cpu), or install a newer numba"
        _say_loops_run(f"numba cannot compile here ({error})", remedy)
        return False
    finally:
        timer.cancel()
    if seconds:
        _log.warning("compiled the recurrent layer in %.0f s", seconds)
    return True


def _say_loops_run(problem: str, remedy: str) -> None:
    _log.warning(
        "%s: recurrent layers run as loops of PyTorch operations, which take about twice as long "
        "or more; remedy: %s",
        problem,
        remedy,
    )


def serves(x: Tensor, h: Tensor | None, weight: Tensor, form: str) -> bool:
    """Whether the compiled kernels can run this call.

    The tensors must be plain, in float32 or float64 on the CPU. Without gradients the kernels run
    only if training has prepared them: one decoding pass would not repay the import of numba. So
    a process that trains and one that only decodes differ by rounding, about 1e-6.
    """
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.float64)
        and are_plain(weight, x, h)
        and (torch.is_grad_enabled() or (form, weight.dtype) in _ready)
        and prepare(form, weight.dtype)
    )
