"""What is imported when: modules of POSIX systems nowhere, large libraries not before their use.

Every module can be imported where the modules of POSIX systems are absent, as on Windows. The
import of `fcntl`, `resource`, `pwd`, `grp` or `termios` by a module of this project fails here.
Nothing else of Windows is covered: its paths, file locks, signals and processes, functions of `os`
that it lacks, and imports inside functions. No test has run on Windows.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from recordings import ROOT

IMPORT_ALL = """
import builtins, importlib, pkgutil, sys

POSIX = {"fcntl", "resource", "pwd", "grp", "termios"}
plain_import = builtins.__import__

def import_as_on_windows(name, globals=None, *others, **named):
    if name in POSIX and (globals or {}).get("__name__", "").split(".")[0] == "bci_decode":
        raise ModuleNotFoundError(f"No module named {name!r}")
    return plain_import(name, globals, *others, **named)

builtins.__import__ = import_as_on_windows
import bci_decode

for module in pkgutil.walk_packages(bci_decode.__path__, "bci_decode."):
    try:
        importlib.import_module(module.name)
        print(module.name)
    except ModuleNotFoundError as error:
        if error.name != "triton":  # the kernels for GPUs need it, and are imported only there
            print(module.name, error, file=sys.stderr)
"""


def test_every_module_is_imported_without_posix():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert "bci_decode.data.download" in done.stdout and done.returncode == 0


LARGE = {"torch", "numpy", "numba", "pandas", "scipy", "sklearn", "matplotlib", "h5py"}
HELP = f"""
import atexit, sys
from bci_decode.cli import main
atexit.register(lambda: print("imported:", {LARGE} & set(sys.modules)))
main()
"""
COMMAND = """
import atexit, sys
from bci_decode.cli import main
atexit.register(lambda: print("imported:", {"numba"} & set(sys.modules)))
main()
"""
WATCH_TRAINING = """
import gc, logging, sys
LATER = {"torch._dynamo", "sklearn", "scipy.stats", "matplotlib"}
from bci_decode.train import main

class Watch(logging.Handler):
    def emit(self, record):
        if record.msg.startswith("epoch") and record.args[0] == 1:
            assert gc.isenabled()  # it pauses during imports
            print("imported:", LATER & set(sys.modules))
            sys.exit()

logging.getLogger("bci_decode").addHandler(Watch())
main()
"""


@pytest.mark.parametrize(
    "command", ["train", "evaluate", "stream", "compare", "inspect", "download"]
)
def test_help_imports_nothing_large(command):
    assert imported(HELP, command, "--help") == "set()"


def test_training_imports_no_compiler_and_nothing_that_comes_after_it(mat_file, tmp_path):
    words = ["session=local", f"session.path={mat_file}", f"output_dir={tmp_path}"]
    short = ["data.bin_width=0.02", "data.window.length=8", "data.window.burn_in=2"]
    assert imported(WATCH_TRAINING, *words, *short) == "set()"


def test_only_training_a_recurrent_model_imports_numba(mat_file, tmp_path):
    words = [f"session.path={mat_file}", "session=local", f"output_dir={tmp_path}"]
    words += ["data.bin_width=0.02", "data.window.length=8", "data.window.burn_in=2"]
    trained = imported(COMMAND, "train", "model=lngru", *words, "trainer.epochs=1")
    assert trained == "{'numba'}"
    assert imported(COMMAND, "train", "model=wiener", *words) == "set()"
    run = next(tmp_path.glob("default/*/lngru/seed0"))
    assert imported(COMMAND, "evaluate", str(run), "--session", str(mat_file)) == "set()"


def imported(program: str, *words: str) -> str:
    """What a program says of its imports in its last line."""
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1].removeprefix("imported: ")
