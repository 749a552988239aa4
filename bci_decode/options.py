"""The parser of all commands, whose mistakes are one line, and the types of its options."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from bci_decode.config import MAX_SECONDS, MAX_TIME, range_text
from bci_decode.errors import BciDecodeError
from bci_decode.files import expand_user

MAX_SEED = 2**32 - 1
MAX_JOBS = 1000  # at the same time
MAX_SHOWN = 250  # characters of a message, which repeats the word that is wrong


class CommandParser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `BciDecodeError` where it would print its usage."""

    def __init__(self, description: str | None = None, **options: Any):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(description=description, **options)

    def error(self, message: str) -> NoReturn:
        strange = message.partition("unrecognized arguments: ")[2].split()
        known = [option for action in self._actions for option in action.option_strings]
        near = difflib.get_close_matches(strange[0].partition("=")[0], known, 1) if strange else []
        remedy = f"did you mean {near[0]}?" if near else "--help lists the options"
        text = message.removeprefix("argument ")
        shown = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
        raise BciDecodeError(shown, remedy=remedy)


def whole(low: int, high: int) -> Callable[[str], int]:
    """The type of an option that is a whole number from `low` to `high`."""

    def read(text: str) -> int:
        return _within(int(text), low, high)

    read.__name__ = "int"  # as argparse names a type that does not take a word
    return read


def number(low: float, high: float) -> Callable[[str], float]:
    """The type of an option that is a number from `low` to `high`."""

    def read(text: str) -> float:
        return _within(float(text), low, high)

    read.__name__ = "float"
    return read


def _within(value: Any, low: float, high: float) -> Any:
    if not low <= value <= high:
        limits = {"low": low, "high": high, "above": None, "below": None}
        raise argparse.ArgumentTypeError(f"is {value}; give {range_text(limits)}")
    return value


seconds = number(0.001, MAX_SECONDS)
clock_time = number(-MAX_TIME, MAX_TIME)
seed = whole(0, MAX_SEED)


def path(text: str) -> Path:
    """The type of an option that names a file or a folder."""
    return expand_user(text)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add `--trust` of commands that load a run, a list of prefixes."""
    parser.add_argument(
        "--trust",
        type=_prefix,
        action="append",
        default=[],
        metavar="PREFIX",
        help="also make layers of this package, mylab. for instance, when the run is loaded",
    )


def _prefix(text: str) -> str:
    if not text.strip("."):  # "" would begin every name
        raise argparse.ArgumentTypeError(f"is {text!r}; name a package, mylab. for instance")
    return text
