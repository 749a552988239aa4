"""Run large float32 matrix products on the CPU by oneDNN, where it is faster and exact.

PyTorch multiplies float32 matrices by MKL. On AMD processors MKL uses AVX2, and PyTorch's oneDNN
with AVX-512 is 1.3 to 2 times faster, but costs more than it saves for small products. The only way
to oneDNN is a setting of the process, `torch.backends.mkldnn.matmul.fp32_precision = "bf16"`, which
also allows bfloat16: a processor with AMX uses that and loses precision, others keep float32.

So the fused layers set it around their large products only, and only if `use_fast_matmul` or
`fast_matmul` has allowed that, the processor has AVX-512 and no AMX, trial products agree with
float64, and nobody else has set the precision. A product of another thread may meanwhile run by
oneDNN too: with the same precision, but other last bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

MIN_MULTIPLY_ADDS = 1_500_000  # of a product for which oneDNN's start-up pays
TOLERANCE = 2e-6  # relative error of a product against float64; bfloat16 has 2e-3
_allowed = False


def use_fast_matmul(choice: str = "auto") -> bool:
    """Allow ("auto") or forbid ("default") oneDNN in this process; returns whether it can run."""
    global _allowed
    if choice not in ("auto", "default"):
        raise ValueError(f"the matrix product is {choice!r}, choose auto or default")
    _allowed = choice == "auto" and onednn_is_exact()
    return _allowed


@contextmanager
def fast_matmul(choice: str = "auto") -> Iterator[bool]:
    """`use_fast_matmul` inside a with block."""
    global _allowed
    before = _allowed
    try:
        yield use_fast_matmul(choice)
    finally:
        _allowed = before


@contextmanager
def large_products(multiply_adds: int) -> Iterator[None]:
    """Run float32 products by oneDNN inside, if that is allowed and pays for this size."""
    if not _allowed or multiply_adds < MIN_MULTIPLY_ADDS or not _precision_is_default():
        yield
        return
    try:
        _set_precision("bf16")
        yield
    finally:
        _set_precision("none")


@cache
def onednn_is_exact() -> bool:
    """Whether oneDNN keeps float32 on this processor: checks its features, then tries products."""
    settings = getattr(torch.backends.mkldnn, "matmul", None)
    if not hasattr(settings, "fp32_precision") or not torch.backends.mkldnn.is_available():
        return False
    flags = _processor_flags()
    if "avx512f" not in flags or any(flag.startswith("amx") for flag in flags):
        return False
    if not _precision_is_default():
        return False
    try:
        _set_precision("bf16")
        sizes = (16, 256, 768), (128, 384, 128), (1024, 96, 384)
        return all(_error_of_product(*size) < TOLERANCE for size in sizes)
    finally:
        _set_precision("none")


def _precision_is_default() -> bool:
    settings: Any = torch.backends.mkldnn
    return settings.matmul.fp32_precision == "none"


def _set_precision(value: str) -> None:
    settings: Any = torch.backends.mkldnn
    settings.matmul.fp32_precision = value


def _error_of_product(rows: int, inner: int, columns: int) -> float:
    """Largest relative error (Frobenius) of the layouts that the layers use: A B, A B^T, A^T B."""
    random = torch.Generator().manual_seed(0)
    shapes = (rows, inner), (inner, columns), (rows, columns)
    options: Any = {"generator": random, "dtype": torch.float32, "device": "cpu"}
    a, b, c = (torch.rand(shape, **options) - 0.4 for shape in shapes)
    pairs = ((a, b), (a, b.t().contiguous().t()), (a.t(), c))
    with torch.no_grad():
        exact = [left.double() @ right.double() for left, right in pairs]
        errors = [left @ right - true for (left, right), true in zip(pairs, exact, strict=True)]
    return max((e.norm() / true.norm()).item() for e, true in zip(errors, exact, strict=True))


def _processor_flags() -> frozenset[str]:
    """The processor's features as Linux names them; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = (line.partition(":")[2] for line in lines if line.startswith("flags"))
    return frozenset(next(flags, "").split())
