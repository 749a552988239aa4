"""The options of `bci-decode stream`, and what is refused before anything is loaded."""

from __future__ import annotations

import argparse
import math

from bci_decode.config import BRIDGED, MAX_SECONDS
from bci_decode.errors import BciDecodeError
from bci_decode.files import expand_user
from bci_decode.options import CommandParser, add_trust, clock_time, number, path

SOURCES = ("replay", "lsl_in")  # options that name a source; a stream has one
NEEDS = {  # options that have an effect with another one alone
    "start": "replay",
    "stop": "replay",
    "speed": "replay",
    "data_dir": "replay",
    "timeout": "lsl_in",
    "host": "page",
}
NAMES = ("replay", "lsl_in", "lsl_out", "host", "record", "output", "data_dir")  # never empty
TIMEOUT = 10.0  # s for a stream of LSL to appear
LSL_TOLERANCE = 0.005  # s: spikes come over the network
MAX_GAP = 1.0  # s
PORTS = range(2**16)


def stream_parser(description: str | None) -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = CommandParser(description)
    parser.add_argument(
        "run", type=path, metavar="RUN", help="folder of a finished run, or a packed one"
    )
    _add_input(parser)
    _add_output(parser)
    add_trust(parser)
    return parser


def _add_input(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--replay", metavar="FILE|NAME", help="a recording, or a named session")
    option("--speed", metavar="1|10|max", help="of --replay: 0.001 to 1000, or max (default: 1)")
    option("--start", type=clock_time, metavar="S", help="of --replay: s of the session's clock")
    option("--stop", type=clock_time, metavar="S", help="of --replay: s of the session's clock")
    option("--data-dir", metavar="DIR", help="of --replay: where NAME.mat is (default: data)")
    option("--lsl-in", metavar="NAME", help="decode a stream of Lab Streaming Layer")
    option(
        "--timeout", type=number(0, MAX_SECONDS), metavar="S",
        help=f"of --lsl-in: s for the stream to appear (default: {TIMEOUT:g})",
    )  # fmt: skip
    option("--engine", default="fast", help="fast (default), torch or onnx")
    option(
        "--tolerance", type=float, metavar="S",
        help="s that a bin waits for late spikes, 10 at most "
        f"(default: 0; of --lsl-in {LSL_TOLERANCE:g})",
    )  # fmt: skip
    option(
        "--max-gap", type=number(0, MAX_SECONDS), metavar="S",
        help="a longer gap between spikes is a jump of the clock "
        f"(default: {MAX_GAP:g}; of --replay {BRIDGED:g}, a gap of the recording)",
    )  # fmt: skip
    option(
        "--on-jump", choices=("keep", "reset"),
        help="the decoder's state where the clock jumped (default: keep; of --replay reset)",
    )  # fmt: skip


def _add_output(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option(
        "--lsl-out", metavar="NAME",
        help="publish what is decoded as a stream, to the local network as LSL does",
    )  # fmt: skip
    option(
        "--page", type=int, nargs="?", const=8765, metavar="PORT",
        help="show a live page at http://127.0.0.1:PORT (default: 8765)",
    )  # fmt: skip
    option(
        "--host", metavar="ADDRESS",
        help="of --page: where others can see it (default: 127.0.0.1, this computer alone)",
    )  # fmt: skip
    option(
        "--record", metavar="FILE.mat",
        help="record spikes, true and decoded movement as a session file",
    )  # fmt: skip
    option("--output", metavar="DIR", help="folder for what is written")
    option("--figures", choices=("png", "pdf", "svg"), default="png")


def check_options(arguments: argparse.Namespace) -> None:
    """Refuse options that are wrong or without effect; paths and the speed get their types."""
    for name in NAMES:
        if getattr(arguments, name) == "":
            raise BciDecodeError("is empty", field=_option(name), remedy="give a name, or omit it")
    _check_source(arguments)
    _set_defaults(arguments)
    if arguments.speed is not None:
        arguments.speed = _speed(arguments.speed)
    if arguments.page is not None and arguments.page not in PORTS:
        remedy = "give a port from 0 to 65535"
        raise BciDecodeError(f"is {arguments.page}", field="--page", remedy=remedy)
    for name in ("record", "output"):
        if getattr(arguments, name) is not None:
            setattr(arguments, name, expand_user(getattr(arguments, name)))
    _check_with_libraries(arguments)


def _set_defaults(arguments: argparse.Namespace) -> None:
    """What a jump is, and does: a recording is decoded as in one pass, a live state is kept."""
    replays = arguments.replay is not None
    if arguments.max_gap is None:
        arguments.max_gap = BRIDGED if replays else MAX_GAP
    if arguments.on_jump is None:
        arguments.on_jump = "reset" if replays else "keep"


def _check_source(arguments: argparse.Namespace) -> None:
    """Refuse a command with no source, with several, or with options of another one."""
    named = [name for name in SOURCES if getattr(arguments, name) is not None]
    if len(named) != 1:
        options = " or ".join(_option(name) for name in SOURCES)
        problem = "two sources are named" if named else "no source is named"
        raise BciDecodeError(problem, remedy=f"give one: {options}")
    for name, needed in NEEDS.items():
        if getattr(arguments, name) is not None and getattr(arguments, needed) is None:
            raise _without_effect(name, f"give {_option(needed)}")


def _check_with_libraries(arguments: argparse.Namespace) -> None:
    """The checks that import something."""
    from bci_decode.realtime.engines import ENGINES
    from bci_decode.realtime.stream.recorder import check_recording
    from bci_decode.realtime.stream.settings import check_max_gap, check_tolerance

    if arguments.record is not None:
        check_recording(arguments.record)
    if arguments.engine not in ENGINES:
        remedy = f"choose {', '.join(ENGINES)}"
        raise BciDecodeError(f"is {arguments.engine!r}", field="--engine", remedy=remedy)
    if arguments.tolerance is not None:
        check_tolerance(arguments.tolerance)
    check_max_gap(arguments.max_gap)


def check_counts(arguments: argparse.Namespace) -> None:
    """Refuse options of spikes for a stream that turned out to send counts."""
    if arguments.tolerance is not None:
        raise _without_effect("tolerance", "send spikes: this stream sends counts")


def _speed(text: str) -> float:
    """A speed of replay: a number, or "max"."""
    from bci_decode.realtime.stream.settings import SPEEDS, check_speed

    try:
        speed = math.inf if text == "max" else float(text)
    except ValueError:
        remedy = f"give {SPEEDS[0]:g} to {SPEEDS[1]:g}, or max"
        raise BciDecodeError(f"is {text!r}", field="--speed", remedy=remedy) from None
    check_speed(speed)
    return speed


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _without_effect(name: str, other: str) -> BciDecodeError:
    return BciDecodeError("has no effect", field=_option(name), remedy=f"remove it, or {other}")
