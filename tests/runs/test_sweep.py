"""Sweeps as a user types them: failures are recorded, finished runs skipped, all is reported."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import train_here
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.plugins import Plugins
from recordings import recording, write_mat73

from bci_decode.comparison.finished_runs import read_runs
from bci_decode.comparison.groups import group_runs
from bci_decode.studies.source_study import ablation_table

SMALL = [
    "session.minutes=1",
    "trainer.epochs=1",
    "model.recurrent.hidden_size=8",
    "figures=none",
]


def sweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    if not any(word.startswith("hydra/launcher") for word in arguments):
        return train_here(folder, "-m", *arguments)
    command = [sys.executable, "-m", "bci_decode.train", "-m", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def table(done: subprocess.CompletedProcess) -> list[list[str]]:
    """The closing table's rows: state, model and seed."""
    lines = [
        line.split()
        for line in done.stdout.splitlines()
        if line.startswith(("done ", "skipped ", "failed "))
    ]
    return [[line[0], *Path(line[1]).parts[-2:]] for line in lines]


PROCESSES = ["hydra/launcher=processes", "hydra.launcher.n_jobs=2"]


@pytest.mark.parametrize("launcher", [[], PROCESSES], ids=["here", "processes"])
def test_a_failed_run_is_recorded_and_the_rest_goes_on(tmp_path, launcher):
    finished = tmp_path / "outputs/default/simulated/gru/seed0"
    blocked = tmp_path / "outputs/default/simulated/gru/seed1"
    assert sweep(tmp_path, "model=gru", "seed=0,1", *SMALL, *launcher).returncode == 0
    shutil.copy(blocked / "metrics.json", tmp_path / "kept.json")
    for name in ("metrics.json", "last.pt"):
        (blocked / name).unlink()
    (blocked / "last.pt").write_text("no checkpoint")
    before = (finished / "metrics.json").stat().st_mtime_ns

    done = sweep(tmp_path, "model=gru,lngru", "seed=0,1", *SMALL, *launcher)
    assert done.returncode == 1, done.stdout + done.stderr
    assert table(done) == [
        ["skipped", "gru", "seed0"],
        ["failed", "gru", "seed1"],
        ["done", "lngru", "seed0"],
        ["done", "lngru", "seed1"],
    ]
    assert (
        "sweep: 2 done, 1 skipped, 1 failed" in done.stdout
        and "Traceback" not in done.stdout + done.stderr
    )
    assert (finished / "metrics.json").stat().st_mtime_ns == before
    running = blocked.with_name("seed1.running")
    reason = (running / "failed.txt").read_text()
    assert "last.pt: is damaged" in reason and reason.count("\n") == 1
    assert "is damaged" in (running / "train.log").read_text()
    assert "simulated/lngru/seed1: epoch   1" in done.stdout + done.stderr

    (running / "last.pt").unlink()
    done = sweep(tmp_path, "model=gru,lngru", "seed=0,1", *SMALL, *launcher)
    assert done.returncode == 0 and "sweep: 1 done, 3 skipped, 0 failed" in done.stdout
    assert not running.exists() and (blocked / "metrics.json").exists()


def test_a_session_that_is_not_there_fails_alone(tmp_path):
    done = sweep(
        tmp_path,
        "session=indy_20160927_04,simulated",
        "trainer.epochs=1",
        "model.recurrent.hidden_size=8",
    )
    assert done.returncode == 1
    assert "sweep: 1 done, 0 skipped, 1 failed" in done.stdout
    reason = (
        tmp_path / "outputs/default/indy_20160927_04/lngru/seed0.running/failed.txt"
    ).read_text()
    assert "make data SESSION=indy_20160927_04" in reason


def test_an_overwriting_sweep_says_what_it_did(tmp_path):
    assert sweep(tmp_path, "model=gru", "seed=0,1", *SMALL).returncode == 0
    done = sweep(tmp_path, "model=gru", "seed=0,1", *SMALL, "overwrite=true")
    assert done.returncode == 0 and "sweep: 2 done, 0 skipped, 0 failed" in done.stdout


@pytest.mark.parametrize("launcher", [[], PROCESSES], ids=["here", "processes"])
def test_an_interrupted_sweep_says_what_is_open(tmp_path, launcher):
    command = [
        sys.executable,
        "-m",
        "bci_decode.train",
        "-m",
        "model=gru",
        "seed=0,1",
        "session.minutes=1",
        *launcher,
    ]
    command += ["trainer.epochs=9999", "trainer.patience=null", "model.recurrent.hidden_size=8"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not list(tmp_path.rglob("last.pt")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "sweep: 0 done, 0 skipped, 0 failed, 2 open" in out
    assert ("seed1  not begun; the same command begins it" in out) or launcher
    assert not list(tmp_path.rglob("failed.txt"))


def test_m_may_stand_anywhere(tmp_path):
    command = [sys.executable, "-m", "bci_decode.train", "model=gru", "-m", "seed=0,1", *SMALL]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "sweep: 2 done" in done.stdout


def test_glob_is_all_catalogued_sessions(tmp_path):
    done = sweep(tmp_path, "session=glob(*)", "model=gru")
    assert done.returncode == 1 and "sweep: 0 done, 0 skipped, 47 failed" in done.stdout
    sessions = {path.parts[-4] for path in tmp_path.rglob("failed.txt")}
    assert len(sessions) == 47 and not any(name.startswith(("local", "sim")) for name in sessions)


def test_glob_is_of_simulated_days(tmp_path):
    done = sweep(tmp_path, "session=glob(simulated_day1*)", "session.seed=-1")
    assert "sweep: 0 done, 0 skipped, 3 failed" in done.stdout, done.stdout + done.stderr
    sessions = {path.parts[-4] for path in tmp_path.rglob("failed.txt")}
    assert sessions == {"simulated_day10", "simulated_day11", "simulated_day12"}


@pytest.mark.parametrize(
    ("words", "models"),
    [
        (["experiment=source_study"], ["gru", "lngru"]),
        (["experiment=source_study", "model=lngru"], ["lngru"]),
        (["experiment=default"], ["lngru"]),
    ],
)
def test_a_sweep_of_the_source_study_is_of_both_models(tmp_path, words, models):
    """Of sessions that are not there: what is to be trained is counted, not trained."""
    done = sweep(tmp_path, *words, "session=glob(indy_20160927_*)")
    assert f"sweep: 0 done, 0 skipped, {2 * len(models)} failed" in done.stdout, (
        done.stdout + done.stderr
    )
    assert sorted(path.parts[-3] for path in tmp_path.rglob("failed.txt")) == sorted(2 * models)


def test_variants_of_the_source_study_are_swept_side_by_side(tmp_path):
    variants = [
        "model=gru,lngru",
        "bidirectional=true,false",
        "data.target=position,velocity,acceleration",
    ]
    done = sweep(
        tmp_path, "experiment=source_study", *variants, "data.split.first_bins=700", *SMALL
    )
    assert done.returncode == 0 and "sweep: 12 done" in done.stdout, done.stdout + done.stderr
    root = tmp_path / "outputs/source_study/simulated"
    names = [
        f"{model}{way}{target}"
        for model in ("gru", "lngru")
        for way in ("", "-bidirectional")
        for target in ("", "-position", "-acceleration")
    ]
    assert {path.name for path in root.iterdir()} == set(names)
    lengths = {}
    for name in names:
        metrics = json.loads((root / name / "seed0" / "metrics.json").read_text())
        assert metrics["protocol"]["bidirectional"] is ("bidirectional" in name)
        assert metrics["model"] == name.removesuffix("-position").removesuffix("-acceleration")
        lengths[metrics["protocol"]["target"]] = metrics["protocol"]["window"]["length"]
    assert lengths == {"position": 20, "velocity": 10, "acceleration": 10}
    groups = group_runs(read_runs(root)[0])
    assert [len(group.runs) for group in groups] == [4, 4, 4]
    assert all(
        len({run.metrics["protocol"]["target"] for run in group.runs}) == 1 for group in groups
    )
    assert ablation_table(groups)["sessions"].tolist() == [1] * 12


def test_a_session_shorter_than_the_studys_training_part_fails_alone(tmp_path):
    (tmp_path / "data").mkdir()
    write_mat73(tmp_path / "data" / "indy_20160927_04.mat", recording())
    write_mat73(tmp_path / "data" / "indy_20160927_06.mat", recording(samples=15_000))
    small = ["model.recurrent.hidden_size=8", "trainer.epochs=1", "data.split.first_bins=800"]
    done = sweep(tmp_path, "experiment=source_study", "session=glob(indy_20160927_*)", *small)
    assert done.returncode == 1 and "sweep: 2 done, 0 skipped, 2 failed" in done.stdout, done.stdout
    reason = (
        tmp_path / "outputs/source_study/indy_20160927_04/lngru/seed0.running/failed.txt"
    ).read_text()
    assert "has 156 bins" in reason and "change data.split.first_bins" in reason


def run_folders(folder: Path) -> list[str]:
    root = folder / "outputs" / "default"
    return sorted(str(path.parent.relative_to(root)) for path in root.rglob("metrics.json"))


def test_runs_that_would_share_a_folder_are_refused_before_any_begins(tmp_path):
    done = sweep(tmp_path, "model=gru", "seed=0,0", *SMALL)
    assert done.returncode == 2
    assert "seed0: several runs of this sweep share this folder; name each run" in done.stderr
    assert not list(tmp_path.rglob("metrics.json"))


def test_swept_keys_get_their_own_folders(tmp_path):
    words = ["model=wiener", "data.bin_width=0.032,0.064", "data.units=all,merged"]
    words.append("figures=none")
    done = sweep(tmp_path, *words, "session.minutes=1")
    assert done.returncode == 0 and "sweep: 4 done" in done.stdout, done.stdout + done.stderr
    levels = [
        f"data.bin_width={width},data.units={units}"
        for width in (0.032, 0.064)
        for units in ("all", "merged")
    ]
    assert run_folders(tmp_path) == [f"simulated/wiener/{level}/seed0" for level in levels]
    assert "simulated/wiener/data.bin_width=0.064,data.units=all/seed0: test R2" in done.stdout
    # the order of the words does not matter, and what is there is skipped
    done = sweep(tmp_path, *reversed(words), "session.minutes=1", "seed=0,1")
    assert done.returncode == 0 and "sweep: 4 done, 4 skipped" in done.stdout
    groups = group_runs(read_runs(tmp_path / "outputs")[0])
    assert [len(group.runs) for group in groups] == [2, 2, 2, 2]


def test_a_users_own_folder_stands_in_for_the_level(tmp_path):
    own = "output_dir=outputs/bins_${data.bin_width}"
    done = sweep(tmp_path, "model=wiener", "data.bin_width=0.032,0.064", "session.minutes=1", own)
    assert done.returncode == 0
    found = [path.relative_to(tmp_path) for path in tmp_path.rglob("metrics.json")]
    assert sorted(map(str, found)) == [
        f"outputs/bins_{width}/default/simulated/wiener/seed0/metrics.json"
        for width in (0.032, 0.064)
    ]


def test_swept_files_and_recordings_are_named_too(tmp_path):
    small = [*SMALL[1:], "session.minutes=1,2", "data.window.length=20"]
    words = ["model=gru", "optimizer=adamw,sgd", "optimizer.lr=1e-3", *small]
    done = sweep(tmp_path, *words, "data.split=default,chained", "data.split.cuts=null,2")
    assert done.returncode in (0, 1)
    names = {path.parent.relative_to(tmp_path / "outputs/default").parts
             for path in tmp_path.rglob("failed.txt")}  # fmt: skip
    names |= {tuple(name.split("/")) for name in run_folders(tmp_path)}
    assert {name[0] for name in names} == {"simulated_minutes1", "simulated_minutes2"}
    assert {name[2].split(",optimizer=")[1] for name in names} == {"adamw", "sgd"}


def test_the_launcher_keeps_its_former_name(tmp_path):
    former = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=1"]
    done = sweep(tmp_path, *former, "model=wiener", "seed=0,1", "session.minutes=1")
    assert done.returncode == 0 and "sweep: 2 done" in done.stdout, done.stdout + done.stderr
    assert "2 runs, 1 at a time" in done.stdout


@pytest.mark.parametrize("jobs", ["0", "-2", "1.5", "many", "null"])
def test_a_senseless_number_of_processes_is_one_line(tmp_path, jobs):
    done = sweep(tmp_path, "hydra/launcher=processes", f"hydra.launcher.n_jobs={jobs}", "seed=0,1")
    said = f"hydra.launcher.n_jobs: is {None if jobs == 'null' else jobs}; give a number of"
    assert done.returncode == 2 and said in done.stderr, done.stdout + done.stderr
    assert "sweep:" not in done.stdout and "Traceback" not in done.stderr


class StoppingLauncher(BasicLauncher):
    """A launcher that fails after its last run."""

    __module__ = "hydra_plugins.stopping"  # Hydra takes launchers of this package alone

    def launch(self, *arguments, **options):
        super().launch(*arguments, **options)
        raise RuntimeError("lost a worker")


class StoppingSlurmLauncher(StoppingLauncher):
    """One that takes a run for lost that SLURM finishes."""

    __module__ = "hydra_plugins.stopping"


@pytest.mark.parametrize(
    ("launcher", "code", "word"),
    [(StoppingLauncher, 1, "error"), (StoppingSlurmLauncher, 0, "warning")],
)
def test_a_launcher_that_stops_is_a_failure_except_on_slurm(
    tmp_path, monkeypatch, launcher, code, word
):
    plugins = sys.modules["hydra_plugins"]
    monkeypatch.setattr(plugins, "stopping", sys.modules[__name__], raising=False)
    Plugins.instance().register(launcher)
    own = f"hydra.launcher._target_=hydra_plugins.stopping.{launcher.__name__}"
    done = sweep(tmp_path, own, "model=wiener", "seed=0", "session.minutes=1", "figures=none")
    assert done.returncode == code and "sweep: 1 done, 0 skipped, 0 failed" in done.stdout
    assert f"{word}: the launcher stopped: RuntimeError: lost a worker" in done.stderr


def test_a_launcher_that_is_not_installed_says_where_more_are(tmp_path):
    done = sweep(tmp_path, "hydra/launcher=moon", "model=gru")
    assert (
        done.returncode == 2
        and "hydra/launcher=moon: there is none" in done.stderr
        and "[sweep]" in done.stderr
    )


@pytest.mark.parametrize(
    "words",
    [
        ["seed=range(0)"],
        ["session=glob(nothere*)"],
    ],
)
def test_a_sweep_without_a_run_is_one_line(tmp_path, words):
    done = sweep(tmp_path, *words)
    assert done.returncode == 2 and "the sweep has no run; check its glob()" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
