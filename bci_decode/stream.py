"""Run a trained decoder live: `bci-decode stream RUN --replay FILE`, or `--lsl-in NAME`."""

from __future__ import annotations

import logging
import math
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bci_decode import __version__
from bci_decode.errors import run_cli

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    import argparse

    from bci_decode.realtime.bins import Sink
    from bci_decode.realtime.decoder import StreamingDecoder
    from bci_decode.realtime.stream.loop import LiveSummary
    from bci_decode.realtime.stream.stopping import StopSign
    from bci_decode.runs.loaded_run import LoadedRun

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
    written, and the exit code is 0. A second one within a second changes nothing, a later one ends
    the command at once. Before the first bin, while the run and the source are loaded, they end
    the command with "interrupted" and code 130, or "terminated" and 143. An error in mid-stream
    ends it too: all is written, then the error is printed, and the exit code is 2.

    Writes stream.json, predictions.npz and figures of trajectory and latency, by default into
    RUN/streams/<session> or RUN/streams/<stream>_<date>_<time>.
    """
    from bci_decode.realtime.stream.options import stream_parser
    from bci_decode.realtime.stream.stopping import stop_sign

    arguments = stream_parser(main.__doc__).parse_args()
    with stop_sign() as sign:
        sign.waiting = True  # until the first bin, a signal ends the command
        _stream(arguments, sign)


def _stream(arguments: argparse.Namespace, sign: StopSign) -> None:
    from bci_decode.realtime.stream.options import check_options

    check_options(arguments)
    import torch

    from bci_decode.files import made_folder
    from bci_decode.realtime.decoder import StreamingDecoder
    from bci_decode.realtime.stream.loop import run_live
    from bci_decode.realtime.stream.terminal import LineHandler
    from bci_decode.runs.load import load_run

    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[LineHandler()])
    torch.set_num_threads(1)  # more gain nothing for one stream
    run = load_run(arguments.run, trust=tuple(arguments.trust))
    if arguments.output is not None:
        made_folder(arguments.output, "choose another --output")
    source = _source(run, arguments)
    decoder = StreamingDecoder(run, arguments.engine, source.units)
    _warm_up(decoder)
    started = datetime.now().astimezone()
    folder = arguments.output or run.folder / "streams" / folder_name(source, started)
    made_folder(folder, "choose another place with --output")
    sign.waiting = False  # from here on a signal ends the stream, not the command
    summary = run_live(decoder, source, _sinks(decoder, source, arguments), arguments.on_jump)
    _write(folder, decoder, summary, _about(source, started, arguments), arguments)


def _write(
    folder: Path,
    decoder: StreamingDecoder,
    summary: LiveSummary,
    about: dict[str, Any],
    arguments: argparse.Namespace,
) -> None:
    """Write all files, print the report in any case, and raise the error that ended the stream."""
    from bci_decode.realtime.stream.report import report_text, stream_report, write_stream

    report, written = stream_report(decoder, summary, about), ""
    try:  # files first: the reader of the output may be gone
        names = write_stream(folder, decoder, summary, report, arguments.figures)
        written = f"wrote {', '.join(names[:-1])} and {names[-1]} to {folder}\n"
    finally:
        if arguments.record and arguments.record.exists():
            written += f"recorded {arguments.record}\n"
        with suppress(OSError):  # nobody reads it, or its disk is full
            print(report_text(report), written, sep="\n", end="", flush=True)
        if summary.error is not None:
            raise summary.error


def file_name(name: str) -> str:
    """The name of a session or stream as that of a folder."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip(".") or "stream"


def folder_name(source: Any, started: datetime) -> str:
    """The folder of a stream; live ones of the same name have one each."""
    if hasattr(source, "session"):
        return file_name(source.session.name)
    return f"{file_name(source.name)}_{started:%Y-%m-%d_%H-%M-%S}"


def _source(run: LoadedRun, arguments: argparse.Namespace) -> Any:
    """The source that the arguments name."""
    from bci_decode.realtime.stream.options import LSL_TOLERANCE, TIMEOUT, check_counts

    if arguments.lsl_in is not None:
        from bci_decode.realtime.interfaces.lsl import check_names, open_lsl

        check_names(arguments.lsl_in, arguments.lsl_out)
        source = open_lsl(
            arguments.lsl_in,
            run,
            TIMEOUT if arguments.timeout is None else arguments.timeout,
            tolerance=LSL_TOLERANCE if arguments.tolerance is None else arguments.tolerance,
            max_gap=arguments.max_gap,
        )
        if not hasattr(source, "binner"):
            check_counts(arguments)
        return source
    from bci_decode.cli import recording_file
    from bci_decode.realtime.stream.replay import Replay

    return Replay(
        run,
        recording_file(arguments.replay, arguments.data_dir or "data"),
        arguments.speed or 1.0,
        arguments.start,
        arguments.stop,
        tolerance=arguments.tolerance or 0.0,
        max_gap=arguments.max_gap,
    )


def _sinks(decoder: StreamingDecoder, source: Any, arguments: argparse.Namespace) -> list[Sink]:
    """The sinks that the arguments name, and the terminal; the last one is closed first."""
    from bci_decode.realtime.stream.recorder import Recorder
    from bci_decode.realtime.stream.terminal import Terminal

    sinks: list[Sink] = []
    if arguments.lsl_out:  # the first one: others wait for its bins
        from bci_decode.realtime.interfaces.lsl import LslOutlet

        sinks.append(LslOutlet(arguments.lsl_out, decoder))
    if arguments.page is not None:
        from bci_decode.realtime.interfaces.page import PageSink

        deadline = getattr(source, "deadline", decoder.bin_width)
        host = arguments.host or "127.0.0.1"
        page = PageSink(decoder, host, arguments.page, deadline=deadline)
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


def _about(source: Any, started: datetime, arguments: argparse.Namespace) -> dict[str, Any]:
    """What the report says of the source and its settings."""
    from bci_decode.runs.folder import file_stat

    binner = getattr(source, "binner", None)
    about: dict[str, Any] = {
        "started": started.isoformat(timespec="seconds"),
        "version": __version__,
        "tolerance": getattr(binner, "tolerance", None),
        "max_gap": getattr(binner, "max_gap", None),
        "on_jump": arguments.on_jump,
    }
    if binner is not None:
        about["dropped"] = binner.dropped
    if not hasattr(source, "session"):
        return about | {"session": source.name}
    return about | {
        "session": source.session.name,
        "data": file_stat(source.session.path),
        "speed": "max" if math.isinf(source.speed) else source.speed,
        "overlaps": source.overlaps,  # parts that the run learned from
    }


def _warm_up(decoder: StreamingDecoder) -> None:
    import numpy as np

    decoder.predict(np.zeros((WARM_UP, len(decoder.units))))
    decoder.reset()


if __name__ == "__main__":
    run_cli(main)
