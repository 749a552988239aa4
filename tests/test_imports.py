"""Every module can be imported where the modules of POSIX systems are absent, as on Windows.

The import of `fcntl`, `resource`, `pwd`, `grp` or `termios` by a module of this project fails here.
Nothing else of Windows is covered: its paths, file locks, signals and processes, functions of `os`
that it lacks, and imports inside functions. No test has run on Windows.
"""

from __future__ import annotations

import subprocess
import sys

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
