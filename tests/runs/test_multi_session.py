"""A decoder of many sessions as a user trains it: its folder, its sessions' runs, mistakes."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import train_here as train
from composing import compose
from real_runs import compared
from recordings import recording, write_mat73

import bci_decode as bd
from bci_decode.cli import run_command
from bci_decode.comparison.finished_runs import read_runs
from bci_decode.errors import BciDecodeError
from bci_decode.runs.load_joint import load_joint
from bci_decode.runs.packed import write_packed
from bci_decode.runs.session_list import check_same_target, known_sessions, session_entries
from bci_decode.training.checkpoint import read_checkpoint, save_checkpoint

SMALL = [
    "model.recurrent.hidden_size=6", "model.encoder.width=4", "trainer.epochs=2",
    "data.window.length=12", "data.window.burn_in=2", "data.window.grids=2", "data.split.gap=0",
]  # fmt: skip
WORDS = ["experiment=multi_session", "model=gru", *SMALL]
TWO = ["sessions=[a.mat,b.mat]", *WORDS, "figures=none"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with three recordings, where a decoder of two of them is trained."""
    home = tmp_path_factory.mktemp("many")
    write_mat73(home / "a.mat", recording(channels=3, samples=4000))
    write_mat73(home / "b.mat", recording(channels=5, samples=5000, seed=1))
    write_mat73(home / "c.mat", recording(channels=4, samples=4000, seed=2))
    done = train(home, "sessions=[a.mat,b.mat]", *WORDS)
    assert done.returncode == 0, done.stderr
    (home / "printed.txt").write_text(done.stdout, encoding="utf-8")
    return home


@pytest.fixture
def copied(home, tmp_path) -> Path:
    return Path(shutil.copytree(home, tmp_path / "home"))


def seed_folder(home: Path, name="a_and_1_more", model="gru") -> Path:
    return home / "outputs/multi_session" / name / model / "seed0"


def report(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_the_folder_holds_the_decoder_and_a_run_for_each_session(home):
    folder = seed_folder(home)
    files = {path.name for path in folder.iterdir()}
    assert files == {
        "config.yaml", "history.csv", "best.pt", "last.pt", "train.log", "loss.png", "r2.png",
        "metrics.json", "sessions.csv", "SHA256SUMS", "sessions",
    }  # fmt: skip
    for name, units in (("a", 8), ("b", 14)):  # a channel's cell is empty in three ways
        run = bd.load_run(folder / "sessions" / name)
        assert len(run.units) == run.model.encoder.linear.in_features <= units
        assert (run.folder / "trajectory.png").exists()


def test_the_table_is_what_the_runs_of_the_sessions_score(home):
    folder = seed_folder(home)
    with (folder / "sessions.csv").open() as file:
        *rows, mean = csv.DictReader(file)
    assert [row["session"] for row in rows] == ["a", "b"] and mean["session"] == "mean"
    for row in rows:
        run = bd.load_run(folder / "sessions" / row["session"])
        table = run.score(home / f"{row['session']}.mat")
        assert float(row["r2"]) == pytest.approx(table["r2"]["mean"], abs=1e-5)
        assert float(row["rmse_x"]) == pytest.approx(table["rmse"]["x"], rel=1e-5)
        assert run.metrics["scores"]["test"]["r2_y"] == float(row["r2_y"])
        assert run.metrics["trained_with"] == ["a", "b"]
        last = run.history.iloc[-1]
        assert last["test_r2"] == pytest.approx(float(row["r2"]), abs=1e-6)
    for name in ("r2", "cc_x", "loss"):
        assert float(mean[name]) == pytest.approx(np.mean([float(row[name]) for row in rows]))
    printed = (home / "printed.txt").read_text()
    assert "test R2 of 2 sessions" in printed
    assert f"{float(mean['r2']):.3f}" in printed.splitlines()[-1]


def test_comparisons_see_the_sessions_alone(home):
    runs, incomplete = read_runs(home / "outputs")
    assert [run.metrics["session"] for run in runs] == ["a", "b"] and not incomplete.folders
    assert runs[0].protocol == runs[1].protocol


def test_the_decoder_of_all_sessions_is_read_back(home):
    folder = seed_folder(home)
    joint = load_joint(folder)
    assert joint.sessions == ["a", "b"] and joint.config.window.length == 12
    for name in joint.sessions:
        own = bd.load_run(folder / "sessions" / name).model.state_dict()
        one = joint.run(name)
        assert one.folder == folder / "sessions" / name
        for key, values in one.model.state_dict().items():
            assert torch.equal(values, own[key])
    with pytest.raises(BciDecodeError, match="seed0: has no session 'c'; choose one of a, b"):
        joint.run("c")
    with pytest.raises(BciDecodeError, match=r"name a folder of .*sessions: a, b; calibrate makes"):
        bd.load_run(folder)
    with pytest.raises(BciDecodeError, match="is of one session"):
        load_joint(folder / "sessions" / "a")


def test_training_in_python_returns_the_decoder_of_all_sessions(home):
    files = f"sessions=[{home / 'a.mat'},{home / 'b.mat'}]"
    words = [files, *WORDS, f"data_dir={home / 'data'}"]
    joint = bd.train(overrides=words, output_dir=home / "outputs", progress=False)
    assert isinstance(joint, bd.JointRun) and joint.sessions == ["a", "b"]
    assert joint.folder == seed_folder(home)


def test_a_packed_decoder_of_many_sessions(home, tmp_path, capsys):
    """One file with the decoder of every session, and a card with their scores."""
    folder, file = seed_folder(home), tmp_path / "both.safetensors"
    stated = ["--license", "CC0, lab of A"]
    run_command("pack", [str(folder), "--output", str(file), *stated])
    run_command("pack", [str(file), "--card"])
    card = capsys.readouterr().out
    assert "one decoder of 2 sessions" in card and card.count("CC0, lab of A") == 1
    rows = [line.split(" | ") for line in card.splitlines() if line.startswith("| ")]
    joint, scores = bd.load_joint(file), {row[0][2:]: row for row in rows}
    for one in report(folder)["sessions"]:
        name, r2 = one["name"], one["scores"]["r2"]
        assert scores[name][1:3] == [str(one["units"]), f"{r2:.3f}"] and one["md5"] in card
        packed, whole = joint.run(name), bd.load_run(folder / "sessions" / name)
        assert packed.decode(home / f"{name}.mat").equals(whole.decode(home / f"{name}.mat"))
        assert packed.metrics["scores"] == whole.metrics["scores"] and packed.source == file
    assert scores["mean"][2] == f"{report(folder)['scores']['test']['r2']:.3f}"
    assert not [part for part in home.parts[1:] if part.encode() in file.read_bytes()]
    with pytest.raises(BciDecodeError, match=r"load_joint\(FILE\).run\(NAME\) has that of a, b;"):
        bd.load_run(file)
    write_packed(tmp_path / "less.safetensors", replace(joint.packed, report={}))
    with pytest.raises(BciDecodeError, match="less.safetensors: lacks the report of a session"):
        bd.load_joint(tmp_path / "less.safetensors")
    with pytest.raises(BciDecodeError, match="both.safetensors: is packed already"):
        run_command("pack", [str(file)])


@pytest.mark.parametrize(
    "wrong", ["name", "twice", "std", "units", "read_out", "none", "encoder", "axes"]
)
def test_a_damaged_checkpoint_of_all_sessions_is_one_line(home, tmp_path, wrong):
    state = read_checkpoint(seed_folder(home) / "best.pt")
    first, second = state["sessions"]
    if wrong == "name":
        first["name"] = "../a"
    elif wrong == "twice":
        first["name"] = second["name"]
    elif wrong == "std":
        first["std"]["counts"][0] = 0
    elif wrong == "units":
        first["units"].pop()
    elif wrong == "read_out":
        state["model"]["read_out"] = "none"
    elif wrong == "encoder":
        state["model"]["settings"].pop("encoder")
    elif wrong == "axes":
        state.pop("axes")
    else:
        state["sessions"] = []
    save_checkpoint(tmp_path / "best.pt", state)
    line = "(sessions|model): is not as this|its model has no read-in|lacks axes|is of another"
    with pytest.raises(BciDecodeError, match=f"best.pt: ({line})"):
        load_joint(tmp_path)


def test_a_finished_run_is_not_repeated_and_more_epochs_continue_it(copied):
    folder = seed_folder(copied)
    before = (folder / "metrics.json").stat().st_mtime_ns
    done = train(copied, *TWO)
    assert done.returncode == 0 and "finished already" in done.stdout
    assert "test R2 of 2 sessions" in done.stdout
    assert (folder / "metrics.json").stat().st_mtime_ns == before
    kept = folder / "sessions" / "a" / "evaluations"
    kept.mkdir()
    words = ["scheduler=none", "output_dir=more"]
    assert train(copied, *TWO, *words).returncode == 0
    done = train(copied, *TWO, *words, "trainer.epochs=3")
    assert done.returncode == 0 and "resuming from epoch 2" in done.stdout, done.stderr
    more = copied / "more" / folder.relative_to(copied / "outputs")
    assert report(more)["epochs"] == report(more / "sessions" / "b")["epochs"] == 3
    (folder / "sessions/b/predictions.npz").unlink()  # made whole from last.pt
    done = train(copied, *TWO)
    assert done.returncode == 0 and "resuming from epoch 2" in done.stdout
    done = train(copied, *TWO, "overwrite=true")
    assert done.returncode == 0 and kept.with_name("evaluations.old").is_dir()
    assert not list(copied.rglob("*.running")) and not list(copied.rglob(".*.old"))


def test_other_data_or_sessions_are_refused(copied):
    done = train(copied, *TWO[1:], "sessions=[a.mat,c.mat]")
    assert done.returncode == 2 and "a run with other settings (sessions=" in done.stderr
    shutil.copy(copied / "c.mat", copied / "b.mat")
    done = train(copied, *TWO)
    assert done.returncode == 2 and "a run on other data" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_report_that_a_kill_cut_short_is_written_again(home, tmp_path):
    """The run of the second session was not whole yet; the results are equal to the bit."""
    folder = Path(shutil.copytree(home / "outputs", tmp_path / "out"))
    before, seed = compared(tmp_path), seed_folder(home).relative_to(home / "outputs")
    working = (folder / seed).rename(folder / seed.with_name("seed0.running"))
    for name in ("metrics.json", "sessions.csv", "SHA256SUMS", "sessions/b/metrics.json"):
        (working / name).unlink()
    with pytest.raises(BciDecodeError, match="holds no finished run"):
        read_runs(folder)  # the run of the first session is no finished one yet
    words = [f"data_dir={home / 'data'}", "output_dir=out"]
    done = train(tmp_path, f"sessions=[{home / 'a.mat'},{home / 'b.mat'}]", *WORDS, *words)
    assert done.returncode == 0 and "resuming from epoch 2" in done.stdout, done.stderr
    after = compared(tmp_path)
    assert after.keys() == before.keys()
    for name in (name for name in after if name.endswith((".pt", ".npz", ".csv"))):
        assert after[name] == before[name], name


def test_a_sweep_over_models_and_seeds_with_patterns(copied):
    words = ["-m", *WORDS[:1], *SMALL, "figures=none"]
    done = train(copied, *words, "sessions=['[ab].mat']", "model=gru", "seed=0,1")
    assert "sweep: 1 done, 1 skipped, 0 failed" in done.stdout, done.stdout + done.stderr
    done = train(copied, *words, "sessions=[a.mat],[c.mat]", "model=gru")
    assert "sweep: 2 done, 0 skipped, 0 failed" in done.stdout, done.stdout + done.stderr


def test_one_session_and_a_read_out_for_each(copied):
    more = ["multi_session.read_out=session", "output_dir=own"]
    assert train(copied, *TWO, *more).returncode == 0
    joint = load_joint(copied / "own/multi_session/a_and_1_more/gru/seed0")
    heads = [joint.decoder.session_decoder(number).head for number in range(2)]
    assert not torch.equal(heads[0].weight, heads[1].weight)
    done = train(copied, *TWO, "sessions=[c.mat]", "output_dir=own")
    assert done.returncode == 0
    assert (copied / "own/multi_session/c_and_0_more/gru/seed0/sessions/c/best.pt").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["sessions=[]"], "sessions: is empty; name a session at least"),
        (["sessions=a.mat"], "sessions: Invalid value"),
        (["sessions=['z*.mat']"], "sessions: nothing matches 'z*.mat'"),
        (["sessions=[indy]"], "sessions: there is no session 'indy'"),
        (["sessions=[a.mat,z.mat]"], "z.mat: sessions: is not there"),
        (["sessions=[a.mat,./a.mat]"], "sessions: a is listed twice"),
        (["sessions=[a.mat,link.mat]"], "sessions: a and link are the same recording"),
        (["sessions=['loco_2017021*']"], "loco_20170210_03.mat: is not there; type 'make data"),
        (
            ["sessions=[a.mat]", "session.minutes=1"],
            "session.minutes: has no effect, as sessions= does not list simulated",
        ),
        (["sessions=[a.mat]", "session.path=b.mat"], "session.path: has no effect"),
        (["sessions=[a.mat]", "ensemble=2"], "ensemble: is for one session"),
        (["sessions=[a.mat]", "init_from=x"], "init_from: is for one session"),
        (["sessions=[a.mat]", "data.split=chained"], "data.split.cuts: is for one session"),
        (["sessions=[a.mat]", "trainer.monitor_layers=true"], "monitor_layers: is for one"),
        (["sessions=[a.mat]", "trainer.reconstruction=1"], "reconstruction: is for one"),
        (["sessions=[a.mat]", "multi_session.read_out=x"], "read_out: is 'x'; choose shared or"),
        (["sessions=[a.mat]", "model.encoder.unit_dropout=1"], "unit_dropout: is 1; choose"),
        (["sessions=[a.mat]", "model.encoder.width=0"], "width: is 0; choose"),
        (["sessions=[a.mat,b.mat]", "data.area=S1"], "no unit is left"),
        (["sessions=[a.mat,short.mat]"], "the session has"),
    ],
)
def test_a_mistake_is_one_line(home, monkeypatch, words, line):
    if not (home / "link.mat").exists():
        (home / "link.mat").hardlink_to(home / "a.mat")
        write_mat73(home / "short.mat", recording(samples=150))
    monkeypatch.chdir(home)
    with pytest.raises(BciDecodeError) as failure:
        bd.train(overrides=[*WORDS, *words], output_dir="refused", progress=False)
    assert line in str(failure.value) and "\n" not in str(failure.value)
    assert not list((home / "refused").rglob("*.*"))


def test_the_command_says_a_mistake_in_one_line(home):
    done = train(home, *WORDS, "output_dir=refused", "sessions=[a.mat]", "session.minutes=1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "session.minutes: has no effect" in done.stderr
    assert not list((home / "refused").rglob("*.*"))


def test_a_model_without_a_read_in_is_refused(home):
    for model, remedy in (("gru", "add experiment="), ("wiener", "choose a recurrent model")):
        done = train(home, "sessions=[a.mat]", f"model={model}")
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert f"model={model}: has no read-in, so it cannot" in done.stderr
        assert f"; {remedy}" in done.stderr


def test_sessions_with_different_targets_are_refused():
    check_same_target({"a": ("velocity", "mm/s"), "b": ("velocity", "mm/s")})
    with pytest.raises(BciDecodeError, match="a has velocity in mm/s, c has force in N"):
        check_same_target({"a": ("velocity", "mm/s"), "c": ("force", "N")})


def test_entries_are_names_patterns_and_files(home):
    config = compose("sessions=[simulated,'indy_2016092*']", "session.minutes=3")
    entries = session_entries(config)
    names = [entry.name for entry in entries]
    assert names == ["simulated", *sorted(n for n in known_sessions() if "indy_2016092" in n)]
    assert entries[0].settings["minutes"] == 3 and entries[1].settings["folder"] == "data"


def test_a_single_session_is_an_ordinary_run(home, tmp_path):
    """`model=multi_session` without `sessions`, as `evaluate` and a live decoder read it."""
    words = ["session=local", f"session.path={home / 'a.mat'}", "model=multi_session", *SMALL]
    done = train(tmp_path, *words, "figures=none")
    assert done.returncode == 0, done.stderr
    run = bd.load_run(tmp_path / "outputs/default/a/multi_session/seed0")
    binned = run.bin(home / "a.mat")
    decoded = run.decode(binned)[["x", "y"]].to_numpy()
    columns, live = run.match_units(binned), bd.StreamingDecoder(run)
    steps = [live.step(counts[columns]) for counts in binned.counts[:20]]
    np.testing.assert_allclose(steps, decoded[:20], rtol=1e-4, atol=1e-3)
