"""The one exception that a user's mistake raises, and how a command line ends on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from os import PathLike


class BciDecodeError(Exception):
    """A mistake in a file, a setting or a command that its user can mend, told in one line.

    `file` and `field` say where (a path, a variable in it, or a config key), `problem` what is wrong and
    `remedy` what to do. The line reads "file: field: problem; remedy".
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
        super().__init__(" ".join(line.split()))
        self.file, self.field, self.problem, self.remedy = file, field, problem, remedy

    def __reduce__(self):  # keyword-only arguments do not survive the default pickling that worker pools use
        return _rebuild, (self.problem, self.remedy, self.file, self.field)


def _rebuild(problem: str, remedy: str | None, file: str | None, field: str | None) -> BciDecodeError:
    return BciDecodeError(problem, remedy=remedy, file=file, field=field)


def exit_on_mistake(main: Callable[[], None]) -> None:
    """Run a command's `main`; a `BciDecodeError` becomes one line on standard error and exit code 2."""
    try:
        main()
        sys.stdout.flush()
    except BciDecodeError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        stop_writing()


def stop_writing() -> None:
    """The reader of the output, `head` say, has gone: what is still printed goes nowhere, and Python says nothing of it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
