"""Ctrl-C and SIGTERM end a stream between two bins, and garbage collection waits until then."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

from bci_decode.signals import ONE, SIGNALS, exception_of


class StopSign:
    """Whether a signal has asked to stop.

    The first signal never cuts a bin short: while the loop waits for input (`waiting`) it raises
    `KeyboardInterrupt`, otherwise the loop has to look at `asked`. A second one raises at once,
    unless it follows within `ONE` s: programs that start others often send a signal twice.
    """

    def __init__(self) -> None:
        self.asked = False
        self.waiting = False
        self._first = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked, self._first = True, monotonic()
            if self.waiting:
                raise exception_of(number)
        elif monotonic() > self._first + ONE:
            raise exception_of(number)


@contextmanager
def stop_sign() -> Iterator[StopSign]:
    """Let the signals set a `StopSign`; in another thread than the main one nothing is changed.

    Within another `stop_sign` it is that one's sign. A signal that the process ignores, as Ctrl-C
    in the background, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield StopSign()
        return
    for number in SIGNALS:
        outer = signal.getsignal(number)
        if isinstance(outer, StopSign):
            yield outer
            return
    sign = StopSign()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handled = [number for number in SIGNALS if before[number] != signal.SIG_IGN]
    for number in handled:
        signal.signal(number, sign)
    try:
        yield sign
    finally:
        for number in handled:
            signal.signal(number, before[number])


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep the collector off, whose pauses of milliseconds would delay bins.

    What exists before is never looked at again within; a loop that makes no cycles loses nothing.
    """
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
