"""A recorded stream is a session file: the same bins and counts again, also after a kill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from live_runs import made_run

from bci_decode.data.binning import BinnedSession, bin_session
from bci_decode.data.inspection import inspect, report_text
from bci_decode.data.session import read_session
from bci_decode.data.simulate import simulated_file
from bci_decode.errors import BciDecodeError
from bci_decode.realtime.bins import Bin, Decoded
from bci_decode.realtime.decoder import StreamingDecoder
from bci_decode.realtime.stream import journal
from bci_decode.realtime.stream.binner import SpikeBinner
from bci_decode.realtime.stream.journal import read_journal
from bci_decode.realtime.stream.loop import run_live
from bci_decode.realtime.stream.recorder import Recorder, journal_of, lock_of, recover
from bci_decode.realtime.stream.recording import even_events
from bci_decode.realtime.stream.replay import MAX_SPEED, Replay

SETTINGS = {
    "plain": [],
    "late hand": ["data.lag=0.1", "data.units=sorted"],
    "early hand": ["data.lag=-0.1", "data.delay=0.03", "data.bin_width=0.05"],
    "wide bins": ["data.bin_width=0.3", "data.window.length=8", "data.window.burn_in=2"],
    "presence": ["data.presence=0.016", "data.units=merged"],
    "position": ["data.target=position"],
}


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recorder")
    return simulated_file(folder / "own.mat", seed=1, minutes=1.0, channels=12)


def decoder_of(file: Path, name: str, *words: str) -> StreamingDecoder:
    source = ("session=local", f"session.path={file}")
    run = made_run(file.parent / name, read_session(file), "model=wiener", *source, *words)
    return StreamingDecoder(run, "torch")


def recorded(decoder, source, path: Path, **settings) -> Path:
    """Run a stream that is recorded, and the recording's path."""
    about = {"lag": decoder.lag, "target": decoder.target}
    recorder = Recorder(path, source.units, decoder.bin_width, **about, **settings)
    if not settings:
        source.binner.on_events = recorder.events
    run_live(decoder, source, [recorder])
    assert sorted(path.parent.glob(path.stem + "*")) == [path], "nothing else is left"
    return path


def assert_same_counts(again: BinnedSession, counts: np.ndarray, units: pd.DataFrame) -> None:
    """Counts (T, N) of `units` are those of a recording, which has no units that never fired."""
    keys = [["channel", "row"], ["channel", "row"]]
    places = units.reset_index().merge(again.units.reset_index(), left_on=keys[0], right_on=keys[1])
    silent = np.setdiff1d(np.arange(len(units)), places["index_x"])
    assert counts[:, silent].sum() == 0
    np.testing.assert_array_equal(again.counts[:, places["index_y"]], counts[:, places["index_x"]])


@pytest.mark.parametrize("settings", list(SETTINGS))
def test_a_recorded_replay_has_the_same_bins_counts_and_movement(settings, file, tmp_path):
    decoder = decoder_of(file, settings, *SETTINGS[settings])
    limits = {"start": read_session(file).t[0] + 10.1, "stop": read_session(file).t[0] + 30}
    source = Replay(decoder, file, MAX_SPEED, **limits)
    path = recorded(decoder, source, tmp_path / "live.mat")
    original = decoder.run.bin(file)
    expected = decoder.run.predictions(file, **limits)
    chosen = np.isin(original.edges[1:], expected["time"])
    again = decoder.run.bin(path)
    assert_same_counts(again, original.counts[chosen], original.units)
    np.testing.assert_allclose(again.edges[1:], expected["time"], rtol=0, atol=1e-9)
    error = again.kinematics - expected["true"]
    assert abs(error).max() < 0.05 * expected["true"].std()
    assert "channels" in report_text(read_session(path), inspect(read_session(path)))


def test_a_window_of_counts_is_the_same_once_it_is_full(file, tmp_path):
    decoder = decoder_of(file, "window", "data.count_window=0.32")
    source = Replay(decoder, file, MAX_SPEED, start=read_session(file).t[0] + 10)
    path = recorded(decoder, source, tmp_path / "live.mat")
    original, again = decoder.run.bin(file), decoder.run.bin(path)
    expected = original.counts[-len(again.counts) :]
    for binned in (original, again):
        assert binned.counts.any()
    units = original.units
    later = type(again)(**vars(again) | {"counts": again.counts[4:]})
    assert_same_counts(later, expected[4:], units)


class Moving:
    """A source of counts (T, N) without known movement."""

    def __init__(self, counts, units, width=0.064):
        self.counts, self.units, self.bin_width = counts, units, width

    def __iter__(self):
        for number, counts in enumerate(self.counts):
            yield Bin(number, 50 + (number + 1) * self.bin_width, counts)

    def close(self):
        pass


def test_counts_without_times_are_recorded_evenly(file, tmp_path):
    decoder = decoder_of(file, "plain")
    counts = np.random.default_rng(0).poisson(1.5, (80, len(decoder.units)))
    source = Moving(counts, decoder.units)
    path = recorded(decoder, source, tmp_path / "live.mat", from_counts=True)
    session = read_session(path)
    assert np.isnan(session.finger_pos).all() and np.isnan(session.target_pos).all()
    with pytest.raises(BciDecodeError, match=r"try data.source=cursor_pos"):
        decoder.run.bin(session)
    replayed = list(Replay(decoder, path, MAX_SPEED))  # of unknown truth
    assert len(replayed) == 80 and sum(found.counts.sum() for found in replayed) == counts.sum()
    again = decoder.run.config.binning_kwargs() | {"source": "cursor_pos"}
    binned = bin_session(session, **again)
    assert_same_counts(binned, counts, decoder.units)
    decoder.reset()
    np.testing.assert_allclose(binned.kinematics, decoder.predict(counts), rtol=0, atol=1e-6)


def test_even_events():
    times, columns = even_events(np.array([2, 0, 1]), 1.0, 2.0)
    assert times.tolist() == [1.25, 1.75, 1.5] and columns.tolist() == [0, 0, 2]
    assert len(even_events(np.zeros(3), 1.0, 2.0)[0]) == 0


UNITS = pd.DataFrame({"channel": ["M1 001", "M1 001"], "area": "M1", "row": [0, 2]})


def written(recorder, bins) -> None:
    for bin_ in bins:
        recorder.write(Decoded(bin_, np.ones(2), 0.0))


def test_a_restarted_clock_goes_on_in_the_recording(tmp_path):
    path = tmp_path / "live.mat"
    binner, recorder = SpikeBinner(2, 0.1, start=50.0), Recorder(path, UNITS, 0.1)
    binner.on_events = recorder.events
    for start in (50.005, 3.005, 9.005):
        for time in start + 0.01 * np.arange(100):
            written(recorder, binner.add([time], [1]))
    written(recorder, binner.flush())
    recorder.close()
    session = read_session(path)
    assert session.units["row"].tolist() == [2]
    (times,) = session.spike_times
    assert len(times) == 300 and (np.diff(times) > 0.009).all()
    assert times[100] == pytest.approx(51.005) and times[200] == pytest.approx(57.005)
    steps = np.diff(session.t)
    assert steps.min() > 0.003 and (steps > 1).sum() == 1, "only the jump forward leaves a gap"


def test_what_a_killed_stream_wrote_is_recovered(tmp_path, caplog):
    """Its journal ends within a record, and no lock is held."""
    path = tmp_path / "live.mat"
    recorder = Recorder(path, UNITS, 0.1)
    for number in range(20):
        recorder.events(np.array([number * 0.1 + 0.05]), np.array([0]))
        written(recorder, [Bin(number, (number + 1) * 0.1, np.array([1, 0]))])
    recorder._journal._file.flush()
    content = journal_of(path).read_bytes()
    recorder.close()
    path.unlink()
    journal_of(path).write_bytes(content[:-5])
    again = Recorder(path, UNITS, 0.1)
    assert "live_recovered.mat" in caplog.text
    session = read_session(tmp_path / "live_recovered.mat")
    assert len(session.spike_times[0]) == 20
    assert session.t[0] == pytest.approx(0.0) and session.t[-1] == pytest.approx(1.9)
    written(again, [Bin(0, 0.1, np.array([0, 0]))])
    again.close()
    assert path.exists()
    journal_of(path).write_bytes(content)
    assert recover(path) == tmp_path / "live_recovered1.mat"
    assert recover(path) is None


def test_the_journal_is_handed_to_the_system_regularly(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "EVERY", 0.0)
    recorder = Recorder(tmp_path / "live.mat", UNITS, 0.1)
    for number in range(3):
        written(recorder, [Bin(number, (number + 1) * 0.1, np.array([1, 0]))])
        assert len(read_journal(journal_of(tmp_path / "live.mat"))[2]) == number + 1
    recorder.close()


def test_a_stream_without_bins_leaves_no_file(tmp_path, caplog):
    recorder = Recorder(tmp_path / "live.mat", UNITS, 0.1)
    recorder.close()
    recorder.close()
    assert list(tmp_path.iterdir()) == [] and "no bin was recorded" in caplog.text


def test_bins_that_come_in_bursts_are_recorded(tmp_path):
    """A sender that stamps ten bins as it sends them: most steps are much shorter than a bin."""
    recorder = Recorder(tmp_path / "live.mat", UNITS, 0.1, from_counts=True)
    for number in range(100):
        time = 50.0 + number // 10 + 0.0001 * (number % 10)
        recorder.write(Decoded(Bin(number, time, np.array([1, 2])), np.zeros(2), 0.001, False))
    recorder.close()
    assert sum(map(len, read_session(tmp_path / "live.mat").spike_times)) == 300


def test_units_that_no_session_file_holds_are_refused_first(tmp_path):
    many = UNITS.assign(row=[0, 100_000])
    with pytest.raises(BciDecodeError, match="no recording can hold these units"):
        Recorder(tmp_path / "live.mat", many, 0.1)
    assert not journal_of(tmp_path / "live.mat").exists()


def test_acceleration_has_no_path(tmp_path):
    recorder = Recorder(tmp_path / "live.mat", UNITS, 0.1, target="acceleration")
    written(recorder, [Bin(0, 0.1, np.array([1, 0]))])
    recorder.close()
    assert np.isnan(read_session(tmp_path / "live.mat").cursor_pos).all()


def test_no_recording_is_overwritten_or_shared(tmp_path):
    (tmp_path / "old.mat").write_text("precious")
    with pytest.raises(BciDecodeError, match=r"old.mat: exists already; choose another name"):
        Recorder(tmp_path / "old.mat", UNITS, 0.1)
    with pytest.raises(BciDecodeError, match="is not the name of a session; a session file ends"):
        Recorder(tmp_path / "new.txt", UNITS, 0.1)
    with pytest.raises(BciDecodeError, match="no such folder"):
        Recorder(tmp_path / "absent" / "new.mat", UNITS, 0.1)
    with (
        FileLock(tmp_path / "new.mat.lock"),
        pytest.raises(BciDecodeError, match="another stream records it"),
    ):
        Recorder(tmp_path / "new.mat", UNITS, 0.1)
    foreign = tmp_path / "new.mat.journal"
    foreign.write_text("something else")
    with pytest.raises(BciDecodeError, match=r"new.mat.journal: is no journal of a stream"):
        Recorder(tmp_path / "new.mat", UNITS, 0.1)
    with pytest.raises(BciDecodeError, match="is no journal"):
        read_journal(foreign)
    assert foreign.read_text() == "something else"


def left_by_a_kill(path: Path, bins: int = 20) -> bytes:
    """Write a journal as a killed stream leaves it; returns its content."""
    recorder = Recorder(path, UNITS, 0.1)
    for number in range(bins):
        written(recorder, [Bin(number, (number + 1) * 0.1, np.array([1, 0]))])
    recorder._journal._file.flush()
    content = journal_of(path).read_bytes()
    recorder.close()
    path.unlink()
    journal_of(path).write_bytes(content)
    return content


@pytest.mark.parametrize(
    "tail",
    [bytes(100), b"B" + bytes(99), b"E\x05\0\0\0" + bytes(99)],
    ids=["zeros", "empty bin", "part of an event"],
)
def test_a_damaged_tail_is_left_out(tail, tmp_path):
    journal = journal_of(tmp_path / "live.mat")
    content = left_by_a_kill(tmp_path / "live.mat")
    journal.write_bytes(content + tail)
    assert len(read_journal(journal)[2]) == 20


@pytest.mark.parametrize("header", [b"{bad", b"[]", b"{}", b"\xff\0"])
def test_a_damaged_header_is_one_line(header, tmp_path):
    journal = journal_of(tmp_path / "live.mat")
    content = left_by_a_kill(tmp_path / "live.mat").split(b"\n", 2)
    journal.write_bytes(b"\n".join([content[0], header, content[2]]))
    with pytest.raises(BciDecodeError, match="its header is damaged; move it away"):
        read_journal(journal)


def test_any_recording_in_a_folder_recovers_what_killed_ones_left(tmp_path, caplog):
    content = left_by_a_kill(tmp_path / "killed.mat")
    for name in ("running.mat", "other.mat"):
        journal_of(tmp_path / name).write_bytes(content)
    journal_of(tmp_path / "foreign.mat").write_text("something else")
    caplog.clear()
    with FileLock(lock_of(tmp_path / "running.mat")):
        Recorder(tmp_path / "new.mat", UNITS, 0.1).close()
    recovered = sorted(path.name for path in tmp_path.glob("*.mat"))
    assert recovered == ["killed_recovered.mat", "other_recovered.mat"]
    journals = sorted(path.name for path in tmp_path.glob("*.journal"))
    assert journals == ["foreign.mat.journal", "running.mat.journal"]
    assert caplog.text.count("; recovered as") == 2 and "foreign.mat.journal: is no" in caplog.text


def test_a_folder_that_takes_no_file_is_told_first():
    with pytest.raises(
        BciDecodeError, match=r"^/proc: cannot be written \(.*; choose another place"
    ):
        Recorder("/proc/x.mat", UNITS, 0.1)
