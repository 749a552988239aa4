"""Experiment loggers, each with the real tool in a separate process, without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bci_decode.training.loggers import TOOLS as KNOWN
from bci_decode.training.loggers import finite

TRAIN = ["session.minutes=1", "trainer.epochs=2", "model.recurrent.hidden_size=8", "model=gru"]
TENSORBOARD = """
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
import glob
events = EventAccumulator(glob.glob("outputs/**/events*", recursive=True)[0]).Reload()
print([round(event.value, 3) for event in events.Scalars("val_r2")])
"""
MLFLOW = """
import mlflow
client = mlflow.MlflowClient()
(run,) = client.search_runs([client.get_experiment_by_name("bci_decode").experiment_id])
assert run.data.params["trainer.epochs"] == "2", run.data.params
steps = sorted(client.get_metric_history(run.info.run_id, "val_r2"), key=lambda one: one.step)
print([round(step.value, 3) for step in steps])
"""
WANDB = """
import glob
(file,) = glob.glob("outputs/**/offline-run*/*.wandb", recursive=True)
assert b"val_r2" in open(file, "rb").read()
"""


def run(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


TOOLS = {
    "tensorboard": (TENSORBOARD, {}),
    "mlflow": (MLFLOW, {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}),
    "wandb": (WANDB, {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}),
}
# `make test-loggers` names the other tools, whose dependencies exclude each other
TESTED = os.environ.get("TESTED_LOGGERS", "tensorboard").split()


@pytest.mark.parametrize("kind", TESTED)
def test_every_epoch_arrives(tmp_path, kind):
    read, environment = TOOLS[kind]
    train = ["-m", "bci_decode.train", *TRAIN, f"logger={kind}"]
    done = run(tmp_path, *train, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    there = run(tmp_path, "-c", read, **environment)
    assert there.returncode == 0, there.stderr
    if kind != "wandb":
        rows = (tmp_path / "outputs/default/simulated/gru/seed0/history.csv").read_text()
        header, *lines = (line.split(",") for line in rows.splitlines())
        expected = [round(float(line[header.index("val_r2")]), 3) for line in lines]
        assert there.stdout.strip() == str(expected)


def test_a_tool_that_is_not_installed_is_one_line(tmp_path):
    hidden = "import sys; sys.modules['wandb'] = None; import bci_decode.train as t; t.main()"
    words = [f"sys.argv = ['train', {', '.join(map(repr, [*TRAIN, 'logger=wandb']))}]"]
    done = run(tmp_path, "-c", hidden.replace("import bci", f"{words[0]}; import bci"))
    assert done.returncode == 2
    assert "error: logger: is wandb, which is not installed; install it" in done.stderr


def test_nothing_is_imported_unless_it_is_chosen():
    code = "import sys, bci_decode.training.loggers; print({'wandb', 'mlflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n" and set(KNOWN) == {"tensorboard", "mlflow", "wandb"}


def test_only_finite_numbers_are_logged():
    assert finite({"a": 1, "b": float("nan"), "c": "text"}) == {"a": 1.0}


def test_a_fault_of_a_tool_ends_the_logging_and_not_the_run(tmp_path):
    """Here its writer is lost, as with a broken connection."""
    code = (
        "import logging, pathlib; logging.basicConfig()\n"
        "from bci_decode.training.loggers import experiment_logger\n"
        "with experiment_logger('tensorboard', pathlib.Path('events'), 'name', {}) as logger:\n"
        "    logger.log({'loss': 1.0}, 0)\n"
        "    logger.tool.writer = None\n"
        "    logger.log({'loss': 1.0}, 1)\n"
        "    logger.log({'loss': 1.0}, 2)\n"
    )
    done = run(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("logger=tensorboard stopped") == 1
