"""The choice of the float32 matrix product: exact wherever it is taken, put back always, never under another thread."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

from bci_decode.layers.cpu import matmul as gemm

LARGE = 10 * gemm.WORTHWHILE
SETTINGS = torch.backends.mkldnn.matmul


@pytest.fixture
def exact(monkeypatch):
    """As on a processor where oneDNN keeps to float32, with no thread but this one."""
    monkeypatch.setattr(gemm, "onednn_is_exact", lambda: True)
    monkeypatch.setattr(gemm, "_alone", lambda: True)


def test_the_setting_is_put_back(exact):
    with gemm.gemm_backend(multiply_adds=LARGE) as outer, gemm.gemm_backend() as inner:
        assert (outer, inner, SETTINGS.fp32_precision) == ("onednn", "onednn", "bf16")
    assert SETTINGS.fp32_precision == "none"
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), gemm.gemm_backend(multiply_adds=LARGE):
            raise error
        assert SETTINGS.fp32_precision == "none"
    with gemm.gemm_backend(multiply_adds=LARGE) as outer:
        assert outer == "onednn", "nothing is left behind"


def test_default_forbids_all_further_in(exact):
    with (
        gemm.gemm_backend("default") as outer,
        gemm.gemm_backend("default"),
        gemm.gemm_backend(multiply_adds=LARGE) as inner,
    ):
        assert (outer, inner, SETTINGS.fp32_precision) == ("default", "default", "none")
    with gemm.gemm_backend(multiply_adds=LARGE) as outer:
        with gemm.gemm_backend("default"), gemm.gemm_backend(multiply_adds=LARGE) as inner:
            assert (outer, inner, SETTINGS.fp32_precision) == ("onednn", "default", "none")
        assert SETTINGS.fp32_precision == "bf16"
    assert SETTINGS.fp32_precision == "none"


def test_what_somebody_has_set_is_not_overruled(exact):
    try:
        SETTINGS.fp32_precision = "ieee"
        with gemm.gemm_backend(multiply_adds=LARGE) as chosen:
            assert (chosen, SETTINGS.fp32_precision) == ("default", "ieee")
    finally:
        SETTINGS.fp32_precision = "none"


def test_small_products_stay_with_the_default(exact):
    with gemm.gemm_backend(multiply_adds=gemm.WORTHWHILE - 1) as chosen:
        assert chosen == "default"


def test_another_thread_forbids_it(monkeypatch):
    monkeypatch.setattr(gemm, "onednn_is_exact", lambda: True)
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        with gemm.gemm_backend(multiply_adds=LARGE) as chosen:
            assert chosen == "default"
    finally:
        done.set()
        other.join()


@pytest.mark.parametrize("flags", ["fma avx2", "avx512f amx_bf16 amx_tile", ""])
def test_other_processors_are_left_alone(flags, monkeypatch):
    monkeypatch.setattr(gemm, "_processor_flags", lambda: frozenset(flags.split()))
    monkeypatch.setattr(gemm, "_error_of_product", lambda *sizes: 0.0)
    assert not gemm.onednn_is_exact.__wrapped__()


def test_an_inexact_product_forbids_it(monkeypatch):
    monkeypatch.setattr(gemm, "_processor_flags", lambda: frozenset({"avx512f"}))
    monkeypatch.setattr(gemm, "_error_of_product", lambda *sizes: 5e-6)
    assert not gemm.onednn_is_exact.__wrapped__()
    monkeypatch.setattr(gemm, "_error_of_product", lambda *sizes: 3e-7)
    assert gemm.onednn_is_exact.__wrapped__() == torch.backends.mkldnn.is_available()


def test_bfloat16_products_would_be_noticed():
    """The trial product tells bfloat16 from float32, whatever the default type: its tolerance lies well between the two."""
    torch.set_default_dtype(torch.float64)
    try:
        assert gemm._error_of_product(16, 256, 768) > 1e-9, "it was float64 that was tried"
    finally:
        torch.set_default_dtype(torch.float32)
    float32 = gemm._error_of_product(16, 256, 768)
    a, b = torch.rand(16, 256) - 0.4, torch.rand(256, 768) - 0.4
    true = a.double() @ b.double()
    bfloat16 = ((a.bfloat16() @ b.bfloat16()).double() - true).norm() / true.norm()
    assert float32 < gemm.TOLERANCE / 2 < gemm.TOLERANCE * 100 < bfloat16


def test_a_wrong_choice_is_named():
    with pytest.raises(ValueError, match="auto or default"), gemm.gemm_backend("mkl"):
        pass


def test_layers_keep_to_float32_in_a_process_of_their_own():
    """With whatever this processor is found to do, results stay within 2e-6 of float64, GRU and LayerNorm GRU alike."""
    program = """
import torch
from bci_decode.layers import GRU, LayerNormGRU
torch.manual_seed(0)
x, dy = torch.randn(12, 32, 96), torch.randn(12, 32, 256)
for kind in (GRU, LayerNormGRU):
    layer, results = kind(96, 256), {}
    for dtype in (torch.float64, torch.float32):
        layer = layer.to(dtype)
        layer._fast = dtype == torch.float32
        y, _ = layer(x.to(dtype))
        results[dtype] = [y, *torch.autograd.grad(y, layer.parameters(), dy.to(dtype))]
    print(max(((a - b).norm() / b.norm()).item() for a, b in zip(results[torch.float32], results[torch.float64])))
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    errors = [float(line) for line in printed.split()]
    assert len(errors) == 2 and max(errors) < 2e-6, errors
