"""A decoder of many sessions that is adapted to a new one: what it begins from, what it sees."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from composing import compose

import bci_decode as bd
from bci_decode.cli import main
from bci_decode.data.simulate import simulated_days
from bci_decode.errors import BciDecodeError
from bci_decode.pack import pack, packed_run
from bci_decode.realtime.recalibration.calibrate import STEPS, calibrate, merged, stages
from bci_decode.realtime.recalibration.fit import recalibrate
from bci_decode.realtime.recalibration.gradient_steps import take_steps
from bci_decode.runs.load_joint import load_joint
from bci_decode.runs.run import run as run_config

ARRAY = {"seed": 3, "minutes": 1.2, "channels": 16}
SMALL = [
    "experiment=multi_session", "model=gru", "model.recurrent._target_=torch.nn.GRU",
    "model.recurrent.hidden_size=16", "model.recurrent.num_layers=1", "model.encoder.width=8",
    "trainer.epochs=12", "dropout.layers=0", "optimizer.weight_decay=0", "figures=none",
]  # fmt: skip


@pytest.fixture(scope="module")
def days(tmp_path_factory) -> list[Path]:
    return simulated_days(tmp_path_factory.mktemp("days"), 3, **ARRAY)


@pytest.fixture(scope="module")
def train(days, tmp_path_factory):
    def trained(*words: str):
        home = tmp_path_factory.mktemp("home")
        places = [f"output_dir={home / 'outputs'}", f"data_dir={home / 'data'}"]
        sessions = f"sessions=[{','.join(map(str, days[:2]))}]"
        return load_joint(run_config(compose(*places, sessions, *SMALL, *words), progress=False))

    return trained


@pytest.fixture(scope="module")
def joint(train):
    return train()


@pytest.fixture(scope="module")
def new_day(days) -> bd.Session:
    return bd.read_session(days[2])


def state_of(joint, number: int) -> dict[str, torch.Tensor]:
    return joint.decoder.session_decoder(number).state_dict()


# the merged decoder


def test_a_unit_of_one_session_keeps_its_weights_and_one_of_two_has_their_mean(joint):
    run, (first, second) = merged(joint), joint.state["sessions"]
    columns = [
        {(c, row): k for k, (c, _, row) in enumerate(one["units"])} for one in (first, second)
    ]
    weights = [state_of(joint, k)["encoder.linear.weight"] for k in (0, 1)]
    kinds = set()
    for place, unit in enumerate(run.units.itertuples(index=False)):
        cell = unit.channel, unit.row
        known = [w[:, c[cell]] for w, c in zip(weights, columns, strict=True) if cell in c]
        kinds.add(tuple(cell in c for c in columns))
        found = run.state["decoder"]["encoder.linear.weight"][:, place]
        torch.testing.assert_close(found, torch.stack(known).mean(0))
        latest = second if cell in columns[1] else first
        assert run.state["mean"]["counts"][place] == latest["mean"]["counts"][
            columns[latest is second][cell]
        ]  # fmt: skip
    assert len(kinds) == 3  # of both sessions, and of each alone
    torch.testing.assert_close(
        run.state["std"]["target"], (first["std"]["target"] + second["std"]["target"]) / 2
    )


def test_the_shared_weights_stay_to_the_bit(joint):
    run = merged(joint)
    for name, values in state_of(joint, 0).items():
        if not name.startswith("encoder"):
            assert torch.equal(run.state["decoder"][name], values), name


def test_own_read_outs_begin_as_their_mean(train):
    joint = train("multi_session.read_out=session", "trainer.epochs=1")
    heads = [state_of(joint, number)["head.weight"] for number in (0, 1)]
    assert not torch.equal(*heads)
    torch.testing.assert_close(merged(joint).state["decoder"]["head.weight"], sum(heads) / 2)


# the fit


@pytest.fixture(scope="module")
def found(joint, new_day, tmp_path_factory):
    return calibrate(joint, new_day, 25.0, steps=30)


def test_it_scores_no_worse_than_before_and_the_read_out_too_changes(joint, found, new_day):
    before = merged(joint).score(new_day, new_day.t[0] + 26)["r2"]["mean"]
    assert found.score(new_day)["r2"]["mean"] > before
    assert not torch.equal(found.state["decoder"]["head.weight"], state_of(joint, 0)["head.weight"])
    assert np.array_equal(found.scaler("target").std, merged(joint).scaler("target").std)


def test_nothing_after_the_seconds_is_seen(joint, found, new_day):
    end = new_day.t[0] + 25.0
    later = new_day.t > end + 0.1
    moved = np.where(later[:, None], new_day.finger_pos[::-1], new_day.finger_pos)
    other = dataclasses.replace(
        new_day.with_positions(finger_pos=moved),
        spike_times=tuple(times[times < end] for times in new_day.spike_times),
    )
    again = calibrate(joint, other, 25.0, steps=30)
    for name, values in found.state["decoder"].items():
        assert torch.equal(values, again.state["decoder"][name]), name


def test_without_steps_the_units_alone_are_exchanged(joint, new_day):
    run, found = merged(joint), calibrate(joint, new_day, 25.0, steps=0)
    place = {(unit.channel, unit.row): k for k, unit in enumerate(run.units.itertuples())}
    weights = found.state["decoder"]["encoder.linear.weight"]
    for column, unit in enumerate(found.units.itertuples()):
        known = place.get((unit.channel, unit.row))
        old = run.state["decoder"]["encoder.linear.weight"]
        expected = torch.zeros(8) if known is None else old[:, known]
        assert torch.equal(weights[:, column], expected)


def test_the_read_in_alone_leaves_all_that_follows_as_it_was(joint, new_day):
    run, found = merged(joint), calibrate(joint, new_day, 25.0, steps=5, weights="read-in")
    for name, values in run.state["decoder"].items():
        if not name.startswith("encoder"):
            assert torch.equal(found.state["decoder"][name], values), name
    assert not torch.equal(found.state["decoder"]["encoder.linear.bias"],
                           run.state["decoder"]["encoder.linear.bias"])  # fmt: skip


def test_a_change_of_the_weights_has_its_price(joint, new_day):
    found, norms = next(stages(merged(joint), new_day, 25.0)), []
    for price in (0.0, 1.0, 100.0):
        model = copy.deepcopy(found.model)
        take_steps(model, found.data, list(model.parameters()), 15, 0, 3e-3, price)
        pairs = zip(model.parameters(), found.model.parameters(), strict=True)
        norms.append(sum(float((now - then).detach().norm()) for now, then in pairs))
    assert norms[0] > norms[1] > norms[2] > 0


def test_a_packed_run_of_many_is_the_same_decoder(joint, new_day, tmp_path):
    packed = load_joint(pack(joint, tmp_path / "many.safetensors"))
    one, other = (calibrate(run, new_day, 25.0, steps=3) for run in (joint, packed))
    for name, values in one.state["decoder"].items():
        assert torch.equal(other.state["decoder"][name], values), name


def test_a_session_of_arrays_is_calibrated_and_scored(joint, new_day):
    """It has no file whose MD5 could tell whether it was trained on."""
    session = bd.Session.from_arrays(
        t=new_day.t,
        spike_times=new_day.spike_times,
        position=new_day.finger_pos[:, :2],
        channels=list(new_day.units["channel"]),
    )
    found = calibrate(joint, session, 25.0, steps=3)
    assert found.state["session"]["md5"] == session.md5
    rest = found.bin(session).edges[found.state["session"]["split_bins"]["test"][0]]
    assert found.score(session).equals(found.score(session, rest))
    other = session.with_positions(finger_pos=session.finger_pos + 1)
    assert other.md5 != session.md5


# the command


def calibrated(monkeypatch, capsys, *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["bci-decode", "calibrate", *words])
    main()
    return capsys.readouterr().out


def test_the_command_writes_a_run_like_any_other(joint, days, monkeypatch, capsys):
    words = [str(joint.folder), str(days[2]), "--seconds", "25", "--steps", "20"]
    out = calibrated(monkeypatch, capsys, *words)
    folder = joint.folder / "calibrated" / f"{days[2].stem}_25s"
    report = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    history = pd.read_csv(folder / "history.csv")
    assert report["stages"] == ["units matched by channel and row", "read-in", "all weights"]
    assert len(history) == 3
    assert report["scores"]["test"]["r2"] == pytest.approx(history["test_r2"].iloc[-1], abs=1e-6)
    assert report["parent"]["sessions"] == joint.sessions
    assert report["parent"]["md5"] == merged(joint).md5
    for value in (report["parent"]["scores"]["test"]["r2"], *history["test_r2"]):
        assert f"{value:.3f}" in out
    assert (
        "Calibrated from a run of 2 sessions with 25 s"
        in packed_run(bd.load_run(folder), None).card
    )
    score = bd.load_run(folder).score(days[2])["r2"]["mean"]
    assert score == pytest.approx(report["scores"]["test"]["r2"], abs=1e-5)
    changed = (folder / "best.pt").stat().st_mtime_ns
    calibrated(monkeypatch, capsys, *words)
    assert (folder / "best.pt").stat().st_mtime_ns == changed  # finished: not repeated


def test_the_default_steps_of_the_command_are_those_of_the_function():
    assert importlib.import_module("bci_decode.calibrate").DEFAULT_STEPS == STEPS


def test_a_run_of_one_of_the_sessions_is_recalibrated_too(joint, days, new_day):
    (folder, _) = sorted((joint.folder / "sessions").iterdir())
    parent = bd.load_run(folder)
    found = recalibrate(parent, new_day, 25.0, steps=20, parent_session=bd.read_session(days[0]))
    before = parent.score(new_day, found.data.parts["test"].time[0])["r2"]["mean"]
    assert found.read_in == "same units, and the tuning of the parent's inputs"
    assert found.history[-1]["test_r2"] > before


# bad input


def test_a_session_of_the_training_is_refused(joint, days):
    with pytest.raises(BciDecodeError, match=f"is {days[0].stem}, one of the sessions") as error:
        bd.calibrate(joint, days[0], 25.0)
    assert "sessions/" in str(error.value)


def test_a_run_of_one_session_names_recalibrate(joint, days):
    (folder, _) = sorted((joint.folder / "sessions").iterdir())
    with pytest.raises(BciDecodeError, match="is of one session.*recalibrate"):
        calibrate(folder, days[2])


def test_the_run_of_many_names_calibrate_where_one_decoder_is_needed(joint):
    with pytest.raises(BciDecodeError, match="calibrate"):
        bd.load_run(joint.folder)


def test_a_session_without_a_known_unit_is_refused(joint, new_day):
    units = new_day.units.assign(channel="S1 " + new_day.units["channel"])
    other = dataclasses.replace(new_day, units=units)
    with pytest.raises(BciDecodeError, match="no unit with the channel and row.*sessions="):
        calibrate(joint, other, 25.0)


def test_other_weights_are_refused(joint, new_day):
    with pytest.raises(BciDecodeError, match="weights: is 'core'; choose all or read-in"):
        calibrate(joint, new_day, 25.0, weights="core")


def test_a_movement_in_another_unit_is_refused(joint, new_day):
    series = {name: dataclasses.replace(one, unit="a.u.") for name, one in new_day.series.items()}
    with pytest.raises(BciDecodeError, match="has velocity in a.u./s, .* decodes it in mm/s"):
        calibrate(joint, dataclasses.replace(new_day, series=series), 25.0)


def test_less_than_no_steps_are_refused(joint, new_day):
    with pytest.raises(BciDecodeError, match="steps: is -1; give 0 or more"):
        calibrate(joint, new_day, 25.0, steps=-1)


@pytest.mark.parametrize(("seconds", "remedy"), [(1.0, "or more"), (71.0, "leave"), (0.0, "above")])
def test_too_few_or_too_many_seconds(joint, days, seconds, remedy):
    with pytest.raises(BciDecodeError, match=remedy):
        calibrate(joint, days[2], seconds)
