"""The float32 matrix products of PyTorch on CPU: by oneDNN where that is exact and faster, else as they come.

PyTorch multiplies float32 matrices by MKL, which on AMD processors runs AVX2 kernels; its oneDNN is 1.3 to 2 times faster
there with AVX-512. The public way to it, `torch.backends.mkldnn.matmul.fp32_precision = "bf16"`, allows bfloat16
products: a processor with AMX takes that offer and loses precision, one without keeps to float32. So it is taken only
where the processor has AVX-512 and no AMX, a product has been compared with float64 and nobody else has set anything,
for the time of a call, and only while the `threading` module knows of no other thread, since the setting belongs to
the whole process. (Threads that other software starts by itself are not seen; on such a processor they lose nothing.)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

WORTHWHILE = 1_500_000  # multiply-adds of a product from which oneDNN's larger start-up pays
TOLERANCE = 2e-6  # relative, of a product against float64; bfloat16 would be at 2e-3


class _OfThread(threading.local):
    """What encloses the present call in this thread."""

    defaults = 0  # of `gemm_backend("default")`
    onednn = False


_within = _OfThread()


@contextmanager
def gemm_backend(choice: str = "auto", multiply_adds: int = 0) -> Iterator[str]:
    """Inside, float32 products of `multiply_adds` each run by what is yielded: "onednn" or "default".

    "auto" chooses oneDNN where it is worthwhile, exact and safe; "default" leaves PyTorch as it came, also for every
    "auto" further in. The setting is put back at the end, whatever happens.
    """
    if choice not in ("auto", "default"):
        raise ValueError(f"the GEMM backend is {choice!r}, choose auto or default")
    if choice == "default":
        inside = _within.onednn
        _within.defaults, _within.onednn = _within.defaults + 1, False
        try:
            if inside:
                _precision("none")
            yield "default"
        finally:
            if inside:
                _precision("bf16")
            _within.defaults, _within.onednn = _within.defaults - 1, inside
    elif _within.onednn:
        yield "onednn"
    elif multiply_adds < WORTHWHILE or _within.defaults or not _alone() or not onednn_is_exact() or not _untouched():
        yield "default"
    else:
        try:
            _within.onednn = True
            _precision("bf16")
            yield "onednn"
        finally:
            _precision("none")
            _within.onednn = False


@cache
def onednn_is_exact() -> bool:
    """Whether this processor multiplies in float32 where bfloat16 is allowed: looked at, then tried, once a process."""
    settings = getattr(torch.backends.mkldnn, "matmul", None)
    if not hasattr(settings, "fp32_precision") or not torch.backends.mkldnn.is_available() or not _untouched():
        return False
    flags = _processor_flags()
    if "avx512f" not in flags or any(flag.startswith("amx") for flag in flags):
        return False
    try:
        _precision("bf16")
        return all(
            _error_of_product(*sizes) < TOLERANCE for sizes in ((16, 256, 768), (128, 384, 128), (1024, 96, 384))
        )
    finally:
        _precision("none")


def _settings() -> Any:
    return torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


def _untouched() -> bool:
    """Whether nobody has set what float32 products may be made of; who has is not overruled."""
    return _settings().fp32_precision == "none"


def _precision(value: str) -> None:
    """Set what float32 products may be made of, in the whole process."""
    _settings().fp32_precision = value


def _error_of_product(rows: int, inner: int, columns: int) -> float:
    """The largest relative error (Frobenius) of the layouts that the layers use: A B, A B^T and A^T B."""
    random = torch.Generator().manual_seed(0)
    shapes = (rows, inner), (inner, columns), (rows, columns)
    a, b, c = (torch.rand(shape, generator=random, dtype=torch.float32, device="cpu") - 0.4 for shape in shapes)
    pairs = ((a, b), (a, b.t().contiguous().t()), (a.t(), c))
    with torch.no_grad():
        exact = [left.double() @ right.double() for left, right in pairs]
        errors = [torch.mm(left, right) - true for (left, right), true in zip(pairs, exact, strict=True)]
    return max((error.norm() / true.norm()).item() for error, true in zip(errors, exact, strict=True))


def _processor_flags() -> frozenset[str]:
    """What Linux says the processor can do; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def _alone() -> bool:
    """Whether no other Python thread runs that could multiply meanwhile; tqdm's monitor only looks at the clock."""
    return all(
        thread is threading.current_thread() or type(thread).__name__ == "TMonitor" for thread in threading.enumerate()
    )
