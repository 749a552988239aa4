"""Run a trained decoder live: `bci-decode stream RUN --replay FILE --speed 1|10|max`."""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bci_decode.errors import BciDecodeError, run_cli

if TYPE_CHECKING:
    from bci_decode.realtime.bins import Sink
    from bci_decode.realtime.decoder import StreamingDecoder
    from bci_decode.runs.load import LoadedRun

SOURCES = ("replay",)  # options that name a source; a stream has one
WARM_UP = 20  # bins; the first ones compile kernels and fill caches


def main() -> None:
    """Run a trained decoder live, bin by bin.

    With --replay, a recording comes as live spike events, at its own speed, ten times as fast or
    without waiting. Without a range, the session that the run was trained on is replayed in its
    test part alone; R2 then equals that of `bci-decode evaluate`. A bin misses its deadline if it
    is decoded after the end of the next bin.

    Ctrl-C and SIGTERM end a stream as its own end does: the summary is printed, all files are
    written, and the exit code is 0. Writes stream.json, predictions.npz and figures of trajectory
    and latency, by default into RUN/streams/<session>.
    """
    arguments = _parse_args()
    import torch

    from bci_decode.realtime.decoder import StreamingDecoder
    from bci_decode.realtime.loop import run_live
    from bci_decode.realtime.report import report_text, stream_report, write_stream
    from bci_decode.realtime.terminal import LineHandler
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
    folder = arguments.output or run.folder / "streams" / report["session"]
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
    option("--engine", default="fast", help="fast (default), torch or onnx")
    option(
        "--tolerance", type=float, default=0.0, metavar="S",
        help="s that a bin waits for late spikes (default: 0)",
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


def _check_source(arguments: argparse.Namespace) -> None:
    """Refuse a command with no source, or with several."""
    named = [name for name in SOURCES if getattr(arguments, name) is not None]
    if len(named) != 1:
        options = " or ".join("--" + name.replace("_", "-") for name in SOURCES)
        problem = "two sources are named" if named else "no source is named"
        raise BciDecodeError(problem, remedy=f"give one: {options}")


def _source(run: LoadedRun, arguments: argparse.Namespace) -> Any:
    """The source that the arguments name."""
    from bci_decode.cli import recording_file
    from bci_decode.realtime.replay import Replay

    return Replay(
        run,
        recording_file(arguments.replay, arguments.data_dir),
        _speed(arguments.speed),
        arguments.start,
        arguments.stop,
        tolerance=arguments.tolerance,
        max_gap=arguments.max_gap,
    )


def _sinks(decoder: StreamingDecoder, source: Any, arguments: argparse.Namespace) -> list[Sink]:
    """The sinks that the arguments name, and the terminal."""
    from bci_decode.realtime.recorder import Recorder
    from bci_decode.realtime.terminal import Terminal

    sinks: list[Sink] = [Terminal(decoder.axes, decoder.unit)]
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

    return {
        "session": source.session.name,
        "data": file_stat(source.session.path),
        "speed": "max" if math.isinf(source.speed) else source.speed,
        "overlaps": source.overlaps,  # parts that the run learned from
        "dropped": source.binner.dropped,
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
