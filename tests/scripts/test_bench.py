"""The measuring scripts run, compare the same work, and notice wrong results."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from recordings import ROOT

from bci_decode.layers import LayerNormGRU
from bci_decode.layers.weights import gate_weights

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
        ("study.py --sessions 0", "--sessions: is 0"),
        ("wiener.py --history 0", "--history: is 0"),
    ],
)
def test_bad_arguments_are_one_line(command, says, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = run(command)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {says}") and done.stderr.count("\n") == 1


def test_the_layers_table_has_a_row_for_each_shape():
    done = run("layers.py 4,6,8,5 2,3,8,5,2 --threads 2 --rounds 1")
    assert done.returncode == 0, done.stderr
    table = rows(done.stdout)
    assert [cells[0] for cells in table] == ["4, 6, 8, 5, 1", "2, 3, 8, 5, 2"]
    assert all(len(cells) == 7 and float(cells[1]) > 0 for cells in table)
    assert all(float(cell) >= 0 for cells in table for cell in cells[2:])
    assert torch.__version__ in done.stdout and "2 thread(s), wall time" in done.stdout


def test_only_the_layernorm_gru_can_be_measured(monkeypatch):
    monkeypatch.setenv("MKL_ENABLE_INSTRUCTIONS", "AVX2")
    done = run("layers.py 4,6,8,5 --only --plain --rounds 1")
    (cells,) = rows(done.stdout)
    assert cells[3:] == ["-"] * 4 and float(cells[2]) > 0
    assert "processor time of the thread, MKL_ENABLE_INSTRUCTIONS=AVX2" in done.stdout


def test_the_lines_after_the_table(script):
    layers = script("layers")
    windows = layers.windows(5, rounds=1, threads=1, hidden=8)
    assert "LN-GRU / nn.GRU" in windows and ", GRU / nn.GRU" in windows
    assert "NumPy" in layers.one_step(8, 5, 2, rounds=1, threads=1)
    assert "cell loop" in layers.one_step(8, 5, 1, rounds=1, threads=1)
    assert "bfloat16" in layers.autocast(1, 1, (4, 6, 8, 5))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory from /proc")
def test_the_memory_of_each_side_is_a_number(script):
    sides = script("costs").SIDES
    line = script("costs").memory("4,6,8,5,2")
    assert all(side in line for side in sides) and line.count(" MB") == len(sides)


def test_a_first_use_takes_processor_time(script):
    assert script("costs").first_use() > 0


@pytest.mark.parametrize("layers", [1, 2])
def test_the_yardsticks_compute_the_layers(script, layers):
    """CellLoop and the NumPy stepper do the work that the kernels are compared on."""
    yardsticks = script("yardsticks")
    torch.manual_seed(0)
    layer, cell = LayerNormGRU(5, 8, layers, bias=False), yardsticks.CellLoop(5, 8, layers)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for number, parts in enumerate(cell.layers):
            copy_weights(layer, number, parts)
        x = torch.randn(7, 1, 5)
        y = layer(x)[0]
        torch.testing.assert_close(cell(x)[0], y, rtol=0, atol=1e-5)
    stepper, h = yardsticks.NumpyStepper(layer), np.zeros((layers, 8), np.float32)
    for bin_, output in zip(x[:, 0].numpy(), y[:, 0].numpy(), strict=True):
        h = stepper.step(bin_, h)
        np.testing.assert_allclose(h[-1], output, rtol=0, atol=1e-5)


def copy_weights(layer: LayerNormGRU, number: int, parts: torch.nn.ModuleDict) -> None:
    for side, name in (("ih", "x"), ("hh", "h")):
        weight, _, gain, shift = gate_weights(layer, side, f"l{number}")
        parts[name].weight.copy_(weight)
        for group, rows_ in (("gates", slice(16)), ("candidate", slice(16, 24))):
            parts[f"{name}_{group}"].weight.copy_(gain[rows_])
            parts[f"{name}_{group}"].bias.copy_(shift[rows_])


def test_the_sides_take_turns(script):
    """Each side runs twice to choose its repetitions, then once and as often as 30 ms hold it."""
    now, calls = [0.0], []

    def side(name: str, seconds: float):
        def run() -> None:
            calls.append(name)
            now[0] += seconds

        return run

    sides = {"a": side("a", 0.015), "b": side("b", 0.03)}
    medians = script("timing").interleaved(sides, rounds=3, clock=lambda: now[0])
    assert medians == pytest.approx({"a": 0.015, "b": 0.03})
    assert "".join(calls) == "aabb" + 3 * "aaabb"


@pytest.mark.parametrize("model", ["gru", "lngru"])
def test_trainer_and_plain_loop_learn_the_same(script, model):
    rng = np.random.default_rng(0)
    counts, target = rng.poisson(0.5, (250, 4)), rng.normal(0, 70, (250, 2))
    words = "data.split.first_bins=200", "model.recurrent.hidden_size=8"
    *times, apart = script("pipeline")._epoch_times(model, counts, target, *words)
    assert min(times) > 0 and apart < 1e-3


def test_the_study_is_estimated_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    done = run("study.py --sessions 2 --minutes 0.5")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("94 runs x 75 epochs: ")
    channels = [line.split(" | ")[2] for line in done.stdout.splitlines() if "_20" in line]
    assert channels == ["96", "192"] and not list(tmp_path.iterdir())


def test_the_wiener_script_measures_both_ways_to_choose_a_penalty():
    done = run("wiener.py --minutes 1 --units 5 --history 3")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "threads: 1; bins: 938, inputs: 15, penalties: 10" in done.stdout
    given, without = done.stdout.splitlines()[-2:]
    assert given.startswith("| with a validation part |") and without.startswith("| without |")
    assert 0 < float(without.split("|")[-2]) < 1
