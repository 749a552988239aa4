"""The fused path for GPUs: its kernels in Triton's interpreter and compiler, and who imports it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from recordings import ROOT

from bci_decode.layers import cuda

INSTALLABLE = sys.platform == "linux" and platform.machine() == "x86_64"  # as in pyproject.toml
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None and not INSTALLABLE,
    reason="the extra dev installs triton only on Linux on x86_64",
)
COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from bci_decode.layers.cuda import autograd, kernels
import torch

for hidden, eps in ((48, 1e-5), (300, None)):
    options = autograd._options(torch.empty(3, 8, hidden), eps)
    settings = {name: options.pop(name) for name in ("num_warps", "num_stages", "enable_fp_fusion")}
    options |= {"KEEP": True, "AFFINE": eps is not None}
    absent = {"eps", "gain", "shift", "scales", "sums"} if eps is None else set()
    for kernel in (kernels.forward_kernel, kernels.backward_kernel):
        values = {name: options.get(name) for name in kernel.arg_names}
        types = {"T": "i32", "B": "i32", "eps": "fp32"}
        signature = {
            name: "constexpr" if name in absent or name in options else types.get(name, "*fp32")
            for name in values
        }
        constants = {name: values[name] for name, type in signature.items() if type == "constexpr"}
        source = ASTSource(kernel, signature, constants)
        done = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=settings)
        print(hidden, done.metadata.shared, len(done.asm["cubin"]))
"""


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
    )


@needs_triton
def test_the_kernels_compute_what_the_loop_does():
    interpreter = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    tests = Path(__file__).with_name("triton_kernels.py")
    done = python("-m", "pytest", str(tests), "-p", "no:cacheprovider", "--tb=short", **interpreter)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_triton
def test_the_kernels_compile_for_a_gpu(tmp_path):
    """Which the interpreter does not show. No GPU is needed."""
    done = python("-c", COMPILE, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    assert len(done.stdout.splitlines()) == 4, done.stderr


def test_triton_is_imported_only_for_a_gpu():
    program = (
        "import sys, torch; known = 'triton' in sys.modules; "
        "from bci_decode.layers import GRU, LayerNormGRU; "
        "LayerNormGRU(3, 4)(torch.zeros(2, 1, 3)); print(known or 'triton' not in sys.modules)"
    )
    done = python("-c", program)
    assert done.stdout == "True\n", done.stderr


def test_a_cpu_is_not_supported():
    x, weight = torch.zeros(2, 1, 3), torch.zeros(12, 4)
    assert not cuda.serves(x, None, weight)
