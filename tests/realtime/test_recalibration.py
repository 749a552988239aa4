"""A run that is fitted to the units of another day: what stays, what it has seen, its folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from composing import compose
from live_runs import made_run
from recordings import ROOT

import bci_decode as bd
from bci_decode import recalibrate as command
from bci_decode.cli import main
from bci_decode.data.simulate import simulated_session
from bci_decode.errors import BciDecodeError
from bci_decode.evaluation.decoding import predictor
from bci_decode.realtime.decoder import StreamingDecoder
from bci_decode.realtime.recalibration.fit import (
    STEPS,
    check_run,
    recalibrate,
    unit_parameters,
)
from bci_decode.realtime.recalibration.read_in import (
    Encoding,
    parent_recording,
    read_in,
    same_units,
)
from bci_decode.realtime.recalibration.read_out import (
    _inputs_and_outputs,
    _last_layers,
    refit_read_out,
)
from bci_decode.realtime.recalibration.run import Request, recalibrated_run
from bci_decode.realtime.recalibration.seconds import first_seconds
from bci_decode.runs.checksums import write_checksums
from bci_decode.runs.folder import is_complete
from bci_decode.runs.loaded_run import LoadedRun
from bci_decode.runs.run import run as run_config

ARRAY = {"seed": 3, "minutes": 1.5, "channels": 32}
SMALL = ["session.minutes=1.5", "session.channels=32", "session.seed=3", "figures=none"]
LITTLE = [*SMALL, "trainer.epochs=1", "trainer.patience=null", "trainer.select_on=last"]


NORM = "model.recurrent.norm=batch_shared"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("days")


@pytest.fixture(scope="module")
def train(home):
    def trained(*words: str) -> LoadedRun:
        places = [f"output_dir={home / 'outputs'}", f"data_dir={home / 'data'}"]
        return bd.load_run(run_config(compose(*places, *words), progress=False))

    return trained


@pytest.fixture(scope="module")
def parent(train) -> LoadedRun:
    words = ["experiment=best", "model=gru", "model.recurrent.hidden_size=24", "trainer.epochs=12"]
    return train(*SMALL, *words)


@pytest.fixture(scope="module")
def first_day(home, parent) -> bd.Session:
    return bd.read_session(simulated_session(home / "data", **ARRAY))


@pytest.fixture(scope="module")
def second_day(home) -> bd.Session:
    return bd.read_session(simulated_session(home / "data", **ARRAY, day=1))


@pytest.fixture(scope="module")
def found(parent, first_day, second_day):
    return recalibrate(parent, second_day, 30.0, steps=40, parent_session=first_day)


def same_weights(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


# what it does


def test_it_decodes_another_day_better_than_before(parent, found, second_day):
    start = found.data.parts["test"].time[0]
    before = parent.score(second_day, start)["r2"]["mean"]
    ridge, after = (row["test_r2"] for row in found.history[1:])
    assert before + 0.1 < ridge < after
    assert found.run.score(second_day)["r2"]["mean"] == pytest.approx(after, abs=1e-5)


def test_the_core_stays_and_the_read_in_has_the_new_units(parent, found):
    before, after = parent.state["decoder"], found.state["decoder"]
    names = unit_parameters(parent)
    assert names == ["recurrent.weight_ih_l0"]
    assert after[names[0]].shape == (72, len(found.data.units))
    changed = {name for name in before if name not in names and not same_weights(
        {name: before[name]}, {name: after[name]})}  # fmt: skip
    assert changed == {"head.weight", "head.bias"}
    assert all(p.requires_grad for p in found.model.parameters())


def test_nothing_after_the_seconds_is_seen(parent, first_day, second_day):
    """Other spikes and another hand after them change no weight and no scale, with any lag."""
    rng = np.random.default_rng(0)
    end = second_day.t[0] + 20.0
    later = second_day.t > end + 1e-9
    hand = second_day.finger_pos.copy()
    hand[later] = rng.normal(0, 50, (later.sum(), 3))
    spikes = tuple(
        np.append(times[times < end], rng.uniform(end, end + 60, 500).cumsum() / 500 + end)
        for times in second_day.spike_times
    )
    changed = dataclasses.replace(second_day, spike_times=spikes).with_positions(finger_pos=hand)
    for lag in (0.0, 0.05):
        run = with_lag(parent, lag)
        states = [
            recalibrate(run, session, 20.0, steps=5, parent_session=first_day).state
            for session in (second_day, changed)
        ]
        assert same_weights(states[0]["decoder"], states[1]["decoder"])
        for kind in ("mean", "std"):
            assert same_weights(states[0][kind], states[1][kind])


def with_lag(run: LoadedRun, lag: float) -> LoadedRun:
    data = run.state["data"] | {"lag": lag}
    return LoadedRun(run.folder, run.model, run.state | {"data": data})


def test_the_last_bin_of_the_seconds_ends_with_them(parent, second_day):
    data, binned, _ = first_seconds(parent, second_day, 20.0)
    stop = data.slices["train"].stop
    assert binned.edges[stop] <= second_day.t[0] + 20.0 < binned.edges[stop + 1]


def test_the_same_seed_gives_the_same_weights(parent, first_day, second_day):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    states = [
        recalibrate(parent, second_day, 20.0, steps=3, seed=seed, parent_session=first_day).state
        for seed in (0, 0, 1)
    ]
    assert same_weights(states[0]["decoder"], states[1]["decoder"])
    assert not same_weights(states[0]["decoder"], states[2]["decoder"])
    assert torch.equal(torch.get_rng_state(), before)


MODELS = {
    "lngru": ["model=lngru"],
    "history": ["experiment=source_study", "model=gru", "data.split.first_bins=900"],
    "ensemble": ["model=gru", "ensemble=2"],
    "lru": ["model=lru"],
    "stack": ["model=gru_postnorm"],
    "encoder": ["model=aegru", "data.scale.counts=none"],
    "steps": ["model=gru", "data.count_window=0.128", "data.window.step=2", "seed=1"],
}


@pytest.mark.parametrize("kind", list(MODELS))
def test_every_recurrent_model_is_recalibrated(kind, train, first_day, second_day, tmp_path):
    size = [] if kind == "encoder" else ["model.recurrent.hidden_size=12"]
    source = kind == "history"  # selects on the test part, as it must
    words = [*(SMALL if source else LITTLE), "trainer.epochs=1", *size, *MODELS[kind]]
    run = train(*words)
    request = Request(20.0, steps=2, output=tmp_path / "new", figures="svg")
    folder, report = recalibrated_run(run, second_day.path, request)
    new = bd.load_run(folder)
    assert len(new.units) == report["parent"]["units"]["new session"]
    assert not new.units.equals(run.units)
    scores = report["scores"]["test"]
    assert scores["r2"] > report["parent"]["scores"]["test"]["r2"]
    assert new.score(second_day)["r2"]["mean"] == pytest.approx(scores["r2"], abs=1e-5)
    assert ("tuning" in report["parent"]["read_in"]) == (kind != "encoder")


def test_a_recalibrated_run_decodes_live(parent, second_day, tmp_path):
    request = Request(20.0, steps=2, output=tmp_path / "new", figures="svg")
    folder, _ = recalibrated_run(parent, second_day.path, request)
    decoder = StreamingDecoder.load(folder)
    binned = decoder.run.bin(second_day)
    live = decoder.predict(binned.counts[:200])
    np.testing.assert_allclose(live, decoder.run.decode(binned)[["x", "y"]][:200], atol=1e-3)


# its parts


@pytest.mark.parametrize("kind", ["history", "steps", "ensemble"])
def test_the_read_out_is_fitted_on_what_the_head_gets_live(kind, train, second_day):
    """Bin by bin in the order of time, for every kind of window."""
    source = kind == "history"
    words = [*(SMALL if source else LITTLE), "trainer.epochs=1", "model.recurrent.hidden_size=12"]
    run = train(*words, *MODELS[kind])
    data, _, _ = first_seconds(run, second_day, 20.0)
    train_part = data.parts["train"]
    counts = np.random.default_rng(0).normal(size=(len(train_part), len(run.units)))
    part = dataclasses.replace(train_part, counts=counts.astype(np.float32))
    data = dataclasses.replace(data, parts=data.parts | {"train": part})
    member = run.model.members[0]
    layer = _last_layers(member.head, 2)[0][0]
    inputs, outputs = _inputs_and_outputs(member, layer, data)
    decode = predictor(member, data.window.history, data.window.step)
    np.testing.assert_allclose(outputs, decode(part.counts), atol=1e-6)
    weight, bias = (p.detach().numpy() for p in (layer.weight, layer.bias))
    np.testing.assert_allclose(inputs @ weight.T + bias, outputs, atol=1e-5)
    # a target that the layer can make is found, but for the penalty
    wanted = weight + np.random.default_rng(1).normal(0, 5, weight.shape)
    target = data.target_scaler.inverse(inputs @ wanted.T + 3.0)
    part = dataclasses.replace(part, target=target)
    assert refit_read_out(member, dataclasses.replace(data, parts=data.parts | {"train": part}))
    first = 0 if source else data.window.first_output
    error = (data.target_scaler.inverse(decode(part.counts)) - target)[first:]
    assert error.std() < 0.1 * target.std()


def test_an_input_is_the_unit_of_its_label_as_far_as_its_tuning_agrees(parent, first_day):
    """On the day itself every unit agrees; where labels are exchanged, none of theirs does."""
    encoding = Encoding.fit(parent, first_day)
    data, binned, _ = first_seconds(parent, first_day, 60.0)
    names = data.units
    same = same_units(parent, names)
    np.testing.assert_array_equal(same, np.eye(len(names)))
    right = np.diag(read_in(parent, data, binned, first_day, encoding))
    tuned = encoding.agreement > 0.2
    assert tuned.sum() > 20 and np.mean(right[tuned]) > 0.85
    exchanged = dataclasses.replace(data, units=names.iloc[::-1].reset_index(drop=True))
    label = same_units(parent, exchanged.units)
    wrong = (read_in(parent, exchanged, binned, first_day, encoding) * label).sum(axis=1)
    assert np.mean(wrong[tuned]) < 0.6


def test_without_the_parents_session_the_same_units_are_the_beginning(parent, second_day):
    found = recalibrate(parent, second_day, 20.0, steps=0)
    assert found.read_in == "same units" and len(found.history) == 2
    weight = parent.state["decoder"]["recurrent.weight_ih_l0"]
    expected = weight @ torch.as_tensor(same_units(parent, found.data.units), dtype=torch.float32)
    assert torch.equal(found.state["decoder"]["recurrent.weight_ih_l0"], expected)


# the folder


def test_the_command_writes_a_run_that_names_its_parent(parent, second_day, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(parent.folder, run)
    line = [sys.executable, "-m", "bci_decode.cli", "recalibrate", run, second_day.path]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*map(str, line), "--seconds", "30", "--steps", "20"],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = run / "recalibrated" / f"{second_day.name}_30s"
    report = json.loads((folder / "metrics.json").read_text())
    about, scores = report["parent"], report["scores"]["test"]
    assert about["md5"] == hashlib.md5((run / "best.pt").read_bytes()).hexdigest()
    assert (about["folder"], about["seconds"]) == (str(run.resolve()), 30.0)
    assert about["steps"] == 20 and about["learned_from"] == []
    assert "\nread-in: same units, and the tuning of the parent's inputs\n" in done.stdout
    before = about["scores"]["test"]["r2"]
    for name, r2 in (("before", before), ("after", scores["r2"])):
        assert f"{name:<7} {r2:.3f} (x " in done.stdout
    assert str(folder) in done.stdout and before < scores["r2"]
    assert is_complete(folder) and (folder / "trajectory.png").is_file()
    assert list(pd.read_csv(folder / "history.csv")["epoch"]) == [0, 1, 2]
    loaded = bd.load_run(folder)
    assert loaded.score(second_day)["r2"]["mean"] == pytest.approx(scores["r2"], abs=1e-5)
    first, _ = report["protocol"]["split_bins"]["test"]
    assert first * 0.064 > 30 and loaded.state["parent"] == about


def test_a_finished_run_is_kept_and_another_one_refused(parent, second_day, tmp_path, caplog):
    request = Request(20.0, steps=1, output=tmp_path / "new", figures="svg")
    folder, report = recalibrated_run(parent, second_day.path, request)
    files = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    with caplog.at_level("INFO"):
        assert recalibrated_run(parent, second_day.path, request) == (folder, report)
    assert "finished already; --overwrite makes it again" in caplog.text
    assert files == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    other = dataclasses.replace(request, steps=2)
    with pytest.raises(BciDecodeError, match=r"steps=1, here 2.*--overwrite makes it again"):
        recalibrated_run(parent, second_day.path, other)
    gone = tmp_path / "run"
    shutil.copytree(parent.folder, gone)
    (gone / "metrics.json").unlink()
    with pytest.raises(BciDecodeError, match=r"parent_session=\w{32}, here not found"):
        recalibrated_run(bd.load_run(gone), second_day.path, request)
    shutil.rmtree(gone)
    again = dataclasses.replace(other, overwrite=True)
    assert recalibrated_run(parent, second_day.path, again)[1]["parent"]["steps"] == 2
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["new"]


def test_the_md5_of_the_parent_is_that_of_the_loaded_file(parent, second_day, tmp_path):
    other = tmp_path / "other.pt"
    torch.save(torch.load(parent.file) | {"epoch": 0}, other)
    run = bd.load_run(other)
    assert run.md5 == hashlib.md5(other.read_bytes()).hexdigest() != parent.md5
    request = Request(20.0, steps=0, output=tmp_path / "new", figures="svg")
    _, report = recalibrated_run(run, second_day.path, request)
    assert report["parent"]["md5"] == run.md5 and report["parent"]["session_file"] is None
    assert "(the parent's session was not found)" in command.lines(report)[-1]


def test_a_run_without_its_figure_does_not_count_as_finished(parent, second_day, tmp_path):
    request = Request(20.0, steps=0, output=tmp_path / "new", figures="no format")
    with pytest.raises(BciDecodeError, match="no format"):
        recalibrated_run(parent, second_day.path, request)
    working = tmp_path / "new.running"
    assert (working / "predictions.npz").exists() and not (working / "metrics.json").exists()


def test_a_start_that_was_killed_leaves_nothing_behind(parent, second_day, tmp_path):
    request = Request(20.0, steps=1, output=tmp_path / "new", figures="svg")
    working = tmp_path / "new.running"
    working.mkdir()
    (working / "best.pt").write_bytes(b"half a checkpoint")
    folder, _ = recalibrated_run(parent, second_day.path, request)
    assert is_complete(folder) and not working.exists()


def test_a_recalibrated_run_is_recalibrated_again(parent, first_day, second_day, home, tmp_path):
    request = Request(30.0, steps=2, output=tmp_path / "second", figures="svg")
    folder, _ = recalibrated_run(parent, second_day.path, request)
    third_day = simulated_session(home / "data", **ARRAY, day=2)
    later = Request(30.0, steps=2, output=tmp_path / "third", figures="svg")
    _, report = recalibrated_run(bd.load_run(folder), third_day, later)
    assert report["parent"]["session"] == second_day.name
    assert report["scores"]["test"]["r2"] > report["parent"]["scores"]["test"]["r2"]


def test_units_without_a_match_need_the_parents_session(parent, first_day, second_day, tmp_path):
    units = second_day.units.assign(row=second_day.units["row"] + 10)
    strange = dataclasses.replace(second_day, units=units)
    with pytest.raises(BciDecodeError, match=r"none of the decoder's units.*--parent-session FILE"):
        recalibrate(parent, strange, 20.0, steps=0)
    found = recalibrate(parent, strange, 20.0, steps=0, parent_session=first_day)
    assert found.history[1]["test_r2"] > found.history[0]["test_r2"]


# bad input


def test_a_session_that_is_gone_or_another_one_is_noticed(
    parent, first_day, second_day, tmp_path, caplog
):
    assert parent_recording(parent) == first_day.path
    wrong = f"is not the session that .* was trained on; name the file of .*{first_day.path}"
    with pytest.raises(BciDecodeError, match=wrong):
        parent_recording(parent, second_day.path)
    with pytest.raises(BciDecodeError, match="none.mat: --parent-session: no such file"):
        parent_recording(parent, tmp_path / "none.mat")
    run = tmp_path / "run"
    shutil.copytree(parent.folder, run)
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["data"]["file"] = str(tmp_path / "gone.mat")
    (run / "metrics.json").write_text(json.dumps(metrics))
    write_checksums(run)
    assert parent_recording(bd.load_run(run)) is None
    assert "gone.mat: not there, or has changed; without the session" in caplog.text
    assert parent_recording(bd.load_run(run), first_day.path) == first_day.path


def test_a_relative_path_is_looked_for_above_the_run(parent, first_day, tmp_path):
    run, file = tmp_path / "outputs" / "run", tmp_path / "data" / "day.mat"
    shutil.copytree(parent.folder, run)
    file.parent.mkdir()
    shutil.copy(first_day.path, file)
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["data"]["file"] = "data/day.mat"
    (run / "metrics.json").write_text(json.dumps(metrics))
    write_checksums(run)
    assert parent_recording(bd.load_run(run)) == file


@pytest.mark.parametrize("words", [MODELS["encoder"], ["model=normgru", NORM]], ids=["encoder", ""])
def test_running_statistics_are_a_part_of_the_core(words, second_day, tmp_path):
    run = made_run(tmp_path / "run", second_day, *words, "model.recurrent.hidden_size=6")
    found = recalibrate(run, second_day, 20.0, steps=2)
    before, after = (dict(model.named_buffers()) for model in (run.model, found.model))
    assert before and same_weights(before, after)
    assert not any(module.training for module in found.model.modules())


def test_a_model_whose_weights_depend_on_the_units_is_refused(second_day, tmp_path):
    """An LRU has a weight for each input that is passed on where inputs are as many as states."""
    size = f"model.recurrent.hidden_size={len(second_day.units)}"
    bare = ["model=gru", "model.recurrent._target_=bci_decode.layers.LRU", size]
    run = made_run(tmp_path / "run", second_day, *bare)
    with pytest.raises(BciDecodeError, match="weights recurrent.skip_l0 with one number of units"):
        recalibrate(run, second_day, 20.0, steps=0)


def test_bins_that_the_parent_learned_from_are_named(parent, first_day, tmp_path):
    request = Request(20.0, steps=0, output=tmp_path / "new", figures="svg")
    _, report = recalibrated_run(parent, first_day.path, request)
    assert report["parent"]["learned_from"] == ["train"]
    line = '"before" includes bins that RUN has learned from: its train part'
    assert line in command.lines(report)


def test_runs_without_a_core_or_with_both_directions_are_refused(train):
    with pytest.raises(BciDecodeError, match="closed form and has no recurrent core to keep"):
        check_run(train(*SMALL, "model=wiener"))
    with pytest.raises(BciDecodeError, match="is bidirectional"):
        both = ["model=gru", "bidirectional=true", "model.recurrent.hidden_size=8"]
        check_run(train(*LITTLE, *both))


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        (3.0, r"--seconds: is 3 s or 46 bins.*windows of 64; give 10 s or more"),
        (88.0, r"--seconds: is 88 s, and the session lasts 90\.0 s; leave \d s"),
        (1e6, r"--seconds: is 1e\+06 s, and the session lasts 90\.0 s"),
        (0.0, r"--seconds: is 0\.0; give seconds above 0"),
        (float("nan"), r"--seconds: is nan"),
        (float("inf"), r"--seconds: is inf"),
    ],
)
def test_seconds_that_do_not_fit_are_named(parent, second_day, seconds, message):
    with pytest.raises(BciDecodeError, match=message):
        first_seconds(parent, second_day, seconds)


def test_a_hand_that_rests_in_the_seconds_is_named(parent, second_day):
    hand = second_day.finger_pos.copy()
    hand[second_day.t < second_day.t[0] + 40, 0] = 5.0
    resting = second_day.with_positions(finger_pos=hand)
    with pytest.raises(BciDecodeError, match="x velocity never changes in the first 30 s; give"):
        first_seconds(parent, resting, 30.0)


def test_mistakes_on_the_command_line_are_one_line(
    parent, second_day, tmp_path, monkeypatch, capsys
):
    blocked = tmp_path / "a_file"
    blocked.write_text("")
    run, file = parent.folder, second_day.path
    cases = {
        "absent.mat: ": [run, "absent.mat"],
        "no such run": [tmp_path, file],
        "--steps: is -1; give 0 to 100000": [run, file, "--steps", -1],
        "--steps: is 1000000": [run, file, "--steps", 10**6],
        "--seed: is 4294967296; give 0 to 4294967295": [run, file, "--seed", 2**32],
        "--output: is a file; choose": [run, file, "--output", blocked],
        "--output: is the folder of RUN": [run, file, "--output", run, "--overwrite"],
        "--output: contains the folder of RUN": [run, file, "--output", run.parent.parent],
        "--seconds: is 1 s": [run, file, "--seconds", 1],
        "choose another --output": [run, file, "--output", blocked / "below", "--seconds", 20],
    }
    for message, words in cases.items():
        monkeypatch.setattr(sys, "argv", ["bci-decode", "recalibrate", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        written = capsys.readouterr()
        line = written.err.splitlines()[-1]
        assert end.value.code == 2 and written.out == ""
        assert line.startswith("error: ") and message in line
    assert not list(parent.folder.glob("recalibrated*/*"))


def test_the_default_of_the_command_is_that_of_the_function():
    assert command.DEFAULT_STEPS == STEPS == Request().steps
