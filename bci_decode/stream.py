"""Run a trained decoder live: `bci-decode stream RUN --replay FILE`, or `--lsl-in NAME`."""

from __future__ import annotations

import argparse
import logging
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bci_decode.errors import BciDecodeError, run_cli

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from bci_decode.realtime.bins import Sink
    from bci_decode.realtime.decoder import StreamingDecoder
    from bci_decode.runs.load import LoadedRun

SOURCES = ("replay", "lsl_in")  # options that name a source; a stream has one
NEEDS = {  # options that have an effect with another one alone
    "start": "replay",
    "stop": "replay",
    "timeout": "lsl_in",
    "host": "page",
}
TIMEOUT = 10.0  # s for a stream of LSL to appear
LSL_TOLERANCE = 0.005  # s: spikes come over the network
WARM_UP = 20  # bins; the first ones compile kernels and fill caches


def main() -> None:
    """Run a trained decoder live, bin by bin.

    With --replay, a recording comes as live spike events, at its own speed, ten times as fast or
    without waiting. Without a range, the session that the run was trained on is replayed in its
    test part alone; R2 then equals that of `bci-decode evaluate`. A bin misses its deadline if it
    is decoded after the end of the next bin.

    With --lsl-in, a stream of Lab Streaming Layer is decoded: counts of bins (type "Counts", or a
    regular rate) or spikes (type "Spikes" or "Markers", or an irregular rate). --lsl-out publishes
    what is decoded, on the clock of the input. --page shows it in a browser.

    Ctrl-C and SIGTERM end a stream as its own end does: the summary is printed, all files are
    written, and the exit code is 0. Writes stream.json, predictions.npz and figures of trajectory
    and latency, by default into RUN/streams/<session> or <stream>.
    """
    arguments = _parse_args()
    import torch

    from bci_decode.realtime.decoder import StreamingDecoder
    from bci_decode.realtime.stream.loop import run_live
    from bci_decode.realtime.stream.report import report_text, stream_report, write_stream
    from bci_decode.realtime.stream.terminal import LineHandler
    from bci_decode.runs.load import load_run

    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[LineHandler()])
    torch.set_num_threads(1)  # more gain nothing for one stream
    _check_source(arguments)
    run = load_run(arguments.run)
    source = _source(run, arguments)
    decoder = StreamingDecoder(run, arguments.engine, source.units)
    _warm_up(decoder)
    summary = run_live(decoder, source, _sinks(decoder, source, arguments), arguments.on_jump)
    report = stream_report(decoder, summary, _about(source))
    print(report_text(report))
    folder = arguments.output or run.folder / "streams" / file_name(report["session"])
    names = write_stream(folder, decoder, summary, report, arguments.figures)
    print(f"wrote {', '.join(names[:-1])} and {names[-1]} to {folder}")
    if arguments.record and arguments.record.exists():
        print(f"recorded {arguments.record}")


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=main.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("run", type=Path, metavar="RUN", help="folder of a finished run")
    option("--replay", metavar="FILE|NAME", help=".mat file, or a published session")
    option("--speed", default="1", metavar="1|10|max", help="of --replay (default: 1)")
    option("--start", type=float, metavar="S", help="of --replay: s of the session's clock")
    option("--stop", type=float, metavar="S", help="of --replay: s of the session's clock")
    option("--lsl-in", metavar="NAME", help="decode a stream of Lab Streaming Layer")
    option(
        "--timeout", type=float, metavar="S",
        help=f"of --lsl-in: s for the stream to appear (default: {TIMEOUT:g})",
    )  # fmt: skip
    option("--lsl-out", metavar="NAME", help="publish what is decoded as a stream")
    option(
        "--page", type=int, nargs="?", const=8765, metavar="PORT",
        help="show a live page at http://127.0.0.1:PORT (default: 8765)",
    )  # fmt: skip
    option(
        "--host", metavar="ADDRESS",
        help="of --page: where others can see it (default: 127.0.0.1, this computer alone)",
    )  # fmt: skip
    option("--engine", default="fast", help="fast (default), torch or onnx")
    option(
        "--tolerance", type=float, metavar="S",
        help=f"s that a bin waits for late spikes (default: 0; of --lsl-in {LSL_TOLERANCE:g})",
    )  # fmt: skip
    option(
        "--max-gap", type=float, default=1.0, metavar="S",
        help="a longer gap in the stream is a jump of its clock (default: 1)",
    )  # fmt: skip
    option(
        "--on-jump", choices=("keep", "reset"), default="keep",
        help="the decoder's state where the clock jumped (default: keep)",
    )  # fmt: skip
    option(
        "--record", type=Path, metavar="FILE.mat",
        help="record spikes, true and decoded movement as a session file",
    )  # fmt: skip
    option("--output", type=Path, metavar="DIR", help="folder for what is written")
    option("--figures", choices=("png", "pdf", "svg"), default="png")
    option("--data-dir", default="data", metavar="DIR", help="where NAME.mat is")
    return parser.parse_args()


def file_name(name: str) -> str:
    """The name of a session or stream as that of a folder."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip(".") or "stream"


def _check_source(arguments: argparse.Namespace) -> None:
    """Refuse a command with no source, or with several."""
    named = [name for name in SOURCES if getattr(arguments, name) is not None]
    if len(named) != 1:
        options = " or ".join("--" + name.replace("_", "-") for name in SOURCES)
        problem = "two sources are named" if named else "no source is named"
        raise BciDecodeError(problem, remedy=f"give one: {options}")
    for name, needed in NEEDS.items():
        if getattr(arguments, name) is not None and getattr(arguments, needed) is None:
            option = "--" + needed.replace("_", "-")
            raise BciDecodeError(
                "has no effect", field=f"--{name}", remedy=f"remove it, or give {option}"
            )


def _source(run: LoadedRun, arguments: argparse.Namespace) -> Any:
    """The source that the arguments name."""
    if arguments.lsl_in is not None:
        from bci_decode.realtime.interfaces.lsl import open_lsl

        return open_lsl(
            arguments.lsl_in,
            run,
            TIMEOUT if arguments.timeout is None else arguments.timeout,
            tolerance=LSL_TOLERANCE if arguments.tolerance is None else arguments.tolerance,
            max_gap=arguments.max_gap,
        )
    from bci_decode.cli import recording_file
    from bci_decode.realtime.stream.replay import Replay

    return Replay(
        run,
        recording_file(arguments.replay, arguments.data_dir),
        _speed(arguments.speed),
        arguments.start,
        arguments.stop,
        tolerance=arguments.tolerance or 0.0,
        max_gap=arguments.max_gap,
    )


def _sinks(decoder: StreamingDecoder, source: Any, arguments: argparse.Namespace) -> list[Sink]:
    """The sinks that the arguments name, and the terminal."""
    from bci_decode.realtime.stream.recorder import Recorder
    from bci_decode.realtime.stream.terminal import Terminal

    sinks: list[Sink] = []
    if arguments.lsl_out:  # the first one: others wait for its bins
        from bci_decode.realtime.interfaces.lsl import LslOutlet

        sinks.append(LslOutlet(arguments.lsl_out, decoder))
    if arguments.page is not None:
        from bci_decode.realtime.interfaces.page import PageSink

        page = PageSink(decoder, arguments.host or "127.0.0.1", arguments.page)
        log.info("live page: %s", page.url)
        sinks.append(page)
    sinks.append(Terminal(decoder.axes, decoder.unit))
    if arguments.record:
        binner = getattr(source, "binner", None)  # a source of counts has none
        recorder = Recorder(
            arguments.record,
            decoder.units,
            decoder.bin_width,
            lag=decoder.lag,
            target=decoder.target,
            from_counts=binner is None,
        )
        if binner is not None:
            binner.on_events = recorder.events
        sinks.append(recorder)
    return sinks


def _about(source: Any) -> dict[str, Any]:
    """What the report says of the source."""
    from bci_decode.runs.folder import file_stat

    dropped = {"dropped": source.binner.dropped} if hasattr(source, "binner") else {}
    if not hasattr(source, "session"):
        return {"session": source.name, **dropped}
    return {
        "session": source.session.name,
        "data": file_stat(source.session.path),
        "speed": "max" if math.isinf(source.speed) else source.speed,
        "overlaps": source.overlaps,  # parts that the run learned from
        **dropped,
    }


def _speed(text: str) -> float:
    """A speed of replay: a number above 0, or "max"."""
    try:
        speed = math.inf if text == "max" else float(text)
    except ValueError:
        speed = math.nan
    if not speed > 0:
        remedy = "give a number above 0, or max"
        raise BciDecodeError(f"is {text!r}", field="--speed", remedy=remedy)
    return speed


def _warm_up(decoder: StreamingDecoder) -> None:
    import numpy as np

    decoder.predict(np.zeros((WARM_UP, len(decoder.units))))
    decoder.reset()


if __name__ == "__main__":
    run_cli(main)
