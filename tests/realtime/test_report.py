"""The line in the terminal, the report of a stream, and files without known truth."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from live_runs import made_run

from bci_decode.data.session import read_session
from bci_decode.data.simulate import simulated_file
from bci_decode.errors import BciDecodeError
from bci_decode.realtime.bins import Bin, Decoded
from bci_decode.realtime.decoder import StreamingDecoder
from bci_decode.realtime.stream.loop import LiveSummary
from bci_decode.realtime.stream.report import report_text, stream_report, write_stream
from bci_decode.realtime.stream.terminal import LineHandler, Terminal


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> StreamingDecoder:
    home = tmp_path_factory.mktemp("report")
    file = simulated_file(home / "own.mat", seed=1, minutes=1.0, channels=12)
    words = ("model=wiener", "session=local", f"session.path={file}")
    return StreamingDecoder(made_run(home / "run", read_session(file), *words), "torch")


def summary_of(bins: int, true: np.ndarray | float = np.nan, **changes) -> LiveSummary:
    latency = np.linspace(50e-6, 149e-6, bins)
    fields = {
        "index": np.arange(bins), "time": 10 + 0.064 * np.arange(1, bins + 1), "latency": latency,
        "missed": latency > 140e-6, "decoded": np.ones((bins, 2)),
        "true": np.broadcast_to(true, (bins, 2)), "deadline": 140e-6, "jumps": 0,
        "interrupted": False,
    }  # fmt: skip
    return LiveSummary(**fields | changes)


def test_a_stream_of_unknown_truth_has_no_score_and_no_path(decoder, tmp_path):
    summary = summary_of(100)
    report = stream_report(decoder, summary, {"session": "lab", "dropped": {"late": 2}})
    units = len(decoder.units)
    assert report_text(report).splitlines() == [
        f"lab: 100 bins, 10.0 to 16.4 s; {units} of {units} units",
        "latency of a bin: p50 100 us, p95 144 us, p99 148 us, max 149 us",
        "deadline 0.14 ms: missed by 9 of 100 bins",
        "2 events dropped: 2 late",
    ]
    names = write_stream(tmp_path, decoder, summary, report, "png")
    assert names == ["stream.json", "predictions.npz", "latency.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert json.loads((tmp_path / "stream.json").read_text()) == report


def test_bins_of_unknown_truth_are_left_out_of_the_score(decoder, tmp_path):
    true = np.random.default_rng(0).normal(size=(100, 2))
    whole = stream_report(decoder, summary_of(60, true[:60]), {})
    true[60:, 1] = np.nan
    summary = summary_of(100, true)
    part = stream_report(decoder, summary, {})
    assert part["scores"] == whole["scores"] and part["bins"] == 100
    assert "trajectory.png" in write_stream(tmp_path, decoder, summary, part, "png")


def test_the_engine_that_ran_and_the_error_are_reported(decoder):
    report = stream_report(decoder, summary_of(9, error=BciDecodeError("the disk is full")), {})
    assert report["error"] == "the disk is full" and report["engine"] == "torch"
    assert report_text(report).splitlines()[0].endswith("; stopped by an error")


def test_a_stream_that_ends_before_its_first_bin_is_told(decoder, tmp_path):
    report = stream_report(decoder, summary_of(0, interrupted=True), {"session": "lab"})
    assert report_text(report) == "lab: ended before the first bin"
    names = write_stream(tmp_path / "new", decoder, summary_of(0), report, "png")
    assert names == ["stream.json", "predictions.npz"]


@contextlib.contextmanager
def terminal(monkeypatch) -> Iterator[int]:
    """A pseudo-terminal as standard error; the file descriptor reads what it shows."""
    reader, writer = os.openpty()
    with open(writer, "w") as stream, monkeypatch.context() as patch:
        patch.setattr("sys.stderr", stream)
        yield reader
    os.close(reader)


def wait_and_write(sink: Terminal, number: int) -> None:
    sink._due = 0.0  # as if it was long ago
    found = Bin(number, 0.064 * (number + 1), np.zeros(2))
    sink.write(Decoded(found, np.array([1.25, -30.0]), 45e-6, number % 2 == 0))


def test_a_terminal_shows_one_line(monkeypatch):
    with terminal(monkeypatch) as reader:
        sink = Terminal(("x", "y"), "mm/s")
        for number in range(3):
            wait_and_write(sink, number)
            sink.write(Decoded(Bin(99, 0.0, np.zeros(2)), np.zeros(2), 0.0))  # too soon
        LineHandler().emit(logging.makeLogRecord({"msg": "a log line"}))
        sink.close()
        before, *lines = os.read(reader, 65536).decode().split("\r\x1b[K")
    assert lines[0] == "bin 1  0.06 s  x      1.2  y    -30.0 mm/s  latency 45 us  missed 1"
    assert [line.split("  ")[0] for line in lines[:3]] == ["bin 1", "bin 2", "bin 3"]
    assert lines[2].endswith("missed 2") and lines[3].startswith("a log line")
    assert len(lines) == 4 and before == ""


def test_a_file_gets_whole_lines(capsys):
    sink = Terminal(("x", "y"), "mm/s")
    wait_and_write(sink, 0)
    wait_and_write(sink, 1)
    sink.close()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["bin 1", "bin 2"]


def test_a_closed_error_stream_ends_nothing(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    stream = open(writer, "w")  # noqa: SIM115, closed below
    monkeypatch.setattr("sys.stderr", stream)
    sink = Terminal(("x", "y"), "mm/s")
    for number in range(2):
        wait_and_write(sink, number)
    sink.close()
    with contextlib.suppress(BrokenPipeError):
        stream.close()
    wait_and_write(Terminal(("x", "y"), "mm/s"), 0)
    monkeypatch.setattr("sys.stderr", None)
    wait_and_write(Terminal(("x", "y"), "mm/s"), 0)
    LineHandler().emit(logging.makeLogRecord({"msg": "a log line"}))


def test_the_output_folder_may_be_impossible(decoder, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BciDecodeError, match="cannot be made .*; choose another --output"):
        write_stream(tmp_path / "file" / "x", decoder, summary_of(3), {"run": "r"}, "png")
