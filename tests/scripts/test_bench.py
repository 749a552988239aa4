"""The measuring scripts run, compare the same work, and notice wrong results."""

from __future__ import annotations

import importlib
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from recordings import ROOT

from bci_decode.errors import BciDecodeError

SCRIPTS = ROOT / "scripts" / "bench"


def run(command: str) -> subprocess.CompletedProcess:
    script, *arguments = command.split()
    command_line = [sys.executable, SCRIPTS / script, *arguments]
    return subprocess.run(command_line, capture_output=True, text=True)


def rows(table: str) -> list[list[str]]:
    """The cells of all rows that begin with a number."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return [cells for cells in lines if cells[0][0].isdigit()]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module


def test_gpu_script_runs_without_a_gpu():
    done = run("gpu.py 2,3,8,4 --device cpu --rounds 1")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    checked, cast, timed = rows(done.stdout)
    assert checked[:2] == ["2, 3, 8, 4", "loop"] and len(checked) == 9
    assert all(0 < float(cell) < 1e-5 for cell in checked[2:])
    assert cast[1] == "loop, bfloat16" and all(1e-5 < float(cell) < 0.5 for cell in cast[2:])
    no_gpu = [timed[column] for column in (2, 4, 5)]
    assert timed[0] == "2, 3, 8, 4, 1" and no_gpu == ["-"] * 3
    assert all(float(timed[column]) > 0 for column in (1, 3, 6, 7))


@pytest.mark.parametrize("fault", [1e-3, float("nan")])
def test_gpu_script_notices_a_wrong_result(script, fault, monkeypatch, capsys):
    gpu = script("gpu")
    right = gpu.results

    def wrong(layer, x, *others):
        results = right(layer, x, *others)
        if x.dtype == torch.float32:
            results["weight_hh_l0"] = results["weight_hh_l0"] * (1 + fault)
        return results

    monkeypatch.setattr(gpu, "results", wrong)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "2,3,8,4", "--device", "cpu", "--rounds", "1"])
    with pytest.raises(SystemExit, match="1 results have relative errors"):
        gpu.main()


@pytest.mark.parametrize(
    "command, says",
    [
        ("gpu.py 3,4 --device cpu", "3,4: is no shape"),
        ("gpu.py --rounds 0 --device cpu", "--rounds: is 0"),
        ("gpu.py", "--device cuda: this PyTorch finds no GPU"),
        ("layers.py 4,6,8", "4,6,8: is no shape"),
        ("layers.py 4,6,0,5", "4,6,0,5: is no shape"),
        ("layers.py 4,6,a,5", "4,6,a,5: is no shape"),
        ("layers.py --threads 0", "--threads: is 0"),
        ("layers.py --rounds 0", "--rounds: is 0"),
        ("pipeline.py --rounds 0", "--rounds: is 0"),
    ],
)
def test_bad_arguments_are_one_line(command, says, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = run(command)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {says}") and done.stderr.count("\n") == 1


def test_the_layers_table_has_a_row_for_each_shape():
    done = run("layers.py 4,6,8,5 2,3,8,5,2 --threads 2 --rounds 1")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    table = rows(done.stdout)
    assert [cells[0] for cells in table] == ["4, 6, 8, 5, 1", "2, 3, 8, 5, 2"]
    values = [float(cell) for cells in table for cell in cells[1:6]]
    assert all(value >= 0 for value in values) and table[0][6].endswith("%")
    assert all(float(cells[1]) > 0 for cells in table)
    assert torch.__version__ in done.stdout


def test_the_memory_of_a_step_is_a_number():
    assert float(run("layers.py 4,6,8,5 --memory-of fast").stdout) >= 0


def test_the_profile_lists_operations():
    done = run("layers.py 4,6,8,5 --profile")
    assert "aten::mm" in done.stdout and done.returncode == 0, done.stderr


class Clock:
    """Wall and processor seconds that only the measured sides advance."""

    def __init__(self):
        self.wall = self.cpu = 0.0

    def __call__(self) -> tuple[float, float]:
        return self.wall, self.cpu

    def advance(self, wall: float, cpu: float) -> None:
        self.wall, self.cpu = self.wall + wall, self.cpu + cpu


def test_the_sides_take_turns(script):
    """Each side runs twice to choose its repetitions, then once and as often as 30 ms hold it."""
    clock, calls = Clock(), []

    def side(name: str, seconds: float):
        return lambda: (calls.append(name), clock.advance(seconds, seconds))

    sides = {"a": side("a", 0.015), "b": side("b", 0.03)}
    medians = script("timing").interleaved(sides, rounds=3, clock=clock)
    assert medians == pytest.approx({"a": 0.015, "b": 0.03})
    assert "".join(calls) == "aabb" + 3 * "aaabb"


def busy_side(clock: Clock, busy: set[int]):
    """A side of 40 ms; in the rounds `busy` another process has the processor as long."""
    calls = itertools.count()

    def side() -> None:
        measured = (next(calls) - 2) // 2  # two calls before the first round, two in each
        clock.advance(0.08 if measured in busy else 0.04, 0.04)

    return side


def test_a_round_on_a_busy_processor_is_repeated(script):
    clock = Clock()
    sides = {"a": busy_side(clock, {0, 2})}
    medians = script("timing").interleaved(sides, rounds=2, one_thread=True, clock=clock)
    assert medians == pytest.approx({"a": 0.04})
    assert clock.cpu == pytest.approx(0.04 * (2 + 2 * 4))


def test_a_processor_that_is_always_busy_is_refused(script):
    clock = Clock()
    sides = {"a": busy_side(clock, set(range(4)))}
    with pytest.raises(BciDecodeError, match="other processes used the processor"):
        script("timing").interleaved(sides, rounds=1, one_thread=True, clock=clock)


@pytest.mark.parametrize("model", ["gru", "lngru"])
def test_trainer_and_plain_loop_learn_the_same(script, model):
    rng = np.random.default_rng(0)
    counts, target = rng.poisson(0.5, (250, 4)), rng.normal(0, 70, (250, 2))
    words = "data.split.first_bins=200", "model.recurrent.hidden_size=8"
    *times, apart = script("pipeline")._epoch_times(model, counts, target, *words)
    assert min(times) > 0 and apart < 1e-3
