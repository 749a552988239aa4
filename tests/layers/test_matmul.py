"""The float32 matrix product: oneDNN only where it is exact and allowed, always restored."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from bci_decode.layers import GRU
from bci_decode.layers.cpu import matmul
from bci_decode.layers.cpu.matmul import fast_matmul, large_products, use_fast_matmul

LARGE = 10 * matmul.MIN_MULTIPLY_ADDS
if not hasattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision"):
    pytest.skip("this PyTorch cannot choose its matrix product", allow_module_level=True)
SETTINGS = torch.backends.mkldnn.matmul


@pytest.fixture
def exact(monkeypatch):
    """As on a processor where oneDNN keeps to float32; the process's choice is restored."""
    monkeypatch.setattr(matmul, "onednn_is_exact", lambda: True)
    monkeypatch.setattr(matmul, "_allowed", False)


def test_the_setting_is_restored(exact):
    with fast_matmul() as allowed, large_products(LARGE), large_products(LARGE):
        assert (allowed, SETTINGS.fp32_precision) == (True, "bf16")
    assert SETTINGS.fp32_precision == "none"
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), fast_matmul(), large_products(LARGE):
            raise error
        assert SETTINGS.fp32_precision == "none"
    with large_products(LARGE):
        assert SETTINGS.fp32_precision == "none", "outside of the block it is not allowed"


def test_the_innermost_choice_holds(exact):
    with fast_matmul(), fast_matmul("default") as allowed, large_products(LARGE):
        assert (allowed, SETTINGS.fp32_precision) == (False, "none")
    with fast_matmul("default"), fast_matmul(), large_products(LARGE):
        assert SETTINGS.fp32_precision == "bf16"


def test_a_command_chooses_once_for_its_process(exact):
    assert use_fast_matmul()
    for _ in range(2):
        with large_products(LARGE):
            assert SETTINGS.fp32_precision == "bf16"
    with fast_matmul("default"):
        pass
    with large_products(LARGE):
        assert SETTINGS.fp32_precision == "bf16", "the block restores the choice"
    assert not use_fast_matmul("default")
    with large_products(LARGE):
        assert SETTINGS.fp32_precision == "none"


@pytest.mark.parametrize("choice", [None, "default", "auto"])
def test_a_layer_runs_its_large_products_by_the_choice(exact, monkeypatch, choice):
    chosen: list[str] = []
    monkeypatch.setattr(matmul, "_set_precision", chosen.append)
    layer, x = GRU(96, 256), torch.randn(9, 16, 96)
    if choice:
        use_fast_matmul(choice)
    layer(x)[0].sum().backward()
    assert bool(chosen) == (choice == "auto")


def test_a_setting_of_the_user_is_not_overruled(exact):
    try:
        SETTINGS.fp32_precision = "ieee"
        with fast_matmul(), large_products(LARGE):
            assert SETTINGS.fp32_precision == "ieee"
        assert SETTINGS.fp32_precision == "ieee"
    finally:
        SETTINGS.fp32_precision = "none"


def test_small_products_keep_the_default(exact):
    with fast_matmul(), large_products(matmul.MIN_MULTIPLY_ADDS - 1):
        assert SETTINGS.fp32_precision == "none"


@pytest.mark.parametrize("flags", ["fma avx2", "avx512f amx_bf16 amx_tile", ""])
def test_other_processors_keep_the_default(flags, monkeypatch):
    monkeypatch.setattr(matmul, "_processor_flags", lambda: frozenset(flags.split()))
    monkeypatch.setattr(matmul, "_error_of_product", lambda *sizes: 0.0)
    assert not matmul.onednn_is_exact.__wrapped__()


def test_an_inexact_product_forbids_it(monkeypatch):
    monkeypatch.setattr(matmul, "_processor_flags", lambda: frozenset({"avx512f"}))
    monkeypatch.setattr(matmul, "_error_of_product", lambda *sizes: 5e-6)
    assert not matmul.onednn_is_exact.__wrapped__()
    monkeypatch.setattr(matmul, "_error_of_product", lambda *sizes: 3e-7)
    assert matmul.onednn_is_exact.__wrapped__() == torch.backends.mkldnn.is_available()


def test_bfloat16_products_would_be_noticed():
    """The tolerance lies well between float32 and bfloat16, with any default type."""
    torch.set_default_dtype(torch.float64)
    try:
        assert matmul._error_of_product(16, 256, 768) > 1e-9, "it was float64 that was tried"
    finally:
        torch.set_default_dtype(torch.float32)
    float32 = matmul._error_of_product(16, 256, 768)
    a, b = torch.rand(16, 256) - 0.4, torch.rand(256, 768) - 0.4
    true = a.double() @ b.double()
    bfloat16 = ((a.bfloat16() @ b.bfloat16()).double() - true).norm() / true.norm()
    assert float32 < matmul.TOLERANCE / 2 < matmul.TOLERANCE * 100 < bfloat16


def test_a_wrong_choice_is_named():
    with pytest.raises(ValueError, match="'mkl', choose auto or default"), fast_matmul("mkl"):
        pass


def test_layers_keep_to_float32_in_a_process_of_their_own():
    """With the choice for this processor, both layers stay within 2e-6 of float64."""
    program = """
import torch
from bci_decode.layers import GRU, LayerNormGRU
from bci_decode.layers.cpu.matmul import use_fast_matmul
use_fast_matmul()
torch.manual_seed(0)
x, dy = torch.randn(12, 32, 96), torch.randn(12, 32, 256)
for kind in (GRU, LayerNormGRU):
    layer, results = kind(96, 256), []
    for dtype in (torch.float64, torch.float32):
        layer = layer.to(dtype)
        layer.use_fused = dtype == torch.float32
        y, _ = layer(x.to(dtype))
        results.append([y, *torch.autograd.grad(y, layer.parameters(), dy.to(dtype))])
    print(max(((a - b).norm() / a.norm()).item() for a, b in zip(*results)))
"""
    command = [sys.executable, "-c", program]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    errors = [float(line) for line in printed.split()]
    assert len(errors) == 2 and max(errors) < 2e-6, errors
