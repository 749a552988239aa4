"""Commands run in the tests' own process: without the seconds of imports, and without its limits.

What a process of its own shows (signals, closed streams, exit codes of the shell) needs one.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess

from bci_decode.errors import run_cli
from bci_decode.runs.sweep import SweepReport
from bci_decode.train import main


def train_here(folder: Path, *words: str) -> CompletedProcess:
    """`python -m bci_decode.train` with these words in a folder, as `subprocess.run` returns it."""
    output, errors, code = io.StringIO(), io.StringIO(), 0
    with _surroundings(folder, words), redirect_stdout(output), redirect_stderr(errors):
        try:
            run_cli(main)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return CompletedProcess(words, code, output.getvalue(), errors.getvalue())


@contextmanager
def _surroundings(folder: Path, words: tuple[str, ...]) -> Iterator[None]:
    """The command line, the current folder, the environment and the log, put back afterwards."""
    argv, here, environment = sys.argv, Path.cwd(), dict(os.environ)
    root, raises = logging.getLogger(), logging.raiseExceptions
    handlers, level = root.handlers[:], root.level
    sys.argv = ["train", *words]
    os.chdir(folder)
    try:
        yield
    finally:
        SweepReport.sweep = None
        sys.argv = argv
        os.chdir(here)
        os.environ.clear()
        os.environ.update(environment)
        root.handlers[:], logging.raiseExceptions = handlers, raises
        root.setLevel(level)
