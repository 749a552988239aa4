"""Run folders with known figures, and the command that compares them."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from recordings import ROOT

SCRIPT = ROOT / "scripts" / "compare.py"


NAN = float("nan")


A, B, C = "indy_20160927_04", "indy_20160927_06", "loco_20170210_03"


def write_run(
    root: Path, session="own", model="gru", seed=0, x: float | None = 0.5, y=0.7, bins=100,
    losses=(90, 80, 40, 30),
    val=(9, 8, 7, 8), experiment="default", md5=None, target="velocity", unit="mm/s", hidden=16,
    closed_form=False, cuts: int | None = None, cut=0, **data,
) -> Path:  # fmt: skip
    """A finished run whose target varies by 100 on the test part.

    `losses`, `val`: at epochs 0, 1, ...; of a model in closed form the first loss at epoch 1. With
    `cuts` it is the run of one `cut` of a chained split.
    """
    if closed_form:
        losses, val = losses[:1], val and val[:1]
    folder = root / experiment / session / model / f"seed{seed}"
    folder = folder / f"cut{cut}" if cuts else folder
    folder.mkdir(parents=True)
    parts = ["train", "val", "test"] if val else ["train", "test"]
    metrics = {
        "session": session, "model": model, "experiment": experiment, "seed": seed,
        "data": {"file": "x.mat", "md5": md5 or session, "seconds": 60.0},
        "best_epoch": int(np.argmin(val or losses)) + closed_form,
        "epochs": len(losses) - 1 + closed_form,
        "select_on": parts[1], "selection_rule": f"the {parts[1]} part",
        "scores": {"test": {"r2": None if x is None else (x + y) / 2, "r2_x": x, "r2_y": y}},
        "loss": {"test": min(losses)}, "target_variance": dict.fromkeys(parts, 100.0),
        "seconds": 1.0,
        "protocol": {
            "source": "finger_pos", "target": target, "unit": unit, "bin_width_s": 0.064,
            "lag_s": 0.0, "units": "all", "units_used": 30,
            "split_bins": {"train": [0, 500], "test": [500, 500 + bins]},
        },
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))
    settings = {
        "data": {
            "target": target,
            "bin_width": 0.064,
            "split": {"first_bins": 500, "val": 0.1 if val else 0.0},
        }
        | data,
        "model": {"recurrent": {"hidden_size": hidden}},
        "trainer": {"epochs": 3, "device": f"device of seed {seed}", "monitor_layers": seed > 0},
    }
    if cuts:
        settings["data"]["split"] = {"cuts": cuts, "cut": cut, "val": 0.1 if val else 0.0}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    history = pd.DataFrame({"epoch": np.arange(len(losses)) + closed_form, "test_loss": losses})
    history["val_loss"], history["lr"] = val or NAN, NAN if closed_form else 0.1
    history.to_csv(folder / "history.csv", index=False)
    return folder


def compare(folder: Path, capsys, monkeypatch, *words: str) -> tuple[int, str, str]:
    """Exit code, and what the command printed."""
    monkeypatch.setattr(sys, "argv", ["compare.py", str(folder), *words])
    code = 0
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as end:
        code = int(end.code or 0)
    return code, *capsys.readouterr()
