"""Calls in other processes: outcomes of all, also of those that die, and nothing that is left."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bci_decode.errors import BciDecodeError
from bci_decode.runs.processes import Died, call_all
from bci_decode.studies.training import train_all


def outcomes(calls: list, jobs: int) -> list:
    found = {}
    call_all(calls, jobs, 1, found.__setitem__)
    assert not multiprocessing.active_children()
    return [found[number] for number in range(len(calls))]


def test_a_process_that_dies_costs_its_call_only(capfd):
    calls = [
        (os.getpid, ()),
        (signal.raise_signal, (signal.SIGKILL,)),
        (os._exit, (3,)),
        (math.sqrt, (-1.0,)),
        (BciDecodeError, ("bad",)),  # returned, not raised
        (os.getenv, ("OMP_NUM_THREADS",)),
    ]
    own, killed, ended, fault, mistake, threads = outcomes(calls, 2)
    assert own != os.getpid() and threads == os.environ.get("OMP_NUM_THREADS", "1")
    assert (killed, ended) == (Died(-signal.SIGKILL), Died(3))
    assert str(killed) == "its process was killed by SIGKILL"
    assert str(ended) == "its process ended with exit code 3"
    assert isinstance(fault, RuntimeError) and "ValueError: " in str(fault)
    assert str(mistake) == "bad" and "math domain error" in capfd.readouterr().err


def test_a_process_takes_call_after_call():
    assert len(set(outcomes([(os.getpid, ())] * 4, 1))) == 1


def test_calls_from_another_thread():
    """As from a notebook's or a server's, where no signal can be handled."""
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(outcomes, [(math.sqrt, (4.0,))], 1).result() == [2.0]


def test_an_exception_here_ends_the_processes():
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call_all([(time.sleep, (1000,))] * 2, 2, 1, lambda *_: None, interrupt)
    assert not multiprocessing.active_children()


def test_a_killed_task_of_a_study_is_reported_after_the_others(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    tasks = {killed: (signal.raise_signal, (signal.SIGKILL,)), whole: (Path.mkdir, (whole,))}
    with pytest.raises(BciDecodeError, match="killed: its process was killed by SIGKILL; the same"):
        train_all(tasks, dict.fromkeys(tasks, 1), 1, "study")
    assert whole.is_dir()
