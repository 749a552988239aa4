"""A recording with gaps and unknown movement from the file to the scores, with real commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import bci_decode as bd
from bci_decode import cli
from bci_decode.data.simulate import Recording, simulated_file, write_recording
from bci_decode.evaluation.scores import scores
from bci_decode.realtime.decoder import StreamingDecoder
from bci_decode.realtime.stream.loop import run_live
from bci_decode.realtime.stream.replay import MAX_SPEED, Replay
from bci_decode.runs.estimator import train
from bci_decode.runs.reading import read_predictions

GAPS = ((20.0, 21.5), (50.0, 52.0), (56.0, 56.4))  # s; the last two are in the test part
UNKNOWN = ((10.0, 11.0), (54.0, 54.5))
SMALL = ("data.window.length=16", "data.window.burn_in=4", "trainer.epochs=1", "trainer.threads=1")
MODELS = {
    "gru": ("model=gru", "model.recurrent.hidden_size=6", "trainer.noise=0.1"),
    "history": (
        "model=lngru",
        "model.recurrent.hidden_size=6",
        "data.window.kind=history",
        "data.low_pass=2",
        "data.window.grids=2",
        "ensemble=2",
    ),
    "wiener": ("model=wiener", "data.count_window=0.32"),
    "cascade": ("model=cascade", "data.lag=0.1"),
    "kalman": ("model=kalman", "data.presence=0.016"),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A minute with three gaps and two stretches in which the finger's position is unknown."""
    home = tmp_path_factory.mktemp("gaps")
    session = bd.read_session(simulated_file(home / "whole.mat", seed=0, minutes=1, channels=8))
    s = session.t - session.t[0]
    kept = ~np.any([(s > a) & (s < b) for a, b in GAPS], axis=0)
    finger = session.finger_pos.copy()
    finger[np.any([(s > a) & (s < b) for a, b in UNKNOWN], axis=0)] = np.nan
    stored = np.column_stack([finger[:, 2] / 10, -finger[:, :2] / 10, np.zeros((len(s), 3))])
    rows: list[list[np.ndarray]] = [[np.empty(0)] * 5 for _ in session.channels]
    for unit, times in zip(session.units.itertuples(), session.spike_times, strict=True):
        rows[session.channels.index(unit.channel)][unit.row] = times
    there = session.t[kept], session.cursor_pos[kept], session.target_pos[kept], stored[kept]
    write_recording(home / "gaps.mat", Recording(*there, rows, list(session.channels)))
    return home / "gaps.mat"


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the console command with its words; gives exit code and output."""

    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["bci-decode", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, capsys.readouterr().out

    return call


@pytest.mark.parametrize("kind", list(MODELS))
def test_every_kind_of_model_learns_and_is_scored_without_gaps(file, tmp_path, kind, caplog):
    run = train(file, None, (*MODELS[kind], *SMALL, "figures=none"), tmp_path, progress=False)
    left_out = run.metrics["protocol"]["left_out"]
    assert left_out["train"]["gaps"] == 1 and left_out["test"]["gaps"] == 2
    assert left_out["train"]["unknown_bins"] in (16, 17, 18, 19)
    burn_in = 15 if kind == "history" else 4
    # the second gap ends the test part's second segment
    assert left_out["test"]["burn_in_bins"] == 2 * burn_in
    assert "bins left out of the scores: train: " in caplog.text
    saved = read_predictions(run.folder / "predictions.npz")
    known = np.isfinite(saved["true"]).all(axis=1)
    counted = sum(n for key, n in left_out["test"].items() if key != "gaps")
    assert (~known).sum() == counted and np.isfinite(saved["decoded"][known]).all()
    assert run.metrics["scores"]["test"] == scores(saved["true"][known], saved["decoded"][known])
    assert np.isfinite(run.history.drop(columns="lr")["train_loss"]).all()

    session = bd.read_session(file)
    binned, table = run.bin(session), run.decode(session)
    assert table["time"].tolist() == binned.edges[1:].tolist()
    axes = list(run.axes)
    for start, stop in binned.segments.tolist():  # each as a session that begins after the gap
        first, last = binned.edges[start], binned.edges[stop]
        alone = run.decode(session, first, last)
        np.testing.assert_allclose(alone[axes], table[axes][start:stop], atol=1e-3)
    assert table["x"].isna().sum() == len(binned.counts) - np.diff(binned.segments).sum()

    decoder = StreamingDecoder(run)
    summary = run_live(decoder, Replay(run, session, MAX_SPEED, max_gap=0.1), on_jump="reset")
    assert summary.jumps == 2
    offline = run.predictions(session)
    both = np.isfinite(offline["decoded"]).all(axis=1)
    np.testing.assert_allclose(summary.decoded[both], offline["decoded"][both], atol=0.02)
    np.testing.assert_array_equal(summary.true, offline["true"])


def test_commands_say_what_is_left_out(file, tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = train(file, None, (*MODELS["wiener"], *SMALL), tmp_path / "out", progress=False)
    assert (run.folder / "trajectory.png").stat().st_size > 0
    code, text = command("evaluate", run.folder, "--session", file, "--output", tmp_path / "e")
    assert code == 0 and "bins left out of the scores: gaps: " in text and "in 2 gaps" in text
    report = json.loads((tmp_path / "e" / "evaluation.json").read_text(encoding="utf-8"))
    assert report["left_out"] == run.metrics["protocol"]["left_out"]["test"]
    np.testing.assert_allclose(report["scores"]["r2"], run.metrics["scores"]["test"]["r2"])
    words = ("stream", run.folder, "--replay", file, "--speed", "max", "--output", tmp_path / "s")
    assert command(*words)[0] == 0
    live = json.loads((tmp_path / "s" / "stream.json").read_text(encoding="utf-8"))
    np.testing.assert_allclose(live["scores"]["r2"], report["scores"]["r2"], atol=1e-4)
    assert live["jumps"] == 2 and live["on_jump"] == "reset"
    code, text = command("inspect", file)
    assert code == 0 and "3 gaps" in text and "left out of training and scores" in text


def test_a_recording_with_gaps_recalibrates_a_decoder(file, tmp_path):
    from bci_decode.realtime.recalibration.fit import recalibrate

    words = (*MODELS["gru"], *SMALL, "figures=none")
    run = train(file, None, words, tmp_path, progress=False)
    session = bd.read_session(file)
    found = recalibrate(run, session, 30.0, steps=3, parent_session=session)
    assert all(np.isfinite([row["train_loss"], row["test_r2"]]).all() for row in found.history)
    assert all(torch_finite(values) for values in found.model.state_dict().values())


def torch_finite(values) -> bool:
    return bool(values.isfinite().all())
