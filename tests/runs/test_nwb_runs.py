"""A run from an NWB file to its scores, on that file, on its arrays and in the Zenodo layout."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import train_here
from nwb_files import perich

import bci_decode as bd
from bci_decode import cli
from bci_decode.errors import BciDecodeError

SMALL = (
    "session=local", "data.source=cursor_vel", "model=wiener", "model.history=2",
    "data.bin_width=0.05", "data.window.length=8", "data.window.burn_in=2", "data.split.gap=0.1",
    "figures=none", "output_dir=out",
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    perich(folder / "day1.nwb")
    return folder


@pytest.fixture(scope="module")
def run(home) -> Path:
    done = train_here(home, *SMALL, "session.path=day1.nwb")
    assert done.returncode == 0, done.stderr
    return next((home / "out").rglob("metrics.json")).parent


@pytest.fixture
def command(home, monkeypatch, capsys):
    """Runs the console command with its words; gives exit code, output and errors."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.chdir(home)
        monkeypatch.setattr(sys, "argv", ["bci-decode", *map(str, words)])
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0), *capsys.readouterr()
        return 0, *capsys.readouterr()

    return call


def test_the_run_knows_its_file(run):
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["session"] == "day1" and metrics["protocol"]["source"] == "cursor_vel"
    assert np.isfinite(metrics["scores"]["test"]["r2"])


def scores(folder: Path) -> dict[str, float]:
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["scores"]


def test_evaluation_and_replay_read_the_same_file(run, home, command):
    code, _, errors = command("evaluate", run, "--session", "day1.nwb", "--output", "scored")
    assert code == 0, errors
    words = ("--replay", "day1.nwb", "--speed", "max", "--output", "streamed")
    code, _, errors = command("stream", run, *words)
    assert code == 0, errors
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert scores(home / "scored")["r2"] == pytest.approx(metrics["scores"]["test"]["r2"])
    code, output, errors = command("inspect", "day1.nwb", "--source", "cursor_vel")
    assert code == 0 and "4 (M1 2, PMd 2)" in output, errors
    assert "cursor_vel  x -175.9 to 175.9 mm/s" in output


def test_arrays_of_a_recording_score_the_same(run, home, command):
    code, output, errors = command("convert", "day1.nwb", "day1.npz", "--source", "cursor_vel")
    assert code == 0 and output == "wrote day1.npz: 6 units, cursor_vel, cursor_pos\n", errors
    one, other = (bd.load_run(run).score(home / f"day1.{kind}", 4, 20) for kind in ("nwb", "npz"))
    assert one.equals(other)


def test_a_movement_in_another_unit_is_not_scored(run, home):
    session = bd.read_session(home / "day1.nwb", source="cursor_vel")
    unknown = replace(session.series["cursor_vel"], unit="a.u.")
    other = replace(session, series={"cursor_vel": unknown})
    loaded = bd.load_run(run)
    with pytest.raises(BciDecodeError, match=r"day1 has velocity in a.u., the decoder in mm/s; "):
        loaded.score(other)
    assert len(loaded.decode(other)) == 399


def test_bad_input_is_one_line(home):
    words = ("session.path=day1.nwb", "data.source=hand_pos", "output_dir=bad")
    done = train_here(home, *SMALL, *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "data.source: is 'hand_pos', the file has processing/behavior" in done.stderr
