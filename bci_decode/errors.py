"""The exception that a user's mistake raises, and how a command ends with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from os import PathLike

from bci_decode.signals import open_closed_streams, signals_raise, word_and_code


class BciDecodeError(Exception):
    """A mistake in a file, a setting or a command that its user can correct, in one line.

    `file` and `field` say where it is (a path, a variable in it, or a config key), `problem` says
    what is wrong and `remedy` what to do. The line reads "file: field: problem; remedy". Control
    characters of a stranger's file or server are shown as escapes.
    """

    def __init__(
        self,
        problem: str,
        *,
        remedy: str | None = None,
        file: str | PathLike[str] | None = None,
        field: str | None = None,
    ):
        where = ": ".join(str(part) for part in (file, field) if part is not None)
        line = ": ".join(part for part in (where, problem) if part)
        line = "; ".join(part for part in (line, remedy) if part)
        super().__init__(printable(" ".join(line.split())))
        self.file, self.field, self.problem, self.remedy = file, field, problem, remedy

    def __reduce__(
        self,
    ):  # keyword-only arguments do not survive the default pickling that worker pools use
        return _rebuild, (self.problem, self.remedy, self.file, self.field)


def _rebuild(
    problem: str, remedy: str | None, file: str | None, field: str | None
) -> BciDecodeError:
    return BciDecodeError(problem, remedy=remedy, file=file, field=field)


def one_line(error: BaseException) -> str:
    """The text of any exception in one line; the name of its class if it has no text."""
    return printable(" ".join(str(error).split())) or type(error).__name__


def printable(text: str) -> str:
    r"""A text that changes nothing in a terminal: what cannot be printed becomes `\x1b`, say."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def run_cli(command: Callable[[], None]) -> None:
    """Run a command; a `BciDecodeError` is one line and exit code 2.

    Ctrl-C is exit code 130 and SIGTERM 143. Closed standard streams change none of them.
    """
    open_closed_streams()
    os.environ.setdefault("MPLBACKEND", "Agg")  # no window, whatever the machine has
    with signals_raise():
        try:
            command()
        except BciDecodeError as mistake:
            _tell(f"error: {mistake}")
            sys.exit(2)
        except BrokenPipeError:
            pass  # whoever read the output, `head` say, has seen enough
        except KeyboardInterrupt as stop:
            word, code = word_and_code(stop)
            _tell(word)
            _flush()
            os._exit(code)  # a thread that waits for a silent server would delay any other exit
        finally:
            _flush()


def _tell(line: str) -> None:
    """Print to standard error, if there is one."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):  # its reader is gone, or it is closed
            print(line, file=sys.stderr)


def _flush() -> None:
    """Flush both streams; one whose reader is gone is silenced, or Python reports it at exit."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
