"""The command `bci-decode stream`: scores of `evaluate`, files, signals and bad input."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from recordings import ROOT, recording, write_mat73
from streams import files_of_at_most, other_recording, small_run

import bci_decode
from bci_decode import cli
from bci_decode.data.session import read_session
from bci_decode.errors import BciDecodeError
from bci_decode.realtime.stream.options import check_counts
from bci_decode.realtime.stream.recorder import journal_of, recover
from bci_decode.runs.figures import read_predictions
from bci_decode.runs.load import load_run
from bci_decode.stream import folder_name


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("stream")


@pytest.fixture(scope="module")
def run(home) -> Path:
    return small_run(home, "data.lag=0.05")


@pytest.fixture(scope="module")
def own(run, home) -> Path:
    (file,) = (home / "data").glob("simulated*.mat")
    return file


@pytest.fixture(scope="module")
def other(home) -> Path:
    return other_recording(home)


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the console command with its words; gives exit code, output and errors."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bci-decode", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return call


def r2_lines(output: str) -> list[tuple[str, str]]:
    return re.findall(r"^(x|y|mean) +(-?[\d.]+)", output, re.MULTILINE)


@pytest.mark.parametrize("which", ["own", "other", "range"])
def test_r2_has_the_digits_of_evaluate(run, own, other, which, command, tmp_path):
    file = other if which == "other" else own
    start = read_session(file).t[0] + 5
    limits = ["--start", start, "--stop", start + 20] if which == "range" else []
    code, output, _ = command(
        "stream", run, "--replay", file, "--speed", "max", *limits, "--output", tmp_path / "out"
    )
    assert code == 0
    _, evaluated, _ = command("evaluate", run, "--session", file, *limits, "--output", tmp_path)
    assert r2_lines(output) == r2_lines(evaluated) and len(r2_lines(output)) == 3
    assert output.splitlines()[0] == evaluated.splitlines()[0]
    assert "no deadlines at full speed" in output and "no event dropped" in output


def test_the_files_of_a_stream(run, other, command):
    code, output, errors = command("stream", run, "--replay", other, "--speed", "max")
    folder = run / "streams" / "other"
    assert code == 0, errors
    names = ["latency.png", "predictions.npz", "stream.json", "trajectory.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    report = json.loads((folder / "stream.json").read_text())
    expected = load_run(run).predictions(other)
    saved = read_predictions(folder / "predictions.npz")
    np.testing.assert_array_equal(saved["true"], expected["true"])
    np.testing.assert_allclose(saved["decoded"], expected["decoded"], rtol=0, atol=1e-3)
    with np.load(folder / "predictions.npz") as file:
        assert report["bins"] == len(file["latency"]) == len(expected["time"])
    assert report["version"] == bci_decode.__version__ and report["error"] is None
    assert datetime.fromisoformat(report["started"]).tzinfo is not None
    assert [report[key] for key in ("tolerance", "max_gap", "on_jump")] == [0.0, 0.1, "reset"]
    assert report["speed"] == "max" and report["deadline_s"] is None and not report["interrupted"]
    assert list(report["latency_us"]) == ["p50", "p95", "p99", "max"]
    for name, value in report["latency_us"].items():
        assert f"{name} {value:.0f} us" in output


def test_a_paced_stream_has_deadlines(run, other, command, tmp_path):
    start = read_session(other).t[0]
    words = ["--replay", other, "--speed", "20", "--stop", start + 8, "--output", tmp_path]
    code, output, _ = command("stream", run, *words, "--figures", "svg", "--tolerance", "0.1")
    assert code == 0
    assert re.search(r"deadline 3.2 ms: missed by \d+ of 125 bins", output)
    assert (tmp_path / "latency.svg").exists() and (tmp_path / "trajectory.svg").exists()


def test_a_gap_is_counted(run, command, tmp_path):
    variables = recording(channels=2)
    variables["t"][1500:] += 3.0
    file = write_mat73(tmp_path / "gap.mat", variables)
    words = ["stream", run, "--replay", file, "--speed", "max", "--output", tmp_path / "out"]
    assert "gaps in the stream: 1" in command(*words, "--on-jump", "reset")[1]
    reset = read_predictions(tmp_path / "out" / "predictions.npz")["decoded"]
    assert "gaps" not in command(*words, "--max-gap", "4", "--on-jump", "reset")[1]
    kept = read_predictions(tmp_path / "out" / "predictions.npz")["decoded"]
    changed = np.flatnonzero((reset != kept).any(axis=1))
    assert changed.size and changed[0] >= 1500 // 16


def started(run: Path, file: Path, record: Path) -> subprocess.Popen:
    """A process that streams in real time, once it has recorded something."""
    words = ["stream", run, "--replay", file, "--record", record, "--output", record.parent / "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bci_decode.cli", *map(str, words)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    journal = journal_of(record)
    while not (journal.exists() and journal.stat().st_size > 4000):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    return process


def assert_beginning(recorded: Path, run: Path, file: Path) -> int:
    """The recording has the first bins of the file; returns how many."""
    loaded = load_run(run)
    whole, part = loaded.bin(file), loaded.bin(recorded)
    keys = ["channel", "row"]
    places = whole.units.reset_index().merge(part.units.reset_index(), left_on=keys, right_on=keys)
    columns, mine = places["index_x"], places["index_y"]
    bins = len(part.counts)
    np.testing.assert_array_equal(part.counts[:, mine], whole.counts[:bins, columns])
    assert part.counts.sum() == whole.counts[:bins].sum() > 0
    return bins


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_two_signals_print_the_summary_and_keep_the_recording(run, other, tmp_path, number):
    """Programs that start others often send a signal twice."""
    process = started(run, other, tmp_path / "live.mat")
    process.send_signal(number)
    time.sleep(0.05)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    first = output.splitlines()[0]
    assert first.startswith("other: ") and first.endswith("; stopped by a signal")
    assert "latency of a bin: p50" in output and f"recorded {tmp_path / 'live.mat'}" in output
    bins = assert_beginning(tmp_path / "live.mat", run, other)
    assert f" {bins} bins" in first
    assert json.loads((tmp_path / "out" / "stream.json").read_text())["bins"] == bins
    assert sorted(path.name for path in tmp_path.iterdir()) == ["live.mat", "out"]


def test_a_closed_output_ends_no_stream(run, other, tmp_path):
    """As with `2>&1 | head -1`."""
    reader, writer = os.pipe()
    words = ["stream", run, "--replay", other, "--speed", "max", "--output", tmp_path / "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bci_decode.cli", *map(str, words)],
        cwd=ROOT, stdout=writer, stderr=writer, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.close(reader)
    os.close(writer)
    assert process.wait(60) == 0
    report = json.loads((tmp_path / "out" / "stream.json").read_text())
    assert report["bins"] == len(load_run(run).predictions(other)["time"])


def test_a_full_disk_ends_the_stream_with_a_report(run, other, command, tmp_path):
    words = ["--speed", "max", "--record", tmp_path / "live.mat", "--output", tmp_path / "out"]
    with files_of_at_most(120_000):
        code, output, errors = command("stream", run, "--replay", other, *words)
    assert code == 2 and "live.mat.journal: cannot be written (File too large)" in errors
    report = json.loads((tmp_path / "out" / "stream.json").read_text())
    assert 0 < report["bins"] < 400 and "File too large" in report["error"]
    assert output.splitlines()[0].endswith("; stopped by an error")
    recovered = recover(tmp_path / "live.mat")
    assert recovered is not None and assert_beginning(recovered, run, other) > 4


def test_a_killed_process_loses_its_last_second_at_most(run, other, tmp_path):
    process = started(run, other, tmp_path / "live.mat")
    process.kill()
    process.communicate()
    assert not (tmp_path / "live.mat").exists()
    recovered = recover(tmp_path / "live.mat")
    assert recovered is not None and assert_beginning(recovered, run, other) > 4


def bad_words(home: Path, other: Path) -> dict[str, tuple[list, str]]:
    (home / "empty.mat").write_bytes(b"")
    (home / "text.mat").write_text("no session")
    (home / "nothing").mkdir(exist_ok=True)
    replay = ["--replay", other, "--speed", "max"]
    return {
        "missing file": (["--replay", home / "absent.mat"], "absent.mat: no such file"),
        "empty file": (["--replay", home / "empty.mat"], "empty.mat: is empty"),
        "no session": (["--replay", home / "text.mat"], "text.mat: is not a MATLAB file"),
        "no source": ([], "no source is named; give one: --replay"),
        "speed 0": (["--replay", other, "--speed", "0"], "speed: is 0; give 0.001 to 1000, or max"),
        "speed nan": (["--replay", other, "--speed", "nan"], "speed: is nan"),
        "speed text": (["--replay", other, "--speed", "fast"], "--speed: is 'fast'"),
        "negative speed": (["--replay", other, "--speed=-1"], "speed: is -1"),
        "slow": (["--replay", other, "--speed", "1e-300"], "speed: is 1e-300; give 0.001 to"),
        "long tolerance": ([*replay, "--tolerance", "1e9"], "tolerance: is 1000000000.0 s; give 0"),
        "empty output": ([*replay, "--output", ""], "--output: is empty; give a name, or omit it"),
        "empty stream": ([*replay, "--lsl-out", ""], "--lsl-out: is empty"),
        "output": ([*replay, "--output", home / "text.mat" / "x"], "x: cannot be made (Not a dir"),
        "port": ([*replay, "--page", "65536"], "--page: is 65536; give a port from 0 to 65535"),
        "no place": ([*replay, "--record", "/proc/x.mat"], "/proc: cannot be written"),
        "engine": ([*replay, "--engine", "abacus"], "engine: is 'abacus'"),
        "tolerance": ([*replay, "--tolerance", "nan"], "tolerance: is nan s"),
        "max gap": ([*replay, "--max-gap", "0"], "max_gap: is 0.0 s"),
        "range": ([*replay, "--start", "1e9"], "fewer than two bins lie from"),
        "record": ([*replay, "--record", home / "text.mat"], "text.mat: exists already"),
        "record no .mat": ([*replay, "--record", home / "x.csv"], "is not the name of a session"),
    }


def test_bad_input_is_one_line(run, home, other, command):
    for name, (words, problem) in bad_words(home, other).items():
        code, output, errors = command("stream", run, *words)
        assert code == 2 and output == "", name
        assert errors.count("\n") == 1 and errors.startswith("error: "), (name, errors)
        assert problem in errors, (name, errors)
    for folder in (home / "nothing", home / "absent"):
        code, _, errors = command("stream", folder, "--replay", other)
        assert code == 2 and "no such run, or it has no best.pt" in errors


def test_a_recording_of_other_units_is_refused(run, tmp_path, command):
    variables = recording(channels=2)
    variables["chan_names"] = np.array([["S1 001"], ["S1 002"]], dtype=object)
    file = write_mat73(tmp_path / "foreign.mat", variables)
    code, _, errors = command("stream", run, "--replay", file, "--speed", "max")
    assert code == 2 and errors.count("\n") == 1 and "units is in it" in errors


def test_live_streams_of_one_name_have_a_folder_each():
    started, source = datetime(2026, 3, 4, 5, 6, 7), SimpleNamespace(name="lab/1")
    assert folder_name(source, started) == "lab_1_2026-03-04_05-06-07"


def test_options_of_spikes_are_refused_for_counts():
    check_counts(SimpleNamespace(tolerance=None, max_gap=2.0))
    with pytest.raises(
        BciDecodeError, match="^--tolerance: has no effect; remove it, or send spikes"
    ):
        check_counts(SimpleNamespace(tolerance=0.1, max_gap=2.0))
