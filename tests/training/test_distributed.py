"""Several processes that train one decoder, started by torchrun: the result is that of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import train_here
from recordings import ROOT, recording, write_mat73
from sizes import FULL

import bci_decode
from bci_decode.runs.checksums import verify

PROGRAM = ROOT / "tests" / "several_processes.py"
# nothing is drawn at random but the order of the windows
WORDS = [
    "experiment=multi_session", "model=gru", "model.recurrent.hidden_size=6",
    "model.encoder.width=4",
    "model.encoder.unit_dropout=0", "model.dropout=0", "model.recurrent.dropout=0",
    "trainer.noise=0", "trainer.offset=0",
    "data.window.length=12", "data.window.burn_in=2", "data.window.grids=2", "data.split.gap=0",
    "sessions=[a.mat,b.mat,c.mat]", "trainer.batch_size=7", "trainer.epochs=3", "figures=none",
    "scheduler=none",
]  # fmt: skip
TIMEOUT = 60  # s


def torchrun(*arguments: str) -> list[str]:
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    return [*run, *arguments]


def environment() -> dict[str, str]:
    paths = [str(Path(bci_decode.__file__).parents[1]), str(PROGRAM.parent)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def seed_folder(home: Path, output: str) -> Path:
    return home / output / "multi_session" / "a_and_2_more" / "gru" / "seed0"


def recordings(home: Path) -> None:
    """Three sessions: where the hand is in part of b is unknown, and c has few windows."""
    for name, channels, samples in (("a", 3, 4000), ("b", 5, 5000), ("c", 4, 1500)):
        values = recording(channels=channels, samples=samples, seed=channels)
        if name == "b":
            values["cursor_pos"][1500:1900] = values["finger_pos"][1500:1900] = np.nan
        write_mat73(home / f"{name}.mat", values)


def one_process(home: Path, *words: str) -> None:
    done = train_here(home, *WORDS, *words)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> tuple[Path, list[list[dict]]]:
    """A folder with trainings in one and in two processes, and what each process returned."""
    home = tmp_path_factory.mktemp("processes")
    recordings(home)
    one_process(home, "output_dir=one")
    one_process(home, "output_dir=resumed", "trainer.epochs=2")
    (home / "blocked").write_text("a file where a folder is wanted")
    both = [
        [*WORDS, "output_dir=two"],
        [*WORDS, "output_dir=resumed"],
        [*WORDS, "output_dir=lost", "optimizer.lr=1000", "trainer.clip_norm=null", "seed=1"],
        ["session=local", "session.path=a.mat", "output_dir=single"],
        [*WORDS, "output_dir=two"],
    ]
    plan = [[words, words] for words in both]
    of_one = [*WORDS, "output_dir=unreadable"]
    plan.insert(3, [of_one, [*of_one, "data_dir=blocked"]])
    (home / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    done = subprocess.run(
        torchrun(str(PROGRAM), "plan.json", "."),
        cwd=home, env=environment(), capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((home / f"rank{rank}.json").read_text()) for rank in range(2)]
    return home, [list(pair) for pair in zip(*ranks, strict=True)]


def check_same(one: Path, two: Path) -> None:
    """Losses, scores and weights of two runs, apart from the order of sums."""
    tables = [pd.read_csv(run / "history.csv").drop(columns="seconds") for run in (one, two)]
    np.testing.assert_allclose(tables[0], tables[1], rtol=1e-6, atol=1e-6)  # R2 may be 0
    weights = [
        torch.load(run / name, weights_only=True)["decoder"]
        for run in (one, two)
        for name in ("last.pt", "best.pt")
    ]
    for here, there in zip(weights[:2], weights[2:], strict=True):
        for name, values in here.items():
            assert (values - there[name]).norm() <= 1e-6 * values.norm(), name
    verify(two)


def test_what_the_processes_tell_each_other(results):
    first, second = results[1][0]
    assert first["package"] == second["package"] == bci_decode.__file__
    assert first["first"] == second["first"] == "of 0"
    assert first["gathered"] == [10, 11] and second["gathered"] == []
    assert (first["share"], second["share"]) == ([0, 2, 4], [1, 3])
    assert (first["share of one"], second["share of one"]) == ([0], [])
    assert first["gradients"] == second["gradients"] == [[1.75] * 6, [3.75] * 6, None]
    assert first["weight"] == second["weight"] == 1.0
    assert first["random"] != second["random"]
    assert first["error"] == second["error"] == "b.mat: is damaged; copy it again"


def test_two_processes_train_as_one(results):
    home, (_, done, *_) = results
    assert [one["code"] for one in done] == [0, 0]
    assert "epoch   3" in done[0]["out"] and not done[1]["out"] + done[1]["err"]
    check_same(seed_folder(home, "one"), seed_folder(home, "two"))
    rows = [
        pd.read_csv(seed_folder(home, output) / "sessions" / "c" / "history.csv")
        for output in ("one", "two")
    ]
    np.testing.assert_allclose(rows[0]["train_loss"], rows[1]["train_loss"], rtol=1e-6)


def test_another_number_of_processes_resumes(results):
    home, (_, _, done, *_) = results
    assert [one["code"] for one in done] == [0, 0]
    assert "resuming from epoch 2" in done[0]["out"]
    check_same(seed_folder(home, "one"), seed_folder(home, "resumed"))
    one_process(home, "output_dir=two", "trainer.epochs=4")
    one_process(home, "output_dir=one", "trainer.epochs=4")
    check_same(seed_folder(home, "one"), seed_folder(home, "two"))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (3, ["lost", "loss became", "lower optimizer.lr"]),
        (4, ["blocked", "another data_dir="]),
        (5, ["2 processes", "only a decoder of many sessions", "torchrun"]),
    ],
)
def test_an_error_ends_all_processes_in_one_line(results, number, words):
    first, second = results[1][number]
    assert (first["code"], second["code"]) == (2, 2)
    (line,) = first["err"].splitlines()
    assert line.startswith("error: ") and all(word in line for word in words)
    assert second["err"] == ""


def test_a_finished_run_is_not_repeated(results):
    first, second = results[1][6]
    assert (first["code"], second["code"]) == (0, 0)
    assert "finished already" in first["out"] and not second["out"] + second["err"]


if FULL:

    @pytest.mark.parametrize("victim", [0, 1])
    def test_a_killed_process_ends_the_others(victim, tmp_path):
        recordings(tmp_path)
        words = [*WORDS, "output_dir=out", "trainer.epochs=60"]
        run = subprocess.Popen(
            torchrun("-m", "bci_decode.train", *words), cwd=tmp_path, env=environment(),
            stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        working = seed_folder(tmp_path, "out").with_name("seed0.running")
        until = time.monotonic() + TIMEOUT
        while not (working / "last.pt").exists() and time.monotonic() < until:
            time.sleep(0.05)
        processes = {number: process for process, number in ranks_below(run.pid).items()}
        os.kill(processes[victim], signal.SIGKILL)
        _, errors = run.communicate(timeout=60)
        assert run.returncode == 1
        assert not any(Path(f"/proc/{one}").exists() for one in processes.values())
        ours = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert len(ours) <= 1, errors
        one_process(tmp_path, *words[len(WORDS) :])
        log = (seed_folder(tmp_path, "out") / "train.log").read_text()
        assert "resuming from epoch" in log and "epoch  60" in log

    def ranks_below(parent: int) -> dict[int, int]:
        """The processes that torchrun started, with their rank."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                above = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                words = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            mine = [word[5:] for word in words if word.startswith(b"RANK=")]
            if above == parent and mine:
                found[int(folder.name)] = int(mine[0])
        return found
