"""The command line as a user types it:

real processes, real files, every mistake one line and exit code 2.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import train_here as train
from matplotlib.image import imread
from recordings import ROOT, recording, write_mat73

import bci_decode

SMALL = ["session.minutes=1", "trainer.epochs=3", "model.recurrent.hidden_size=16"]
RUN_FILES = {
    "config.yaml",
    "history.csv",
    "metrics.json",
    "predictions.npz",
    "best.pt",
    "last.pt",
    "SHA256SUMS",
    "loss.png",
    "r2.png",
    "trajectory.png",
    "train.log",
}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bci_decode.train", *arguments]


def fails(folder: Path, *arguments: str) -> str:
    done = train(folder, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "Traceback" not in done.stdout + done.stderr
    assert "Error executing" not in done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """A folder in which both models have been trained."""
    folder = tmp_path_factory.mktemp("swept")
    done = train(folder, "-m", "model=gru,lngru", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_help_says_what_there_is(tmp_path):
    done = train(tmp_path, "--help")
    assert done.returncode == 0
    for word in (
        "python -m bci_decode.train model=lngru",
        "session.path=FILE.mat",
        "lngru, ",
        "indy_20160927_04",
        "source_study",
        "burn_in",
    ):
        assert word in done.stdout, word


def test_a_profile_says_where_the_time_went(tmp_path):
    done = train(tmp_path, *SMALL, "trainer.profile=true")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "outputs" / "default" / "simulated" / "lngru" / "seed0"
    profile = pd.read_csv(folder / "profile.csv", index_col="part")
    for part in (
        "import",
        "read",
        "bin",
        "first batch",
        "training epoch",
        "evaluation",
        "write",
        "report and figures",
    ):
        assert profile.loc[part, "seconds"] > 0 and part in done.stdout + done.stderr
    assert profile.loc["training epoch", "times"] == 3
    whole = profile.loc["start to first epoch", "seconds"]
    assert profile.loc["import", "seconds"] < whole < 300
    assert "finished already" in train(tmp_path, *SMALL).stdout, "a profile or none is no other run"


@pytest.mark.parametrize("model", ["gru", "lngru"])
def test_a_run_leaves_all_that_it_promises(swept, model):
    folder = swept / "outputs" / "default" / "simulated" / model / "seed0"
    assert {path.name for path in folder.iterdir()} == RUN_FILES
    metrics = json.loads((folder / "metrics.json").read_text())
    history = pd.read_csv(folder / "history.csv")
    assert history["epoch"].tolist() == [0, 1, 2, 3]
    assert metrics["best_epoch"] == history["val_loss"].idxmin()
    best = history.iloc[metrics["best_epoch"]]
    assert metrics["scores"]["test"]["r2"] == pytest.approx(best["test_r2"])
    assert metrics["loss"]["val"] == pytest.approx(best["val_loss"])
    assert metrics["select_on"] == "val" and metrics["protocol"]["delay_s"] == 0
    with np.load(folder / "predictions.npz") as predictions:
        residual = predictions["true"] - predictions["decoded"]
        start, stop = metrics["protocol"]["split_bins"]["test"]
        assert residual.shape == (stop - start, 2)
        np.testing.assert_allclose(
            np.sqrt((residual**2).mean(0)),
            [metrics["scores"]["test"][f"rmse_{axis}"] for axis in "xy"],
        )
    for picture in ("loss.png", "r2.png", "trajectory.png"):
        assert (
            len(np.unique(imread(folder / picture).reshape(-1, 4), axis=0)) > 10
        )  # lines were drawn
    assert "torch" in metrics["versions"] and len(metrics["data"]["md5"]) == 32
    layer = {"gru": "bci_decode.layers.GRU", "lngru": "bci_decode.layers.LayerNormGRU"}[model]
    assert layer in (folder / "config.yaml").read_text()


def test_a_second_start_says_so_and_changes_nothing(swept):
    folder = swept / "outputs" / "default" / "simulated" / "gru" / "seed0"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "train.log"}
    done = train(swept, "model=gru", *SMALL)
    assert done.returncode == 0 and "finished already" in done.stdout
    assert {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name != "train.log"
    } == before


def test_other_settings_are_never_mixed_into_a_run(swept):
    line = fails(swept, "model=gru", *SMALL, "optimizer.lr=0.5")
    assert (
        "holds a run with other settings (optimizer.lr=0.002, here 0.5)" in line
        and "overwrite=true" in line
    )
    config = swept / "outputs" / "default" / "simulated" / "gru" / "seed0" / "config.yaml"
    assert "lr: 0.002" in config.read_text()


def test_overwrite_starts_anew(swept):
    done = train(
        swept, "model=gru", *SMALL, "overwrite=true", "trainer.epochs=1", "output_dir=other"
    )
    again = train(
        swept, "model=gru", *SMALL, "overwrite=true", "trainer.epochs=2", "output_dir=other"
    )
    assert done.returncode == again.returncode == 0
    assert (
        len(
            pd.read_csv(swept / "other" / "default" / "simulated" / "gru" / "seed0" / "history.csv")
        )
        == 3
    )


def test_compare_draws_and_tabulates(swept):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "compare.py", "outputs/default"],
        cwd=swept,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    folder = swept / "outputs" / "default"
    table = pd.read_csv(folder / "sessions.csv")
    assert table["model"].tolist() == ["gru", "lngru"]
    for _, row in table.iterrows():
        metrics = json.loads(
            (folder / "simulated" / row["model"] / "seed0" / "metrics.json").read_text()
        )
        assert row["test_r2_x"] == pytest.approx(metrics["scores"]["test"]["r2_x"])
    assert "| simulated lngru seed 0 |" in (folder / "summary.md").read_text()
    for picture in ("comparison.png", "r2_scatter.png"):
        assert imread(folder / picture).shape[0] > 300


@pytest.mark.parametrize("model", ["gru", "lngru"])
def test_the_source_study_says_that_it_selects_on_test(swept, model):
    done = train(
        swept,
        "experiment=source_study",
        f"model={model}",
        "session.minutes=1",
        "data.split.first_bins=700",
        "trainer.epochs=1",
    )
    assert done.returncode == 0, done.stderr
    assert (
        "select_on=test" in done.stdout
        and "selected by the highest R2 on the TEST part: a leak" in done.stdout
    )
    folder = swept / f"outputs/source_study/simulated/{model}/seed0"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["select_on"] == "test" and "leak" in metrics["selection_rule"]
    assert "select_on: test" in (folder / "config.yaml").read_text()
    assert metrics["protocol"]["split_bins"] == {"train": [0, 700], "test": [700, 937]}
    check_holdout(folder, metrics, done.stdout)
    best = torch.load(folder / "best.pt", weights_only=True)["decoder"]
    assert best["recurrent.weight_hh_l1"].shape == (768, 256)
    heads = {"gru": ("head.2.weight", (2, 128)), "lngru": ("head.axes.1.2.weight", (1, 128))}
    name, shape = heads[model]
    assert best[name].shape == shape
    assert not any(
        "norm" in name for name in best
    )  # no gain, no bias in the study's normalisations


def check_holdout(folder: Path, metrics: dict, printed: str) -> None:
    """The holdout score is that of the last bins at the epoch of the lowest validation loss, and is
    said as such.
    """
    holdout, history = metrics["holdout"], pd.read_csv(folder / "history.csv")
    assert (holdout["val_bins"], holdout["bins"]) == ([700, 747], [757, 937])
    assert "lowest loss on bins 700 to 747" in holdout["selection_rule"]
    assert holdout["epoch"] == history["val_loss"].idxmin()
    assert (
        holdout["at_test_selected_epoch"]["epoch"]
        == metrics["best_epoch"]
        == history["test_r2"].idxmax()
    )
    for figures in (holdout, holdout["at_test_selected_epoch"]):
        row = history.iloc[figures["epoch"]]
        assert [figures[score] for score in ("r2", "r2_x", "r2_y", "loss")] == pytest.approx(
            row[["holdout_r2", "holdout_r2_x", "holdout_r2_y", "holdout_loss"]].tolist()
        )
    with np.load(folder / "predictions.npz") as predictions:
        true, decoded = predictions["true"][57:], predictions["decoded"][57:]
    r2 = 1 - ((true - decoded) ** 2).sum(0) / ((true - true.mean(0)) ** 2).sum(0)
    assert [holdout["at_test_selected_epoch"][f"r2_{axis}"] for axis in "xy"] == pytest.approx(
        r2.tolist(), abs=1e-6
    )
    assert (
        f"; holdout: R2 {holdout['r2']:.3f} (x {holdout['r2_x']:.3f}, "
        f"y {holdout['r2_y']:.3f}) on the last 180 bins, " in printed
    )
    assert set(metrics["scores"]) == set(metrics["loss"]) == {"test"}


def test_without_its_bins_there_is_no_holdout_score(swept):
    done = train(
        swept,
        "experiment=source_study",
        "model=gru",
        "session.minutes=1",
        "data.split.first_bins=700",
        "trainer.epochs=1",
        "model.recurrent.hidden_size=8",
        "data.split.val_from_test=0",
        "output_dir=without",
    )
    assert done.returncode == 0 and "as in the source study; no holdout score" in done.stdout
    folder = swept / "without/source_study/simulated/gru/seed0"
    assert json.loads((folder / "metrics.json").read_text())["holdout"] is None
    assert "holdout" not in (folder / "history.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model=mlp"], ["model=mlp: there is none", "choose one of", "gru", "lngru", "wiener"]),
        (
            ["session=indy_1"],
            [
                "session=indy_1: there is none",
                "indy_20160927_04",
                "loco_20170302_02",
                "local",
                "simulated",
            ],
        ),
        (["trainer.epochs=many"], ["trainer.epochs", "'many'", "Integer"]),
        (["data.bin_width=wide"], ["data.bin_width", "'wide'", "Float"]),
        (["trainer.epoch=3"], ["trainer.epoch: no such key; did you mean trainer.epochs?"]),
        (["epochs=3"], ["epochs: no such key; did you mean trainer.epochs?"]),
        (["data.bin_widht=1"], ["data.bin_widht: no such key; did you mean data.bin_width?"]),
        (["+foo=1"], ["foo: nothing reads this key"]),
        (["+data.foo=1"], ["data.foo: nothing reads this key"]),
        (["model="], ["model=: there is none; choose one of", "gru", "lngru", "wiener"]),
        (["model=wiener", "bidirectional=true"], ["model=wiener: takes no bidirectional"]),
        (["model=kalman", "ensemble=2"], ["model=kalman: takes no ensemble"]),
        (["experiment=source_study", "model=wiener"], ["has no recipe for it; choose gru, lngru"]),
        (["init_from=absent"], ["absent: init_from: no such run"]),
        (
            ["model.recurrent.hidden_size=big"],
            ["model.recurrent.hidden_size: is 'big'; choose a whole number, 1 to 10000"],
        ),
        (["data.bin_width=-0.01"], ["data.bin_width: is -0.01; choose 0.001 to 86400"]),
        (["data.bin_width=100"], ["data.bin_width: is 100.0 s", "recording only"]),
        (["data.split.first_bins=5000"], ["has 937 bins", "data.split.first_bins"]),
        (["data.area=S1"], ["no unit is left", "areas in the file: M1"]),
        (["data.min_rate=5000"], ["data.min_rate: no unit is left"]),
        (["session=local"], ["session.path: is not set"]),
        (["session=local", "session.path=absent.mat"], ["absent.mat: no such file"]),
        (["session=local", "session.path=."], ["is a folder"]),
        (
            ["session=indy_20160927_04"],
            ["data/indy_20160927_04.mat: is not there", "make data SESSION=indy_20160927_04"],
        ),
        (["session.channels=0"], ["session.channels"]),
        (["optimizer.lr=-1"], ["optimizer.lr: is -1; choose above 0, at most 1000"]),
        (["model.dropout=2"], ["model.dropout: is 2; choose 0 or more, below 1"]),
        (["model.dropout=nan"], ["model.dropout: is nan"]),
        (["optimizer.lr=abc"], ["optimizer.lr: is 'abc'; choose a number, above 0, at most 1000"]),
        (["optimizer=5"], ["Config group override must be a string"]),
        (["data.lag=nan"], ["data.lag: is nan; give a finite number"]),
        (["seed=-1"], ["seed: is -1"]),
        (["seed=99999999999999999999"], ["seed"]),
        (["trainer.batch_size=99999999999999999999"], ["trainer.batch_size"]),
        (
            ["session=simulated", "session.path=mine.mat"],
            ["session.path: no such key of a published or simulated session; add session=local"],
        ),
        (["session.name=../up"], ["session.name: is '../up'"]),
        (["session=local", "session.path=a (b.mat"], ["a (b.mat: no such file"]),
        (["session=local", "session.path=~/é.mat"], ["/é.mat: no such file"]),
        (["session.name=a(b"], ["quote"]),
        (["trainer.select_on=test"], ["trainer.select_on: is test", "experiment=source_study"]),
        (
            ["data.target=../up"],
            ["data.target: is '../up'; choose position, velocity or acceleration"],
        ),
        (
            ["experiment=source_study", "data.target=speed"],
            ["data.target: is 'speed'; choose position"],
        ),
        (["experiment=source_study"], ["has 937 bins", "change data.split.first_bins"]),
        (
            ["experiment=source_study", "data.split.first_bins=920"],
            ["val_from_test", "which leaves 3 to select on"],
        ),
        (
            ["data.split.val=0", "data.split.val_from_test=0.4"],
            ["val_from_test: lies inside the test part"],
        ),
        (["bidirectional=maybe"], ["bidirectional: Value 'maybe' is not a valid bool"]),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(swept, arguments, words):
    minutes = [] if "session=" in " ".join(arguments) else ["session.minutes=1"]
    line = fails(swept, *minutes, *arguments, "output_dir=mistakes")
    for word in words:
        assert word in line, line
    assert not list((swept / "mistakes").rglob("*"))


@pytest.mark.parametrize("output_dir", ["", "a_file", "/proc/no_such"])
def test_an_output_folder_that_cannot_be(tmp_path, output_dir):
    (tmp_path / "a_file").write_text("mine")
    assert "output_dir" in fails(tmp_path, "session.minutes=1", f"output_dir={output_dir}")
    assert (tmp_path / "a_file").read_text() == "mine"
    assert not Path("/default").exists()


def test_another_recording_of_the_same_name_is_not_taken_for_the_finished_run(tmp_path):
    for folder, seed in (("a", 0), ("b", 1)):
        (tmp_path / folder).mkdir()
        write_mat73(tmp_path / folder / "x.mat", recording(samples=25_000, seed=seed))
    arguments = ["session=local", "trainer.epochs=1", "model.recurrent.hidden_size=8"]
    assert train(tmp_path, *arguments, "session.path=a/x.mat").returncode == 0
    assert "on other data, a/x.mat" in fails(tmp_path, *arguments, "session.path=b/x.mat")
    (tmp_path / "c").mkdir()
    (tmp_path / "a" / "x.mat").replace(tmp_path / "c" / "x.mat")
    assert "finished already" in train(tmp_path, *arguments, "session.path=c/x.mat").stdout


def test_a_mistake_with_overwrite_loses_nothing(swept):
    """overwrite=true leaves the finished run where it is until the new one has finished."""
    folder = swept / "kept" / "default" / "simulated" / "gru" / "seed0"
    assert train(swept, "model=gru", *SMALL, "output_dir=kept").returncode == 0
    before = {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and path.name != "train.log"
    }
    for late in (
        ["optimizer=sgd", "optimizer.lr=1000", "trainer.clip_norm=null"],
        ["scheduler=cosine", "scheduler.T_max=0"],
    ):
        fails(swept, "model=gru", *SMALL, "output_dir=kept", "overwrite=true", *late)
        assert {
            path.name: path.read_bytes()
            for path in folder.iterdir()
            if path.is_file() and path.name != "train.log"
        } == before
    assert "error: " in (folder.with_name("seed0.running") / "train.log").read_text()
    assert "finished already" in train(swept, "model=gru", *SMALL, "output_dir=kept").stdout


def test_an_interrupted_overwrite_keeps_both_runs(swept):
    """A kill while a run overwrites another one loses neither, and a refused command harms neither.

    The same command then finishes the new run, which replaces the old one.
    """
    folder = swept / "both" / "default" / "simulated" / "gru" / "seed0"
    small = ["model=gru", "session.minutes=1", "model.recurrent.hidden_size=16", "output_dir=both"]
    longer = [*small, "trainer.epochs=40", "trainer.patience=null"]
    assert train(swept, *small, "trainer.epochs=1").returncode == 0
    old = (folder / "metrics.json").read_text()
    process = subprocess.Popen(
        command(*longer, "overwrite=true"), cwd=swept, stdout=subprocess.DEVNULL
    )
    running = folder.with_name("seed0.running")
    while process.poll() is None and not (running / "last.pt").exists():
        time.sleep(0.01)
    process.kill()
    process.wait()
    fails(swept, *longer, "optimizer.lr=-1")
    assert "finished already" in train(swept, *small, "trainer.epochs=1").stdout
    assert (folder / "metrics.json").read_text() == old and (running / "last.pt").exists()
    done = train(swept, *longer)
    assert done.returncode == 0 and "resuming from epoch" in done.stdout
    assert len(pd.read_csv(folder / "history.csv")) == 41 and not running.exists()


@pytest.mark.parametrize(
    "name", ["metrics.json", "predictions.npz", "history.csv", "trajectory.png"]
)
def test_a_finished_run_that_lost_a_file_mends_itself(swept, name):
    folder = swept / "mended" / "default" / "simulated" / "gru" / "seed0"
    train(swept, "model=gru", *SMALL, "output_dir=mended")
    before = (folder / "metrics.json").read_text()
    (folder / name).write_bytes(b"")
    done = train(swept, "model=gru", *SMALL, "output_dir=mended")
    assert done.returncode == 0 and "epoch   3" not in done.stdout
    assert (folder / name).stat().st_size > 100
    assert (
        json.loads((folder / "metrics.json").read_text())["scores"] == json.loads(before)["scores"]
    )


def test_files_without_their_settings_are_not_taken_up(swept):
    folder = swept / "strays" / "default" / "simulated" / "gru" / "seed0"
    train(swept, "model=gru", *SMALL, "output_dir=strays")
    (folder / "config.yaml").unlink()
    assert "without its config.yaml" in fails(swept, "model=gru", *SMALL, "output_dir=strays")
    assert (folder / "metrics.json").exists()


def test_two_processes_do_not_share_a_run(swept):
    arguments = [
        "session.minutes=1",
        "trainer.epochs=9999",
        "trainer.patience=null",
        "output_dir=shared",
    ]
    first = subprocess.Popen(
        command(*arguments), cwd=swept, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while first.poll() is None and not list((swept / "shared").rglob("last.pt")):
        time.sleep(0.01)
    assert "another process is at this run" in fails(swept, *arguments)
    first.kill()
    first.wait()
    assert list((swept / "shared").rglob("last.pt"))


def test_a_reader_that_leaves_early_disturbs_nothing(swept):
    line = " ".join([*command("model=gru", *SMALL, "output_dir=piped"), "| head -1"])
    done = subprocess.run(line, shell=True, cwd=swept, capture_output=True, text=True)
    assert (
        done.stdout.count("\n") == 1
        and "Traceback" not in done.stderr
        and "Logging error" not in done.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "delay"),
    [
        (["data.lag=-0.1"], 0.1),
        (["data.lag=0.1"], 0.0),
        (["bidirectional=true", "data.lag=-0.1"], 0.1 + 0.064 * 187),  # the test part's bins
        (["bidirectional=true", "data.window.kind=history", "data.window.length=10"], 0.0),
    ],
)
def test_what_a_live_decoder_would_wait_for_is_told(tmp_path, swept, arguments, delay):
    done = train(
        tmp_path,
        *SMALL,
        f"data_dir={swept / 'data'}",
        "data.split.gap=0",
        "trainer.epochs=1",
        *arguments,
    )
    assert done.returncode == 0, done.stderr
    both = arguments[0] == "bidirectional=true"
    name = "lngru" + "-bidirectional" * both
    metrics = json.loads(
        (tmp_path / f"outputs/default/simulated/{name}/seed0/metrics.json").read_text()
    )
    assert (metrics["model"], metrics["protocol"]["bidirectional"]) == (name, both)
    assert metrics["protocol"]["delay_s"] == pytest.approx(delay)
    assert ("decoded from the whole stream" in done.stdout) is (delay > 1)
    assert metrics["protocol"]["scored_on"].endswith("from both its ends") is (delay > 1)


def test_bad_recordings(tmp_path):
    variables = recording(samples=2500)
    variables["finger_pos"][1000, 1] = np.nan
    write_mat73(tmp_path / "nan.mat", variables)
    (tmp_path / "cut.mat").write_bytes((tmp_path / "nan.mat").read_bytes()[:5000])
    for name, words in (
        ("nan.mat", "finger_pos: NaN or Inf at 1 of 2500 samples, first at t = 4648.642 s"),
        ("cut.mat", "cannot be read"),
    ):
        assert words in fails(tmp_path, "session=local", f"session.path={name}")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "cut.mat",
        "nan.mat",
    ]


def test_a_diverging_loss_stops_the_run(swept):
    line = fails(
        swept,
        "session.minutes=1",
        "optimizer=sgd",
        "optimizer.lr=1000",
        "trainer.batch_size=2",
        "trainer.clip_norm=null",
        "data.scale.target=none",
        "output_dir=diverged",
    )
    assert "loss became" in line and "at epoch 1; last.pt keeps epoch 0" in line
    folder = swept / "diverged" / "default" / "simulated" / "lngru" / "seed0.running"
    assert torch.load(folder / "last.pt", weights_only=True)["epoch"] == 0
    assert len(pd.read_csv(folder / "history.csv")) == 1 and not (folder / "metrics.json").exists()


@pytest.mark.parametrize("module", ["bci_decode.train", "bci_decode.cli"])
def test_the_version_is_that_of_the_project(tmp_path, module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--version"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and bci_decode.__version__ in done.stdout
