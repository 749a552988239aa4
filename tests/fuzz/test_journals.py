"""Damaged journals of live streams: a session file, nothing, or one clear line."""

from __future__ import annotations

import os
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from odd_mat5 import damaged
from sizes import cases
from valid_session import check_session

from bci_decode.data.session import read_session
from bci_decode.errors import BciDecodeError
from bci_decode.realtime.stream.journal import Journal, read_journal
from bci_decode.realtime.stream.recorder import convert


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a whole journal of thirty bins."""
    folder = tmp_path_factory.mktemp("journals")
    units = [["M1 001", 0], ["M1 001", 1], ["M1 002", 0]]
    header = {"units": units, "bin_width": 0.064, "lag": 0.064, "target": "velocity"}
    journal, rng = Journal(folder / "whole", header), np.random.default_rng(0)
    for number in range(30):
        end = 100 + 0.064 * (number + 1)
        journal.events(end - 0.064 * rng.random(5), rng.integers(0, 3, 5))
        journal.bin(np.array([number, end]), rng.normal(size=2), rng.normal(size=2))
    journal.close()
    return folder


def converted(folder, content: bytes) -> bool:
    (folder / "some.mat.journal").write_bytes(content)
    (folder / "some.mat").unlink(missing_ok=True)
    return convert(folder / "some.mat.journal", folder / "some.mat")


def test_the_whole_journal_becomes_a_session(folder):
    assert converted(folder, (folder / "whole").read_bytes())
    session = read_session(folder / "some.mat")
    check_session(session)
    assert sum(map(len, session.spike_times)) == 150


@given(seed=st.integers(0, 2**40), times=st.integers(1, 4))
@settings(
    max_examples=cases(30, 1500),
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_damaged_journals(folder, seed, times, tried):
    tried(1, "journals of recorded streams")
    whole = (folder / "whole").read_bytes()
    content = damaged(whole[:130], seed, times) + whole[130:] if seed % 2 else whole
    content = content if seed % 2 else damaged(whole, seed, times, 130)
    with suppress(BciDecodeError):
        if converted(folder, content):
            check_session(read_session(folder / "some.mat"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bin_width", "NaN"),
        ("bin_width", "1e9"),
        ("lag", "1e300"),
        ("units", '[["a", 1000000000]]'),
        ("target", '"path"'),
        ("units", "[" * 100000),
    ],
)
def test_a_header_that_asks_for_too_much_is_damaged(folder, key, value):
    words = {"units": '[["a", 0]]', "bin_width": "0.1", "lag": "0", "target": '"velocity"'}
    line = ", ".join(f'"{name}": {text}' for name, text in (words | {key: value}).items())
    with pytest.raises(BciDecodeError, match="its header is damaged"):
        converted(folder, b"bci_decode journal 1\n{" + line.encode() + b"}\n")


def test_a_pipe_is_no_journal(tmp_path):
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "live.mat.journal")
        with pytest.raises(BciDecodeError, match="is a device, a pipe or a socket"):
            read_journal(tmp_path / "live.mat.journal")
