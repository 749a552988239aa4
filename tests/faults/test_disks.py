"""A disk that is really full or read-only costs a run nothing but time.

It is a small file system in memory, so these tests need the right to mount one, and are part of the
full suite alone; tests/faults/test_kills.py has disk faults that need no rights.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from real_runs import DISK, check_end, command, compared
from sizes import FULL

WORDS = [
    "train",
    "model=gru",
    "model.recurrent._target_=torch.nn.GRU",
    "session.minutes=1",
    "session.channels=8",
    "trainer.epochs=4",
    "model.recurrent.hidden_size=8",
    "output_dir=out",
]


def mount(*words: str | Path) -> bool:
    return subprocess.run(["mount", *words], capture_output=True).returncode == 0


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    folder.mkdir()
    assert mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def may_mount() -> bool:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as folder:
        done = mount("-t", "tmpfs", "-o", "size=4k", "tmpfs", folder)
        return done and subprocess.run(["umount", folder]).returncode == 0


if FULL and may_mount():

    def test_a_full_disk_costs_a_run_nothing_but_time(tmp_path, tried):
        words = [*WORDS, f"data_dir={tmp_path / 'data'}"]
        unbroken = tmp_path / "unbroken"
        unbroken.mkdir()
        assert command(unbroken, words)[0] == 0
        needed = sum(path.stat().st_size for path in unbroken.rglob("*") if path.is_file()) // 1024
        full = 0
        for number, size in enumerate(np.linspace(4, 1.2 * needed, 15, dtype=int)):
            home = tmp_path / f"home{number}"
            home.mkdir()
            with small_disk(home / "out", int(size)):
                code, text = command(home, words)
                full += code != 0
                if code:
                    check_end("full", code, text, f"{size} kB: {text}")
                assert mount("-o", "remount,size=10m", home / "out")
                code, text = command(home, words)
                assert code == 0, text
                assert compared(home) == compared(unbroken), f"{size} kB"
        tried(full, "full disks")
        assert full > 5

    def test_a_disk_that_is_read_only_is_said_in_a_line(tmp_path):
        words = [*WORDS, f"data_dir={tmp_path / 'data'}"]
        with small_disk(tmp_path / "out", 10_000):
            for path in ("out", "out/default/simulated/gru"):
                assert mount("-o", "remount,ro", tmp_path / "out")
                code, text = command(tmp_path, words)
                assert code == DISK[0] and "Read-only file system" in text, path
                check_end("EROFS", code, text, text)
                assert mount("-o", "remount,rw", tmp_path / "out")
                assert command(tmp_path, [*words, "trainer.epochs=1", f"output_dir={path}"])[0] == 0

    def test_data_and_comparison_on_a_full_disk(tmp_path):
        """The simulated session is written by the HDF5 library, which has faults of its own."""
        assert command(tmp_path, [*WORDS, "figures=none"])[0] == 0
        for size in (4, 20, 60, 100, 200):
            home = tmp_path / f"home{size}"
            home.mkdir()
            with small_disk(home / "small", size):
                for words in (
                    [*WORDS, "data_dir=small"],
                    ["compare", str(tmp_path / "out"), "--output", "small/compared"],
                ):
                    code, text = command(home, words)
                    assert code in (0, 2), text
                    if code:
                        check_end("full", code, text, f"{size} kB: {text}")
                    assert not list((home / "small").rglob("*.part"))
