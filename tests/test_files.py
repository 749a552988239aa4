"""Files that are complete or absent, and paths as users type them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bci_decode.errors import BciDecodeError
from bci_decode.files import expand_user, written_whole


def test_a_file_is_on_the_disk_before_it_takes_its_name_and_its_folder_after(tmp_path, monkeypatch):
    """The real functions are called; only their order is written down."""
    calls, fsync, replace = [], os.fsync, os.replace

    def noted_fsync(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        calls.append("sync folder" if is_folder else f"sync {os.fstat(descriptor).st_size} bytes")
        fsync(descriptor)

    def noted_replace(source, target):
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    with written_whole(tmp_path / "a.txt") as temporary:
        temporary.write_text("hello")
    assert calls == ["sync 5 bytes", "rename", "sync folder"]
    assert (tmp_path / "a.txt").read_text() == "hello"


def test_a_failed_write_keeps_the_old_file_alone(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError), written_whole(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


DIES = """
import os
from pathlib import Path
from bci_decode.files import written_whole
with written_whole(Path("a.txt")) as temporary:
    temporary.write_text("half")
    os._exit(1)
"""


def test_what_a_killed_process_left_is_removed(tmp_path):
    """What others may still write to is kept: a living process, another machine within a day."""
    subprocess.run([sys.executable, "-c", DIES], cwd=tmp_path)
    (dead,) = tmp_path.iterdir()
    machine = dead.name.split(".")[2]
    names = [f"a.txt.{machine}.{os.getppid()}.part", "a.txt.elsewhere.1.part", "a.txt.part"]
    for name in (*names, "a.txt.elsewhere.2.part", f"b.{dead.name}"):
        (tmp_path / name).write_text("half")
    os.utime(tmp_path / "a.txt.elsewhere.2.part", (0, 0))
    with written_whole(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == sorted(["a.txt", *names, f"b.{dead.name}"])


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BciDecodeError, match=r"b\.txt: cannot be written .*another place"),
        written_whole(tmp_path / "file" / "b.txt") as temporary,
    ):
        temporary.write_text("")


def test_the_home_folder_is_found(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert expand_user("~/a.mat") == Path("/somewhere/a.mat")
    assert expand_user("~no_such_user_xyz.mat") == Path("~no_such_user_xyz.mat")
    assert expand_user("a~b.mat") == Path("a~b.mat")
