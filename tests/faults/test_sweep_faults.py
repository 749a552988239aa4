"""Sweeps of several processes that are killed and interrupted, as real processes.

A killed worker costs its own run, no worker outlives the main process, and the same command
finishes with files equal to the bit to those of runs that nothing stopped.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sizes import FULL, cases

from bci_decode.runs.compose import compose_config
from bci_decode.runs.run import run

SEEDS = cases(2, 3)
WORDS = [
    "model=gru", "model.recurrent._target_=torch.nn.GRU", "model.recurrent.hidden_size=8",
    "session.minutes=1", "session.channels=8", "trainer.patience=null", "trainer.epochs=25",
    "figures=none",
]  # fmt: skip
LAUNCHER = ["hydra/launcher=processes", "hydra.launcher.n_jobs=2"]
FAULTS = {  # whom a signal is sent to, which one, and the exit code of the sweep
    "a worker is killed": ("worker", signal.SIGKILL, 1),
    "the main process is killed": ("main", signal.SIGKILL, -signal.SIGKILL),
    "SIGTERM": ("main", signal.SIGTERM, 143),
    "SIGTERM to all": ("group", signal.SIGTERM, 143),
    "SIGINT to one": ("main", signal.SIGINT, 130),
    "Ctrl-C": ("group", signal.SIGINT, 130),
}
# faults one after the other, and a number for the moments
CASES = [([fault], moment) for fault in FAULTS for moment in range(4)]
QUICK = [(["the main process is killed", "a worker is killed"], 0)]
TIMEOUT, SOON = 120, 5  # s


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    """The folder with `outputs` of the runs one by one, and with the data."""
    folder = tmp_path_factory.mktemp("unbroken")
    own = [f"output_dir={folder / 'outputs'}", f"data_dir={folder / 'data'}"]
    for seed in range(SEEDS):
        run(compose_config(*WORDS, *own, f"seed={seed}"), progress=False)
    return folder


def started(folder: Path, data: Path) -> subprocess.Popen:
    words = [*LAUNCHER, *WORDS, f"seed=range({SEEDS})", f"data_dir={data}"]
    command = [sys.executable, "-u", "-m", "bci_decode.train", "-m", *words]
    with (folder / "said").open("w") as said:
        return subprocess.Popen(
            command, cwd=folder, stdout=said, stderr=said, start_new_session=True
        )


def finished(process: subprocess.Popen, folder: Path) -> tuple[int, str]:
    """Exit code and output."""
    try:
        return process.wait(TIMEOUT), (folder / "said").read_text()
    finally:
        process.kill()


def session_of(main: int) -> dict[int, str]:
    """The processes of a session that are not zombies, with their command lines."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (path / "stat").read_text().rpartition(")")[2].split()[:4]
            words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(session) == main and state not in "ZX":
            found[int(path.name)] = words
    return found


def until_gone(main: int) -> float:
    """Seconds until no process of the session is left."""
    begin = time.monotonic()
    while left := session_of(main):
        assert time.monotonic() < begin + TIMEOUT, f"these outlive the main process: {left}"
        time.sleep(0.01)
    return time.monotonic() - begin


def await_moment(process: subprocess.Popen, folder: Path, chance: random.Random) -> None:
    """Wait for the first whole epoch or, in the full form, for a chance number of epochs of all."""
    deadline = time.monotonic() + TIMEOUT
    lines = chance.randrange(1, 60) if FULL else 1
    begun = re.compile(r"#1: |epoch +\d" if FULL else r"epoch +[1-9]")
    while process.poll() is None and len(begun.findall((folder / "said").read_text())) < lines:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.2) if FULL else 0)


def strike(process: subprocess.Popen, target: str, number: int, chance: random.Random) -> None:
    if target == "group":
        os.killpg(process.pid, number)
    elif target == "main":
        process.send_signal(number)
    else:
        found = session_of(process.pid).items()
        workers = sorted(pid for pid, words in found if "spawn_main" in words)
        if workers:
            with suppress(ProcessLookupError):
                os.kill(chance.choice(workers), number)


@pytest.mark.parametrize(("faults", "moment"), CASES if FULL else QUICK)
def test_a_sweep_survives(faults, moment, unbroken, tmp_path, tried):
    tried(len(faults), "signals to sweeps")
    chance = random.Random(f"{faults} {moment}")
    for fault in faults:
        check_fault(fault, tmp_path, unbroken / "data", chance)
    done = len(list(tmp_path.rglob("seed?/metrics.json")))
    code, said = finished(started(tmp_path, unbroken / "data"), tmp_path)
    assert code == 0 and f"{done} skipped, 0 failed" in said, said
    assert names(tmp_path) == names(unbroken)
    for seed in range(SEEDS):
        place = Path("outputs/default/simulated/gru", f"seed{seed}")
        assert_equal(tmp_path / place, unbroken / place)


def check_fault(fault: str, folder: Path, data: Path, chance: random.Random) -> None:
    """Start the sweep, strike it, and check its end: nothing is left of it, and what it says."""
    target, number, code_of_fault = FAULTS[fault]
    process = started(folder, data)
    await_moment(process, folder, chance)
    strike(process, target, number, chance)
    struck = time.monotonic()
    code, said = finished(process, folder)
    until_gone(process.pid)
    seconds = time.monotonic() - struck
    rows = [line.split(maxsplit=2) for line in said.splitlines() if "gru/seed" in line]
    states = [row[0] for row in rows if row[0] in ("done", "failed", "open")]
    print(f"{fault}: code {code}, {states}, all gone after {seconds:.1f} s")
    logs = "".join(path.read_text() for path in folder.rglob("train.log"))
    assert code in (code_of_fault, 0) and "Traceback" not in said + logs, said + logs
    assert FULL or code, "nothing was struck"
    if target != "worker":
        assert set(states) <= {"done", "open"}, said
        assert seconds < SOON if FULL else not list(folder.rglob("metrics.json")), said
    elif code:
        reason = "  killed or out of memory; the same command resumes it"
        assert states.count("failed") == said.count(reason) == 1, said
        assert states.count("done") == SEEDS - 1, said
    assert len(states) == (0 if code == -signal.SIGKILL else SEEDS), said


def names(folder: Path) -> list[str]:
    """All files of the runs; what a kill leaves half-written is for the tests of single runs."""
    paths = (folder / "outputs").rglob("*")
    ours = (path for path in paths if path.name != "multirun.yaml" and path.suffix != ".part")
    return sorted(str(path.relative_to(folder)) for path in ours)


def assert_equal(here: Path, there: Path) -> None:
    """Weights, predictions and history of two runs are equal to the bit."""
    tables = [pd.read_csv(run / "history.csv").drop(columns="seconds") for run in (here, there)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    for name in ("best.pt", "last.pt"):
        states = [torch.load(run / name, weights_only=True)["decoder"] for run in (here, there)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    arrays = [np.load(run / "predictions.npz") for run in (here, there)]
    assert arrays[0].files == arrays[1].files
    for key in arrays[0].files:
        np.testing.assert_array_equal(arrays[0][key], arrays[1][key])
