"""The measuring scripts: they run, what they hold against each other is the same work, and they notice what is wrong."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys

import pytest
import torch
from recordings import ROOT

SCRIPTS = ROOT / "scripts"


def run(command: str) -> subprocess.CompletedProcess:
    script, *arguments = command.split()
    return subprocess.run([sys.executable, SCRIPTS / script, *arguments], capture_output=True, text=True)


def rows(table: str) -> list[list[str]]:
    """The cells of the lines of figures, all tables in a row."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return [cells for cells in lines if cells[0][0].isdigit()]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module


def test_parallel_prints_a_table_and_what_follows_from_it():
    done = run("bench_parallel.py --models 1 3 --threads 2 --rounds 1 --shape 2 3 8 4")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    table = rows(done.stdout)
    assert [cells[0] for cells in table] == ["1", "3"] and torch.__version__ in done.stdout
    ratios = [float(cells[3]) for cells in table]
    verdict = re.fullmatch(r"batching (pays|does not pay).*: ([\d.]+) to ([\d.]+) of.*", done.stdout.splitlines()[-1])
    assert verdict and [float(verdict[2]), float(verdict[3])] == sorted(ratios)


@pytest.mark.parametrize(
    "ratios, says",
    [({2: 0.95, 4: 1.1}, "does not pay: 0.95 to 1.10"), ({2: 0.95, 4: 0.6, 8: 0.5}, "pays for 4, 8 models: 0.50")],
)
def test_the_verdict_follows_the_ratios(script, ratios, says):
    assert says in script("bench_parallel").verdict(ratios)


def test_batched_models_do_what_each_does_alone(script):
    """Model 4 of 7, with its values put into a step of one model, has the same states and gradients bin by bin."""
    step = script("bench_parallel").TrainingStep
    many, one = step((2, 5, 16, 6), 7, "cpu"), step((2, 5, 16, 6), None, "cpu")

    def pairs():
        for name, tensor in vars(many).items():
            if isinstance(tensor, torch.Tensor):
                alone = vars(one)[name]
                yield name, tensor.select(tensor.shape.index(7), 4) if tensor.dim() > alone.dim() else tensor, alone

    with torch.no_grad():
        for _, of_many, alone in pairs():
            alone.copy_(of_many)
        before = one.h.clone(), one.dh.clone()
        many(), one()
    assert not torch.equal(one.h[1:], before[0][1:]) and not torch.equal(one.dh[:-1], before[1][:-1])
    for name, of_many, alone in pairs():
        torch.testing.assert_close(of_many, alone, msg=lambda text, name=name: f"{name}: {text}")


def test_gpu_script_runs_where_there_is_none():
    done = run("bench_gpu.py 2,3,8,4 --device cpu --rounds 1")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    checked, timed = rows(done.stdout)
    assert checked[0] == "2, 3, 8, 4" and len(checked) == 8 and all(0 < float(cell) < 1e-5 for cell in checked[1:])
    assert timed[0] == "2, 3, 8, 4, 1" and timed[3:] == ["-", "-"] and float(timed[2]) > 0


@pytest.mark.parametrize("fault", [1e-3, float("nan")])
def test_gpu_script_notices_a_wrong_result(script, fault, monkeypatch, capsys):
    bench = script("bench_gpu")
    right = bench.results

    def wrong(layer, x, *others):
        results = right(layer, x, *others)
        if x.dtype == torch.float32:
            results["weight_hh_l0"] = results["weight_hh_l0"] * (1 + fault)
        return results

    monkeypatch.setattr(bench, "results", wrong)
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "2,3,8,4", "--device", "cpu", "--rounds", "1"])
    with pytest.raises(SystemExit, match="1 results are off"):
        bench.main()


@pytest.mark.parametrize(
    "command, says",
    [
        ("bench_parallel.py --models 2 0", "--models: is [2, 0]"),
        ("bench_parallel.py --threads 0", "--threads: is 0"),
        ("bench_gpu.py 3,4 --device cpu", "3,4: is no shape"),
        ("bench_gpu.py --rounds 0 --device cpu", "--rounds: is 0"),
        ("bench_gpu.py", "--device cuda: this PyTorch finds no GPU"),
        ("bench_parallel.py --device cuda", "--device cuda: this PyTorch finds no GPU"),
    ],
)
def test_bad_arguments_are_one_line(command, says, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = run(command)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {says}") and done.stderr.count("\n") == 1


def test_the_layers_table_has_a_row_for_each_shape():
    done = run("bench_layers.py 4,6,8,5 2,3,8,5,2 --threads 2 --rounds 1")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    table = rows(done.stdout)
    assert [cells[0] for cells in table] == ["4, 6, 8, 5, 1", "2, 3, 8, 5, 2"]
    assert all(float(cell) >= 0 for cells in table for cell in cells[1:6]) and table[0][6].endswith("%")
    assert all(float(cells[1]) > 0 for cells in table)
    assert torch.__version__ in done.stdout


@pytest.mark.parametrize("words", ["4,6,8", "4,6,0,5", "4,6,a,5", "--threads 0", "--rounds 0"])
def test_what_cannot_be_measured_is_refused(words):
    done = run(f"bench_layers.py {words}")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_the_memory_of_a_step_is_a_number():
    done = run("bench_layers.py 4,6,8,5 --memory-of fast")
    assert float(done.stdout) >= 0
