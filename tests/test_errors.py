"""A mistake is one line, survives the way between processes, and ends a command as it should."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from bci_decode.errors import BciDecodeError

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ({"file": "a.mat", "field": "t", "remedy": "mend it"}, "a.mat: t: is bad; mend it"),
        ({"field": "data.lag"}, "data.lag: is bad"),
        ({}, "is bad"),
        ({"file": Path("a.mat"), "remedy": "two\nlines"}, "a.mat: is bad; two lines"),
    ],
)
def test_a_mistake_is_one_line(parts, line):
    mistake = BciDecodeError("is bad", **parts)
    assert str(mistake) == line
    assert str(pickle.loads(pickle.dumps(mistake))) == line


def test_a_reader_that_leaves_early_sees_no_traceback(tmp_path):
    script = ROOT / "scripts" / "download.py"
    done = subprocess.run(
        f"{sys.executable} {script} --list --data-dir {tmp_path} | head -1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("session") and done.stderr == ""
