"""The compiled code itself: the product, vector loops, numba's cache, and life without numba."""

from __future__ import annotations

import errno
import inspect
import os
import re
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from numba import njit
from recordings import ROOT

from bci_decode.layers import GRU, LayerNormGRU, cpu
from bci_decode.layers.cpu import kernels, rows
from bci_decode.layers.cpu.product import (
    JIT,
    add_product,
    at,
    lanes_of,
    pack,
    padded,
)

TINY = """
import sys
import numpy as np
import torch
from bci_decode.layers import GRU, LayerNormGRU
torch.manual_seed(0)
layer = {layer}
x = torch.linspace(-1, 1, 60).reshape(5, 3, 4)
y = layer(x)[0]
y.sum().backward()
print("numba" in sys.modules, float(y.detach().abs().sum()) > 0)
"""
# printed after 2 s; a busy machine also needs that long to load compiled code
COMPILING = "compiling the recurrent layer for this processor takes some seconds, once"

RESULTS = """
import hashlib
results = torch.cat([t.flatten() for t in (y.detach(), *(p.grad for p in layer.parameters()))])
print(hashlib.sha256(results.numpy().tobytes()).hexdigest())
"""


def python(program: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a program in a process of its own."""
    command = [sys.executable, "-c", program]
    around = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    cwd = around["PYTHONPATH"].split(os.pathsep)[0]
    return subprocess.run(command, capture_output=True, text=True, env=around, cwd=cwd)


@njit(**JIT)
def product(a, b, transposed, sizes, panels, c):
    m, k, n = sizes
    pack(at(b, 0), n, 1, k, n, at(panels, 0), 0, k)
    strides = (1, m) if transposed else (k, 1)
    add_product(at(a, 0), *strides, m, at(panels, 0), k, n, at(c, 0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("size", [(1, 1, 1), (8, 4, 32), (13, 30, 37), (21, 7, 96), (9, 129, 50)])
def test_the_product_adds_to_what_is_there(size, transposed, dtype):
    (m, k, n), rng = size, np.random.default_rng(0)
    a, b = (rng.normal(size=shape).astype(dtype) for shape in ((m, k), (k, n)))
    columns = padded(n, lanes_of(np.dtype(dtype).itemsize))
    before = rng.normal(size=(m, columns)).astype(dtype)
    c, panels = before.copy(), np.full(columns * k, np.nan, dtype)
    flat = a.T.copy() if transposed else a
    product(flat.ravel(), b.ravel(), transposed, size, panels, c.reshape(-1))
    exact = before[:, :n] + a.astype(np.float64) @ b.astype(np.float64)
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(c[:, :n], exact, rtol=0, atol=tolerance * k)
    np.testing.assert_array_equal(c[:, n:], before[:, n:])  # padded columns of B are zeros


@pytest.mark.parametrize("size", [(13, 30, 37), (21, 7, 96)])
def test_an_element_of_the_product_has_the_bits_of_its_row_alone(size):
    (m, k, n), rng = size, np.random.default_rng(0)
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((m, k), (k, n)))
    columns = padded(n, lanes_of(4))
    together, alone = np.zeros((m, columns), np.float32), np.zeros((m, columns), np.float32)
    panels = np.empty(columns * k, np.float32)
    product(a.ravel(), b.ravel(), False, size, panels, together.reshape(-1))
    for i in range(m):
        product(a[i], b.ravel(), False, (1, k, n), panels, alone[i])
    np.testing.assert_array_equal(together, alone)


def float32(values):
    return np.asarray(values, np.float32)


def compiled(function):
    """The function over an array, in the type of the array."""

    @njit(**rows.FAST)
    def over(x, y):
        for j in range(len(x)):
            y[j] = function(x[j])

    def run(x):
        y = np.empty_like(x)
        over(x, y)
        return y

    return run


def test_tanh_and_sigmoid_of_float32():
    x = np.concatenate([np.linspace(-20, 20, 20001), np.geomspace(1e-30, 1, 1000)])
    x, true = float32(x), np.tanh(float32(x).astype(np.float64))
    found = compiled(rows.tanh)(x)
    nonzero = true != 0
    assert np.abs(found[nonzero] / true[nonzero] - 1).max() < 4e-7
    assert np.abs(found).max() <= 1
    sigmoid = 1 / (1 + np.exp(-x.astype(np.float64)))
    assert np.abs(compiled(rows.sigmoid)(x) - sigmoid).max() < 2e-7
    special = compiled(rows.tanh)(float32([np.nan, np.inf, -np.inf, 0]))
    np.testing.assert_allclose(special, [np.nan, 1, -1, 0], atol=1e-6)
    assert np.abs(compiled(rows.tanh)(np.array([0.3, 9.0])) - np.tanh([0.3, 9.0])).max() < 3e-16


COMPILED = {name: f for name, f in vars(rows).items() if hasattr(f, "py_func") and f is not at}
WITH_LOOPS = [n for n, f in COMPILED.items() if "for j in range" in inspect.getsource(f.py_func)]


def functions_of(name: str, found: dict[str, str] | None = None) -> dict[str, str]:
    """The source of a compiled function of `rows` and of those of `rows` that it calls."""
    found = {} if found is None else found
    function = getattr(rows, name, None)
    if hasattr(function, "py_func") and name not in found:
        found[name] = inspect.getsource(function.py_func)
        for called in re.findall(r"\b(\w+)\(", found[name]):
            functions_of(called, found)
    return found


def optimized(name: str) -> str:
    """What LLVM makes of a function of `rows`, in LLVM's language."""
    function, one = getattr(rows, name), np.float32(1)
    values = {"n": 2, "group": 2, "eps": one, "mean": one, "scale": one}
    arguments = inspect.signature(function.py_func).parameters
    pointers = ", ".join(a if a in values else f"at({a}, 0)" for a in arguments)
    names = {"at": at, name: function}
    exec(f"def run({', '.join(arguments)}):\n    {name}({pointers})", names)
    run = njit(**rows.FAST)(names["run"])
    run(*(values.get(a, np.ones(64, np.float32)) for a in arguments))
    (text,) = run.inspect_llvm().values()
    return text


@pytest.mark.parametrize("name", WITH_LOOPS)
def test_the_loops_are_vectorized(name):
    """A change may silently make one ten times slower; the results would be the same."""
    loops = sum(text.count("for j in range") for text in functions_of(name).values())
    vectorized = re.findall(r"^vector\.body\d*:", optimized(name), re.M)
    assert len(vectorized) >= loops >= 1


def test_a_loop_that_is_not_vectorized_is_noticed(monkeypatch):
    @njit(**rows.FAST)
    def add(total, values, n):
        for j in range(n):
            total[0] = total[j] + values[n - j * j]

    monkeypatch.setattr(rows, "add", add)
    assert not re.findall(r"^vector\.body\d*:", optimized("add"), re.M)


def test_compiled_code_is_kept_for_the_next_process(tmp_path):
    """The first says that it compiles and how long it took; the second compiles nothing.

    All give the same bits, so that a run may compile at its first start and load when it resumes.
    """
    program = TINY.format(layer="LayerNormGRU(4, 37)") + RESULTS
    first = python(program, NUMBA_CACHE_DIR=str(tmp_path))
    assert first.stdout.startswith("True True\n"), first.stderr
    assert re.search(r"compiled the recurrent layer in \d+ s", first.stderr)
    kept = sorted(path.name for path in tmp_path.rglob("*.nbc"))
    second = python(program, NUMBA_CACHE_DIR=str(tmp_path))
    said = second.stderr.replace(f"{COMPILING}\n", "")
    assert (second.stdout, said) == (first.stdout, "")
    assert sorted(path.name for path in tmp_path.rglob("*.nbc")) == kept != []
    indices = list(tmp_path.rglob("*.nbi"))
    for index in indices:
        index.write_bytes(index.read_bytes()[:100])
    damaged = python(program, NUMBA_CACHE_DIR=str(tmp_path))
    assert damaged.stdout.startswith("True True\n"), "the loop runs"
    assert (
        "pickle data was truncated" in damaged.stderr and "delete numba's *.nbi" in damaged.stderr
    )
    for index in indices:
        index.unlink()
    repaired = python(program, NUMBA_CACHE_DIR=str(tmp_path))
    assert "compiled the recurrent layer in" in repaired.stderr
    assert repaired.stdout == first.stdout


def test_where_compiled_code_cannot_be_kept_it_is_compiled_in_each_process(monkeypatch):
    def without_folder(*, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(kernels, "njit", without_folder)
    step = kernels._kernel(lambda x: x + 1)
    assert step(1) == 2 and not step.stats.cache_path


def test_a_full_disk_leaves_the_loop(monkeypatch, caplog):
    def full(form, dtype):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bci_decode.layers.cpu.autograd.compile_kernels", full)
    monkeypatch.setattr(cpu, "_ready", {})
    layer, x = LayerNormGRU(4, 6), torch.randn(5, 3, 4)
    y = layer(x)[0]
    assert "numba cannot compile here ([Errno 28] No space left on device)" in caplog.text
    layer.use_fused = False
    assert torch.equal(layer(x)[0], y)


def test_another_text_of_a_kernel_is_compiled_again(tmp_path):
    """numba's own key does not know the functions that a function calls."""
    shutil.copytree(ROOT / "bci_decode", tmp_path / "bci_decode")
    program = TINY.format(layer="GRU(4, 6)")
    places = {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    for _ in range(2):
        assert "compiled the recurrent layer in" in python(program, **places).stderr
        with (tmp_path / "bci_decode" / "layers" / "cpu" / "rows.py").open("a") as file:
            file.write("# another text\n")


@pytest.mark.parametrize(
    ("numba", "problem"),
    [
        ("raise ImportError('built for another NumPy')", "built for another NumPy"),
        ("__version__ = '0.1'", "cannot import name 'njit' from 'numba'"),  # too old
    ],
)
def test_without_numba_the_loop_runs_and_one_line_says_so(tmp_path, numba, problem):
    (tmp_path / "numba.py").write_text(numba)
    program = TINY.format(layer="torch.nn.Sequential()").replace(
        "y = layer(x)[0]",
        "y = GRU(4, 6)(x)[0] + LayerNormGRU(4, 6)(x)[0] + LayerNormGRU(4, 6, place='sum')(x)[0]",
    )
    done = python(program, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert done.stdout.endswith(" True\n"), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("numba is not usable (") and problem in line
    assert "recurrent layers run as loops" in line
    assert line.endswith("remedy: pip install 'bci_decode[fast]'")


@pytest.mark.parametrize(
    "program",
    [
        "import bci_decode, bci_decode.layers, bci_decode.evaluation.decoding",
        """
        import torch
        from bci_decode.layers import GRU, LayerNormGRU
        with torch.no_grad():
            for layer in (GRU(4, 6), LayerNormGRU(4, 6)):
                layer(torch.zeros(9, 2, 4))
        """,
    ],
)
def test_decoding_alone_imports_no_numba(program):
    done = python(textwrap.dedent(program) + "\nimport sys; print('numba' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize("kind", [GRU, LayerNormGRU])
def test_without_gradients_the_kernels_run_where_they_are_loaded(kind, monkeypatch):
    layer = kind(4, 6)
    layer.prepare()
    called = []
    served = cpu.serves
    monkeypatch.setattr(cpu, "serves", lambda *a: called.append(served(*a)) or called[-1])
    with torch.no_grad():
        layer(torch.zeros(9, 2, 4))
    assert called[-1] is True
    monkeypatch.setattr(cpu, "_ready", {})
    with torch.no_grad():
        layer(torch.zeros(9, 2, 4))
    assert called[-1] is False


def test_prepare_of_a_layer_elsewhere_compiles_nothing(monkeypatch):
    monkeypatch.setattr(cpu, "prepare", None)
    LayerNormGRU(4, 6, device="meta").prepare()
    layer = GRU(4, 6)
    layer.use_fused = False
    layer.prepare()


def test_a_fork_between_two_steps():
    """No thread and no lock of a kernel is left behind."""
    program = """
    import os, warnings
    import torch
    from bci_decode.layers import LayerNormGRU
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    layer, x = LayerNormGRU(4, 64), torch.randn(300, 16, 4)
    layer(x)[0].sum().backward()
    first = layer.weight_hh_l0.grad.clone()
    pid = os.fork()
    torch.set_num_threads(1)
    layer.zero_grad()
    layer(x)[0].sum().backward()
    same = torch.equal(layer.weight_hh_l0.grad, first)
    if pid == 0:
        os._exit(0 if same else 3)
    print(same, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    done = python(textwrap.dedent(program))
    said = done.stderr.replace(f"{COMPILING}\n", "")
    assert (done.stdout, said) == ("True 0\n", "")
