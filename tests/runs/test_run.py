"""One run as a function: what it logs, draws and refuses, without a command around it."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from composing import compose

from bci_decode.config import TrajectoryConfig
from bci_decode.errors import BciDecodeError
from bci_decode.runs import run as run_module
from bci_decode.runs.figures import read_predictions, trajectory_figure
from bci_decode.runs.run import run
from bci_decode.training.timing import Stopwatch

SMALL = ["session.minutes=1", "trainer.epochs=2", "model.recurrent.hidden_size=8", "model=gru"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def words(home) -> list[str]:
    return [f"output_dir={home / 'outputs'}", f"data_dir={home / 'data'}", *SMALL]


def test_a_closed_form_model_has_the_same_run_folder(home, words):
    words = [*words[:3], "model=wiener"]
    folder = run(compose(*words), progress=False)
    names = {path.name for path in folder.iterdir()}
    assert {"best.pt", "history.csv", "loss.png", "metrics.json", "trajectory.png"} <= names
    history = pd.read_csv(folder / "history.csv")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert history["epoch"].tolist() == [1] and history["lr"].isna().all()
    assert metrics["scores"]["test"]["r2"] == pytest.approx(history["test_r2"][0])
    assert metrics["model"] == "wiener" and metrics["recording"] == "simulated"
    assert "closed form" in metrics["selection_rule"]


def test_a_finished_run_repeats_its_score_and_draws_another_format(home, words, caplog):
    folder = run(compose(*words), progress=False)
    best = (folder / "best.pt").stat().st_mtime_ns
    caplog.clear()
    with caplog.at_level(logging.INFO):
        run(compose(*words, "figures=svg", "trajectory.seconds=5"), progress=False)
    r2 = json.loads((folder / "metrics.json").read_text())["scores"]["test"]["r2"]
    assert "finished already" in caplog.text and f"test R2 {r2:.3f}" in caplog.text
    assert (folder / "trajectory.svg").read_text().count("<path") > 10
    assert (folder / "best.pt").stat().st_mtime_ns == best


def test_other_settings_are_refused_before_anything_is_simulated(home, words):
    run(compose(*words), progress=False)
    other = [word.replace("minutes=1", "minutes=9") for word in words]
    with pytest.raises(
        BciDecodeError, match=r"session.minutes=1.0, here 9.0|session.minutes=1, here 9"
    ):
        run(compose(*other), progress=False)
    assert not list((home / "data").glob("*9min*"))


def test_a_fault_of_the_code_leaves_its_traceback_in_the_log(words, monkeypatch, caplog):
    """A sweep over night must be diagnosed from its folders."""

    def broken(*arguments):
        raise ZeroDivisionError("deep inside")

    monkeypatch.setattr(run_module.Job, "_write_report", broken)
    config = compose(*words, "seed=9")
    with pytest.raises(ZeroDivisionError):
        run(config, progress=False)
    log = (Path(config.output_dir) / "default/simulated/gru/seed9.running/train.log").read_text()
    assert "Traceback" in log and "deep inside" in log and "_write_report" in log
    monkeypatch.undo()
    assert (run(config, progress=False) / "metrics.json").exists()


def test_the_log_holds_what_this_project_says_alone(words):
    other = logging.getLogger("matplotlib.font_manager")
    folder = run(compose(*words, "seed=3"), progress=False)
    other.info("generated new fontManager")
    log = (folder / "train.log").read_text()
    assert "epoch   2" in log and "all files in" in log and "fontManager" not in log
    assert not [h for h in logging.getLogger("bci_decode").handlers if hasattr(h, "baseFilename")]


def test_an_early_stop_and_too_many_threads_are_said(words, caplog):
    more = ["seed=4", "trainer.epochs=300", "trainer.patience=1", "optimizer.lr=0.05"]
    threads = (os.cpu_count() or 1) + 1
    with caplog.at_level(logging.INFO):
        run(compose(*words, *more, f"trainer.threads={threads}"), progress=False)
    assert "stopped early at epoch" in caplog.text
    assert f"trainer.threads={threads} on" in caplog.text and "makes training slower" in caplog.text


def test_monitored_layers_are_drawn(words):
    folder = run(compose(*words, "seed=5", "trainer.monitor_layers=true"), progress=False)
    assert (folder / "layers.png").stat().st_size > 10_000
    assert "saturated_l0_update" in pd.read_csv(folder / "history.csv")


def test_a_later_run_of_a_process_counts_its_own_time():
    """In a sweep, the time of earlier runs does not belong to the start of this one."""
    Stopwatch()
    before = time.perf_counter()
    assert Stopwatch().started >= before


def test_the_trajectory_shows_the_chosen_time_and_its_r2(words):
    decoded = read_predictions(run(compose(*words), progress=False) / "predictions.npz")
    start = float(decoded["time"][20])
    figure = trajectory_figure(decoded, "title", TrajectoryConfig(start=start, seconds=3.0))
    panel = figure.axes[0]
    shown = panel.lines[0].get_xdata()
    assert shown[0] == start and shown[-1] == pytest.approx(start + 3.0, abs=0.1)
    bins = slice(20, 20 + len(shown))
    true, guess = decoded["true"][bins, 0], decoded["decoded"][bins, 0]
    r2 = 1 - ((true - guess) ** 2).sum() / ((true - true.mean()) ** 2).sum()
    assert f"x: R² {r2:.3f} here" in panel.get_title(loc="right")
    plt.close(figure)
    late = trajectory_figure(decoded, "title", TrajectoryConfig(start=1e9, seconds=86400))
    np.testing.assert_array_equal(late.axes[0].lines[0].get_xdata(), decoded["time"])
    plt.close(late)
