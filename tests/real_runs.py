"""Real runs in processes of their own, which end or lose their disk at a chosen operation.

They are forked from a server that has imported the libraries, so that a start costs milliseconds.
An audit hook sees each operation that changes the run's files, before it happens.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

START = "spawn" if sys.platform == "win32" else "forkserver"  # Windows cannot fork
CONTEXT = multiprocessing.get_context(START)
if START == "forkserver":
    CONTEXT.set_forkserver_preload(
        [
            "bci_decode.train",
            "bci_decode.training.trainer",
            "bci_decode.layers.cpu.kernels",
            "bci_decode.runs.load",
            "bci_decode.runs.figures",
            "bci_decode.data.figures",
            "matplotlib.backends.backend_agg",
            "tqdm.contrib.logging",
        ]
    )
CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")
WRITING = os.O_WRONLY | os.O_RDWR
KINDS = ["SIGKILL", "full", "SIGTERM again", "EROFS", "removed", "SIGINT", "EDQUOT", "EIO"]
SIGNALS = {  # exit code and line
    "SIGKILL": (-9, ""),
    "SIGINT": (130, "interrupted"),
    "SIGTERM": (143, "terminated"),
}
DISK = (2, "error: ")  # the same of all other faults
TIMEOUT = 120  # s, after which a process hangs


@dataclass
class Fault:
    """What happens to a run at the operation number `at`, counted from 0.

    A signal ("SIGINT again": many of them), "full" (nothing more can be written), "removed" (the
    folder is deleted), or from then on the error of a name such as "EROFS".
    """

    kind: str
    at: int


@dataclass
class Run:
    """A started command."""

    process: Any
    output: Connection

    def ended(self) -> tuple[int, str]:
        """Exit code, below 0 for a signal, and what was printed."""
        self.process.join(TIMEOUT)
        hangs = self.process.is_alive()
        if hangs:
            self.process.kill()
        with os.fdopen(os.dup(self.output.fileno())) as file:
            text = file.read()
        self.output.close()
        assert not hangs, f"hangs: {text}"
        return self.process.exitcode, text


def started(folder: Path, words: list[str], fault: Fault | None = None) -> Run:
    """Start a command of `bci-decode` in a folder; operations in folder/out count for the fault."""
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_command, args=(folder, words, sender, fault))
    process.start()
    sender.close()
    return Run(process, receiver)


def command(folder: Path, words: list[str], fault: Fault | None = None) -> tuple[int, str]:
    """Exit code and output of a command."""
    return started(folder, words, fault).ended()


def operations(text: str) -> list[str]:
    """The operations that changed the files of a run, as its process printed them."""
    return json.loads(text.rpartition("operations: ")[2])


@dataclass
class _Hook:
    root: str
    fault: Fault | None
    seen: list[str] = field(default_factory=list)

    def __call__(self, event: str, arguments: tuple) -> None:
        if event not in CHANGES or (event == "open" and not (arguments[2] or 0) & WRITING):
            return
        if not os.path.abspath(os.fsdecode(arguments[0])).startswith(self.root):
            return
        number = len(self.seen)
        self.seen.append(f"{event} {os.path.basename(os.fsdecode(arguments[0]))}")
        if self.fault is None or number < self.fault.at:
            return
        if hasattr(errno, self.fault.kind):
            code = getattr(errno, self.fault.kind)
            raise OSError(code, os.strerror(code), str(arguments[0]))
        if number == self.fault.at:
            self._strike(self.fault.kind)

    def _strike(self, kind: str) -> None:
        if kind == "full":
            import resource  # of POSIX systems

            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        elif kind == "removed":
            shutil.rmtree(self.root)
        else:
            name, _, again = kind.partition(" ")
            number = getattr(signal, name)
            if again:
                threading.Thread(target=_signal_again, args=(number,), daemon=True).start()
            signal.raise_signal(number)


def _signal_again(number: int) -> None:
    """Send a signal a hundred times more, while the first one closes files."""
    for _ in range(100):
        time.sleep(0.0003)
        os.kill(os.getpid(), number)


def _command(folder: Path, words: list[str], output: Connection, fault: Fault | None) -> None:
    """The process of a command."""
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests are in the back
    hook = _Hook(str(folder / "out"), fault)
    sys.addaudithook(hook)
    sys.argv = ["bci-decode", *words]
    from bci_decode.cli import main

    try:
        main()
    finally:
        print("operations:", json.dumps(hook.seen), flush=True)


TIMES = ("seconds", "modified_ns")  # keys of what differs between equal runs
OF_TIMES = ("train.log", "SHA256SUMS", "stream.json", "latency.png")  # files that hold times


def compared(folder: Path) -> dict[str, Any]:
    """All that is in folder/out by its path, without times: equal for equal runs."""
    out = folder / "out"
    files = sorted(path for path in out.rglob("*") if not path.is_dir())
    files = [path for path in files if not path.name.startswith("events.")]  # one for each start
    return {str(path.relative_to(out)): _content(path) for path in files}


def _content(path: Path) -> Any:
    if path.name in OF_TIMES:
        return "of times"
    if path.suffix == ".pt":
        import torch

        return _timeless(torch.load(path, weights_only=True))
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text()))
    if path.suffix == ".npz":
        import numpy as np

        with np.load(path) as arrays:
            return {key: arrays[key].tobytes() for key in arrays if "latency" not in key}
    if path.name == "history.csv":
        return [row | {"seconds": ""} for row in csv.DictReader(path.read_text().splitlines())]
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _timeless(content: Any) -> Any:
    """A checkpoint or a report without its times; tensors as their bytes."""
    if isinstance(content, dict):
        return {key: _timeless(value) for key, value in content.items() if key not in TIMES}
    if isinstance(content, (list, tuple)):
        return [_timeless(value) for value in content]
    if hasattr(content, "numpy"):
        return str(content.dtype), tuple(content.shape), content.numpy().tobytes()
    return repr(content)  # so that NaN equals NaN


def check_end(kind: str, code: int, text: str, about: str) -> None:
    """Check exit code and output: one line that says what happened, and no traceback."""
    expected, line = SIGNALS.get(kind.split()[0], DISK)
    ends = [one for one in text.splitlines() if one.startswith(("error: ", "interr", "termin"))]
    assert code == expected, about
    assert ends == [] if not line else len(ends) == 1 and line in ends[0], about
    for trace in ("Traceback", "Logging error", "Exception ignored"):
        assert trace not in text, about
