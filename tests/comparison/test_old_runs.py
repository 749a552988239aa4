"""Runs of the earlier version and of this one in one comparison."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import yaml
from run_folders import A, write_run

from bci_decode.comparison.finished_runs import read_runs
from bci_decode.comparison.groups import group_runs
from bci_decode.data.catalog import catalog

PRESENT = {
    "model": {
        "_target_": "bci_decode.models.decoder.Decoder",
        "recurrent": {"_target_": "bci_decode.layers.GRU", "hidden_size": 16},
        "head": {"_target_": "bci_decode.models.heads.MLPHead", "width": 8},
    },
    "trainer": {"epochs": 3, "monitor_layers": True, "profile": False},
    "names": {"experiment": "default", "model": "gru"},
}
EARLIER = {
    "model": {
        "_target_": "bci_decode.decoder.Decoder",
        "recurrent": {"_target_": "bci_decode.layers.GRU", "hidden_size": 16},
        "head": {"_target_": "bci_decode.decoder.MLPHead", "width": 8},
    },
    "trainer": {"epochs": 3, "gemm": "auto", "watch": True, "profile": False},
}
SCORES = {"epoch": 2, "r2": 0.3, "r2_x": 0.2, "r2_y": 0.4, "bins": [530, 600]}


def rewrite(folder, model, trainer, names=None, key="val_from_test", **metrics):
    """Give a run folder the settings and metrics of a version."""
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["data"]["split"][key] = 0.2
    settings |= {"model": model, "trainer": trainer} | ({"names": names} if names else {})
    module = "bci_decode.simulate" if key == "val_of_rest" else "bci_decode.data.simulate"
    settings["session"] = {"_target_": f"{module}.simulated_session", "name": "own"}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    about = json.loads((folder / "metrics.json").read_text()) | metrics
    (folder / "metrics.json").write_text(json.dumps(about))


@pytest.fixture
def both(tmp_path):
    new, old = write_run(tmp_path / "new", seed=0), write_run(tmp_path / "old", seed=1)
    holdout = SCORES | {"at_test_selected_epoch": SCORES | {"epoch": 3}}
    rewrite(new, **PRESENT, recording="simulated", holdout=holdout)
    holdout = SCORES | {"at_test_choice": SCORES | {"epoch": 3}}
    rewrite(old, **EARLIER, key="val_of_rest", honest=holdout, gemm="default")
    history = pd.read_csv(old / "history.csv").assign(held_loss=9.0, outside_l0_update=0.1)
    history.to_csv(old / "history.csv", index=False)
    return tmp_path


def test_old_and_new_runs_are_one_group(both):
    (group,) = group_runs(read_runs(both)[0])
    new, old = group.runs
    assert old.settings["data.split.val_from_test"] == 0.2
    assert (
        old.recording == new.recording == "simulated" and old.model_settings == new.model_settings
    )
    assert {"holdout_loss", "saturated_l0_update"} <= set(old.history.columns)
    assert old.row()["holdout_r2_at_test_selected_epoch"] == 0.3


def test_what_a_run_is_of(tmp_path):
    folders = {"mine": "own file", A + "_30units": "excerpt", A: "recorded"}
    for session in folders:
        write_run(tmp_path, session, md5=catalog()[A].md5 if session == A else "other")
    write_run(tmp_path / "changed", A, md5="other")  # a file under a published name
    found = {run.metrics["session"]: run.recording for run in read_runs(tmp_path / "default")[0]}
    assert found == folders
    assert read_runs(tmp_path / "changed")[0][0].recording == "excerpt"
