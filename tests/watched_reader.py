"""Read session files in a process that is watched: it may die, hang or fill the memory.

Run as a program, this module is that process: a line of JSON answers each path on its input.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
import traceback
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CPU = 5.0  # s that a file may take
MEMORY = 300 << 20  # bytes that a file may take, besides three times its own
GUARD = 6 << 30  # bytes of address space, for the machine's sake
WALL = 120.0  # s after which a process that does not answer hangs


class WatchedReader:
    """A process that reads one file after the other; it is started again where a file ends it."""

    def __init__(self, known_good: Path):
        self.known_good = known_good
        self.process: subprocess.Popen | None = None

    def __call__(self, path: Path) -> str:
        """Assert that a file gives a valid session or one line; returns "session" or the line."""
        answer = self._answer(path)
        assert answer is not None, f"{path}: the reader died or hung"
        assert "fault" not in answer, f"{path}: {answer['fault']}"
        assert answer["seconds"] <= CPU, f"{path}: {answer['seconds']:.1f} s"
        size = path.stat().st_size if path.is_file() else 0
        grown = answer["memory"] - self.baseline
        assert grown <= MEMORY + 3 * size, f"{path}: {grown >> 20} MB, the file {size >> 20} MB"
        return answer["outcome"]

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _answer(self, path: Path) -> dict[str, Any] | None:
        if self.process is None:
            self._start()
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.write(json.dumps(str(path)) + "\n")
        self.process.stdin.flush()
        try:
            line = self.answers.get(timeout=WALL)
        except queue.Empty:
            line = ""
        if not line:
            self.close()
        return json.loads(line) if line else None

    def _start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_pass_on, args=(self.process, self.answers), daemon=True).start()
        answer = self._answer(self.known_good)
        assert answer is not None and answer["outcome"] == "session", answer
        self.baseline = answer["memory"]


def _pass_on(process: subprocess.Popen, answers: queue.Queue[str]) -> None:
    for line in process.stdout or ():
        answers.put(line)
    answers.put("")  # the process has ended


def read_all() -> None:
    """Answer each path with the outcome, the CPU seconds and the largest memory so far."""
    from valid_session import check_session

    from bci_decode.data.session import read_session
    from bci_decode.errors import BciDecodeError

    warnings.simplefilter("error")
    _limit("RLIMIT_AS", GUARD)
    for line in sys.stdin:
        path = json.loads(line)
        began = time.process_time()
        _limit("RLIMIT_CPU", int(began + 2 * CPU + 1))
        answer: dict[str, Any] = {}
        try:
            check_session(read_session(path))
            answer["outcome"] = "session"
        except BciDecodeError as mistake:
            answer["outcome"] = str(mistake)
            if len(str(mistake).splitlines()) != 1 or Path(path).name not in str(mistake):
                answer["fault"] = f"no line that names the file: {mistake}"
        except BaseException:
            answer["fault"] = traceback.format_exc()
        answer |= {"seconds": time.process_time() - began, "memory": _peak()}
        print(json.dumps(answer), flush=True)


def _limit(name: str, value: int) -> None:
    """Limit this process where the system can; a process over its CPU time is killed."""
    if find_spec("resource"):
        import resource

        kind = getattr(resource, name)
        resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))


def _peak() -> int:
    """The most bytes that this process had so far; 0 where the system does not tell."""
    if not find_spec("resource"):
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


if __name__ == "__main__":
    read_all()
