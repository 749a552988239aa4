"""Chained splits as a user types them: a run for each cut, resumed or skipped, and one table."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from commands import train_here as train
from composing import compose

import bci_decode as bd
from bci_decode.comparison.finished_runs import read_runs
from bci_decode.errors import BciDecodeError
from bci_decode.runs.chained import chained_table, cut_configs
from bci_decode.runs.compose import hydra_word
from bci_decode.runs.run import run

SMALL = ["session.minutes=1", "model=wiener", "data.split=chained", "data.split.val=0.2"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder where the three cuts of a chained split are trained."""
    home = tmp_path_factory.mktemp("chained")
    done = train(home, *SMALL)
    assert done.returncode == 0, done.stderr
    (home / "printed.txt").write_text(done.stdout)
    return home


def seed_folder(home: Path) -> Path:
    return home / "outputs/default/simulated/wiener/seed0"


def scores(folder: Path) -> list[float]:
    return [
        json.loads((folder / f"cut{cut}" / "metrics.json").read_text())["scores"]["test"]["r2"]
        for cut in range(3)
    ]


def test_a_run_for_each_cut_and_one_table(home):
    folder = seed_folder(home)
    with (folder / "chained.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = scores(folder)
    mean = sum(found) / 3
    error = (sum((one - mean) ** 2 for one in found) / 2 / 3) ** 0.5
    assert [row["cut"] for row in rows] == ["0", "1", "2", "mean", "SE"]
    assert [float(row["r2"]) for row in rows] == pytest.approx([*found, mean, error])
    assert [row["test_bins"] for row in rows] == ["112"] * 3 + [""] * 2  # of 937, 12 %
    content = json.loads((folder / "chained.json").read_text())
    assert content["mean"]["r2"] == pytest.approx(mean)
    assert content["se"]["r2"] == pytest.approx(error)
    printed = (home / "printed.txt").read_text()
    assert printed.count("test R2 of 3 cuts") == 1 and f"{mean:.4f}" in printed


def test_blocks_are_decoded_by_runs_that_never_saw_them(home):
    for one in read_runs(home)[0]:
        bins = one.metrics["protocol"]["split_bins"]
        assert bins["train"][1] <= bins["val"][0] < bins["val"][1] <= bins["test"][0]
        assert one.settings["data.split.cut"] == one.cut


def test_finished_cuts_are_skipped_and_lost_ones_are_made(home, tmp_path):
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    folder = seed_folder(tmp_path)
    before, written = scores(folder), (folder / "cut0/metrics.json").stat().st_mtime_ns
    shutil.rmtree(folder / "cut1")
    done = train(tmp_path, *SMALL)
    assert done.returncode == 0 and done.stdout.count("finished already") == 2
    assert scores(folder) == before
    assert (folder / "cut0/metrics.json").stat().st_mtime_ns == written


def test_one_cut_alone(home, tmp_path):
    shutil.copytree(home / "data", tmp_path / "data")
    done = train(tmp_path, *SMALL, "data.split.cut=1")
    assert done.returncode == 0 and "of 3 cuts" not in done.stdout
    assert [path.name for path in seed_folder(tmp_path).glob("c*")] == ["cut1"]


def test_a_sweep_over_seeds_and_models(home, tmp_path):
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    small = ["model.recurrent.hidden_size=8", "trainer.epochs=1", "data.window.length=20"]
    words = [word for word in SMALL if not word.startswith("model")]
    done = train(tmp_path, "-m", "seed=0,1", "model=wiener", *words)
    assert done.returncode == 0 and "sweep: 3 done, 3 skipped, 0 failed" in done.stdout
    done = train(tmp_path, "-m", "seed=0,1", "model=gru", *words, *small, "data.split.cuts=2")
    assert done.returncode == 0 and "sweep: 4 done, 0 skipped, 0 failed" in done.stdout
    assert "gru/seed1/cut1: epoch   1" in done.stdout


def test_a_cut_that_fails_stops_no_other(home, tmp_path):
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    folder = seed_folder(tmp_path)
    (folder / "cut1" / "config.yaml").unlink()
    done = train(tmp_path, "-m", "seed=0,1", *SMALL)
    assert done.returncode == 1 and "sweep: 3 done, 2 skipped, 1 failed" in done.stdout
    assert (folder / "cut1.running/failed.txt").exists()
    assert done.stdout.count("test R2 of 3 cuts") == 1  # of the other seed


@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=processes", "hydra.launcher.n_jobs=1"]])
def test_a_table_that_cannot_be_written_fails_one_job_of_a_sweep(home, tmp_path, launcher):
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    table = seed_folder(tmp_path) / "chained.csv"
    table.unlink()
    table.mkdir()
    words = ["-m", "seed=0,1", *SMALL, "data.split.cuts=3", *launcher]
    done = train(tmp_path, *words)
    assert done.returncode == 1 and "sweep: 3 done, 2 skipped, 1 failed" in done.stdout, done.stdout
    assert "chained.csv: cannot be written" in done.stdout.rpartition("sweep:")[0]
    table.rmdir()
    assert "sweep: 0 done, 6 skipped, 0 failed" in train(tmp_path, *words).stdout
    assert table.is_file() and not list(tmp_path.rglob("*.running"))


@pytest.mark.parametrize("cuts", [0, -1])
def test_no_cut_at_all_is_one_line(tmp_path, cuts):
    line = f"error: data.split.cuts: is {cuts}; choose 1 to 100\n"
    for words in ([], ["-m", "seed=0,1"]):
        done = train(tmp_path, *SMALL, f"data.split.cuts={cuts}", *words)
        assert (done.returncode, done.stderr) == (2, line)
    assert not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs").glob("*/*"))


def test_a_fold_without_a_window_is_one_line(tmp_path, home):
    shutil.copytree(home / "data", tmp_path / "data")
    done = train(tmp_path, *SMALL, "data.split.cuts=8")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "data.split.cuts, data.split.block" in done.stderr
    assert not list((tmp_path / "outputs").iterdir())


def test_from_python(home):
    words = [*SMALL[2:], f"data_dir={home / 'data'}", "session.minutes=1"]
    loaded = bd.train(model="wiener", overrides=words, output_dir=home / "outputs", progress=False)
    assert loaded.folder.name == "cut2"
    config = compose("model=wiener", f"output_dir={home / 'outputs'}", *words)
    assert run(config, progress=False) == seed_folder(home)
    rows = chained_table([seed_folder(home) / f"cut{cut}" for cut in range(3)])
    assert [row["r2"] for row in rows[:3]] == scores(seed_folder(home))


def test_a_split_is_chosen_as_every_group(tmp_path):
    assert hydra_word("data.split=chained") == "data/split=chained"
    assert hydra_word("data.split=default,chained") == "data/split=default,chained"
    assert hydra_word("data.split.cuts=4") == "data.split.cuts=4"
    folders = list(cut_configs(compose("data.split=chained", "data.split.cuts=2")))
    assert [folder.parts[-2:] for folder in folders] == [("seed0", "cut0"), ("seed0", "cut1")]
    one = compose("data.split=chained", "data.split.cut=1")
    assert [folder.name for folder in cut_configs(one)] == ["cut1"]
    # after the split of an experiment
    split = compose("experiment=source_study", "data.split=chained").data.split
    assert (split.first_bins, split.cuts, split.val_from_test) == (None, 3, 0.0)


def test_a_default_run_and_a_chained_one_share_a_seed_folder(home, tmp_path):
    """In either order."""
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    folder = seed_folder(tmp_path)
    words = ["session.minutes=1", "model=wiener"]
    assert train(tmp_path, *words).returncode == 0
    assert (folder / "metrics.json").exists() and len(scores(folder)) == 3
    assert train(tmp_path, *words, "overwrite=true").returncode == 0
    assert len(scores(folder)) == 3 and (folder / "chained.csv").exists()


def test_a_null_split_is_refused_where_one_data_set_is_asked_for(home):
    from bci_decode.runs.build import load_data

    words = [*SMALL, f"data_dir={home / 'data'}"]
    with pytest.raises(BciDecodeError, match="data.split.cut: is null"):
        load_data(compose(*words))


def test_loading_the_folder_of_all_cuts_names_theirs(home):
    with pytest.raises(BciDecodeError) as refusal:
        bd.load_run(seed_folder(home))
    cuts = [str(seed_folder(home) / f"cut{cut}") for cut in range(3)]
    assert f"seed0: holds a chained split, a run for each cut; name {' or '.join(cuts)}" in str(
        refusal.value
    )
