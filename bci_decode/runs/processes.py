"""Calls in other processes: one that dies costs its call only, and none outlives this process.

A process takes call after call, since each needs seconds to import PyTorch, and is replaced when it
dies. Ctrl-C and SIGTERM are this process's alone: the others ignore the first, which a terminal
sends to all, and get the second from here. They also end when this process is gone, however it
ended.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.context import SpawnProcess
from typing import Any

from bci_decode.errors import BciDecodeError, one_line

Call = tuple[Callable[..., Any], tuple[Any, ...]]
POLL, GRACE = 0.5, 3.0  # seconds: between looks at the workers; for a worker to end by itself
TERMINATED = 128 + signal.SIGTERM  # the exit code that a shell gives a program that SIGTERM ended
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True)
class Died:
    """The outcome of a call whose process ended before it."""

    exitcode: int | None

    def __str__(self) -> str:
        if self.exitcode is not None and self.exitcode < 0:
            return f"its process was killed by {signal.Signals(-self.exitcode).name}"
        return f"its process ended with exit code {self.exitcode}"


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: connection.Connection
    call: int | None = None  # which one it is at

    def alive(self) -> bool:
        return self.process.is_alive()

    def begin(self, number: int, call: Call) -> None:
        self.call = number
        with suppress(OSError):  # it died, which `end` says
            self.pipe.send(call)

    def end(self) -> tuple[int, Any]:
        """Its call and the outcome."""
        number, self.call = self.call, None
        assert number is not None
        try:
            return number, self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return number, Died(self.process.exitcode)


def call_all(
    calls: Iterable[Call],
    jobs: int,
    threads: int,
    on_end: Callable[[int, Any], None],
    on_tick: Callable[[], None] = lambda: None,
) -> None:
    """Call the functions with their arguments, `jobs` at a time.

    `threads` is how many a process may use, unless the environment says so. `on_end` gets the
    number of a call and its outcome: what it returned or raised, or `Died`. `on_tick` is called
    twice a second. An exception here, as of Ctrl-C, ends the processes; a second one kills them.
    """
    waiting, workers = enumerate(calls), list[_Worker]()
    with sigterm_exits():
        try:
            while True:
                workers[:] = [one for one in workers if one.call is not None or one.alive()]
                idle = [one for one in workers if one.call is None]
                while (idle or len(workers) < jobs) and (given := next(waiting, None)):
                    (idle.pop() if idle else _start(workers, threads)).begin(*given)
                busy = [one for one in workers if one.call is not None]
                if not busy:
                    return
                ready = connection.wait([one.pipe for one in busy], POLL)
                for number, outcome in [one.end() for one in busy if one.pipe in ready]:
                    on_end(number, outcome)
                on_tick()
        finally:
            _end(workers)


def _start(workers: list[_Worker], threads: int) -> _Worker:
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, threads))
    with _signals_wait():
        process.start()
        workers.append(_Worker(process, here))
    there.close()  # so that its end is seen here
    return workers[-1]


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.pipe.close()  # an idle one ends with it
        if worker.call is not None:
            worker.process.terminate()
    try:
        deadline = time.monotonic() + GRACE
        for worker in workers:
            worker.process.join(max(deadline - time.monotonic(), 0))
    finally:  # also at a second Ctrl-C
        for worker in workers:
            worker.process.kill()
            worker.process.join()


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Let SIGTERM raise SystemExit meanwhile, unless something handles it already.

    Only the main thread may change that; in another one nothing is changed.
    """
    main = threading.current_thread() is threading.main_thread()
    default = main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if default:
        signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        if default:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(*_: object) -> None:
    sys.exit(TERMINATED)


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back while a process starts, which inherits that; not on Windows."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its start would let them through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: connection.Connection, threads: int) -> None:
    """A worker: call after call, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _exit)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name in THREADS:  # before anything is imported that reads them
        os.environ.setdefault(name, str(threads))
    with suppress(EOFError, OSError):  # no more calls, or the parent is gone
        while True:
            function, arguments = pipe.recv()
            pipe.send(_result(function, arguments))
    try:
        sys.stdout.flush()
    except OSError:  # its reader is gone, which Python would report at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _result(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except BciDecodeError as mistake:
        return mistake
    except Exception as fault:  # others might not survive the way to the parent
        traceback.print_exc()
        return RuntimeError(f"{type(fault).__name__}: {one_line(fault)}")


def _end_with_parent() -> None:
    """End this process when its parent is gone: as SIGTERM does, or else for good."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    _thread.interrupt_main(signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(TERMINATED)


def cores() -> int:
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def jobs_at_a_time(n_jobs: Any) -> int:
    """How many processes `hydra.launcher.n_jobs` means: -1 is one for each core."""
    if not isinstance(n_jobs, int) or n_jobs < -1 or n_jobs == 0:
        remedy = "give a number of processes, or -1 for one for each core"
        raise BciDecodeError(f"is {n_jobs}", field="hydra.launcher.n_jobs", remedy=remedy)
    return cores() if n_jobs == -1 else n_jobs
