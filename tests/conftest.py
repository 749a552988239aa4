"""Fixtures that the tests of several packages share."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from recordings import REAL, recording, write_mat73

from bci_decode.data.session import Session, read_session

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # a test run in the background ignores Ctrl-C, and the processes that tests interrupt inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def mat_file(tmp_path) -> Path:
    """Ten seconds of four channels."""
    return write_mat73(tmp_path / "toy.mat", recording())


@pytest.fixture
def session(mat_file) -> Session:
    return read_session(mat_file)


@pytest.fixture
def real_file() -> Path:
    if not REAL.exists():
        pytest.skip(f"the real recording is not at {REAL}")
    return REAL


@pytest.fixture
def tried(record_property) -> Callable[[int, str], None]:
    """Count what a test tries: `tried(50, "killed runs")`; the summary adds up what passed."""
    return lambda number, what: record_property("tried", (number, what))


def pytest_terminal_summary(terminalreporter) -> None:
    """Print how much the suites of faults tried, each thing once for all tests."""
    tried: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "tried":
                tried[value[1]] += value[0]
    for what, number in sorted(tried.items()):
        terminalreporter.write_line(f"tried: {number} {what}")
