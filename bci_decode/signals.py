"""Ctrl-C and SIGTERM end a command in one line, with exit code 130 or 143, as shells expect."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from types import FrameType

ONE = 1.0  # s within which two signals count as one: programs that start others often send two
SIGNALS = (signal.SIGINT, signal.SIGTERM)
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Stopped(KeyboardInterrupt):
    """SIGTERM, as `kill`, SLURM and systemd send it: all that handles Ctrl-C handles it too."""


def exception_of(number: int) -> KeyboardInterrupt:
    """The exception that a signal raises."""
    return Stopped() if number == signal.SIGTERM else KeyboardInterrupt()


def word_and_code(stop: KeyboardInterrupt) -> tuple[str, int]:
    """What to say of a signal, and the exit code that tells of it."""
    number = signal.SIGTERM if isinstance(stop, Stopped) else signal.SIGINT
    return WORDS[number], 128 + number


@contextmanager
def signals_raise() -> Iterator[None]:
    """Let the first signal raise `KeyboardInterrupt`, so that files and locks are closed.

    Signals within the next second change nothing, a later one ends the process at once. A signal
    that the process ignores, as Ctrl-C in the background, stays ignored. In another thread than
    the main one nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first: list[float] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if not first:
            first.append(monotonic())
            raise exception_of(number)
        if monotonic() > first[0] + ONE:
            os._exit(128 + number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    handled = [number for number in SIGNALS if before[number] not in (signal.SIG_IGN, None)]
    for number in handled:
        signal.signal(number, handle)
    try:
        yield
    finally:
        if not first:  # else a second signal would come while Python shuts down
            for number in handled:
                signal.signal(number, before[number])


def signals_exit() -> None:
    """Let a signal end the process at once: while libraries are imported, nothing is open yet."""

    def handle(number: int, frame: FrameType | None) -> None:
        with suppress(OSError):
            if os.environ.get("RANK", "0") == "0":  # of several processes the first one speaks
                os.write(2, f"{WORDS[signal.Signals(number)]}\n".encode())
        os._exit(128 + number)

    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handle)


def open_closed_streams() -> None:
    """Put the null device where `2>&-` or the like closed a standard stream.

    Otherwise the next file that is opened becomes that stream, and messages are written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number, which is this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, stays open
