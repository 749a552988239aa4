"""The loop of live decoding: every bin once, closed at every end, quiet about its memory."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from live_runs import made_run
from streams import files_of_at_most

from bci_decode.data.session import read_session
from bci_decode.data.simulate import simulated_file
from bci_decode.errors import BciDecodeError
from bci_decode.realtime.bins import Bin, Decoded
from bci_decode.realtime.decoder import StreamingDecoder
from bci_decode.realtime.stream.loop import run_live
from bci_decode.realtime.stream.replay import MAX_SPEED, Replay
from bci_decode.realtime.stream.rows import BLOCK, Rows
from bci_decode.realtime.stream.stopping import stop_sign
from bci_decode.runs.loaded_run import LoadedRun


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("loop")
    return simulated_file(folder / "own.mat", seed=1, minutes=1.0, channels=12)


@pytest.fixture(scope="module")
def loaded(file) -> LoadedRun:
    words = ("model=gru", "model.recurrent.hidden_size=8", "session=local", f"session.path={file}")
    return made_run(file.parent / "run", read_session(file), *words)


@pytest.fixture
def decoder(loaded) -> StreamingDecoder:
    return StreamingDecoder(loaded, "torch")


class Counts:
    """A source of given counts (T, N) whose bins `jumped` come after a jump."""

    bin_width = 0.064
    units = None

    def __init__(self, counts, jumped=(), arrived=None):
        self.counts, self.jumped, self.arrived, self.closed = counts, jumped, arrived, 0

    def __iter__(self):
        for number, counts in enumerate(self.counts):
            arrived = 0.0 if self.arrived is None else time.perf_counter() - self.arrived
            end = (number + 1) * self.bin_width
            yield Bin(number, end, counts, None, number in self.jumped, arrived)

    def close(self):
        self.closed += 1


class Kept:
    """A sink that keeps what it gets, and may do something at a bin."""

    def __init__(self, at=None, action=None):
        self.got: list[Decoded] = []
        self.closed, self.at, self.action = 0, at, action

    def write(self, decoded):
        self.got.append(decoded)
        if decoded.bin.index == self.at:
            self.action()

    def close(self):
        self.closed += 1


def some_counts(decoder, bins=40) -> np.ndarray:
    return np.random.default_rng(0).poisson(1.0, (bins, len(decoder.units)))


def test_a_stream_decodes_what_one_pass_does(loaded, decoder, file):
    expected = loaded.predictions(file)
    sinks = [Kept(), Kept()]
    summary = run_live(decoder, Replay(decoder, file, MAX_SPEED), sinks)
    np.testing.assert_allclose(summary.decoded, expected["decoded"], rtol=0, atol=1e-3)
    np.testing.assert_array_equal(summary.true, expected["true"])
    np.testing.assert_array_equal(summary.time, expected["time"])
    assert summary.index.tolist() == list(range(len(expected["time"])))
    assert summary.deadline is None and not summary.missed.any() and summary.jumps == 0
    assert (summary.latency > 0).all() and not summary.interrupted
    assert list(summary.latency_us) == ["p50", "p95", "p99", "max"]
    assert summary.latency_us["max"] == pytest.approx(1e6 * summary.latency.max())
    for sink in sinks:
        assert sink.closed == 1
        np.testing.assert_array_equal([got.output for got in sink.got], summary.decoded)
        assert [got.latency for got in sink.got] == summary.latency.tolist()


@pytest.mark.parametrize("on_jump", ["keep", "reset"])
def test_a_jump_keeps_or_resets_the_state(decoder, caplog, on_jump):
    counts = some_counts(decoder)
    summary = run_live(decoder, Counts(counts, jumped=(15,)), on_jump=on_jump)
    decoder.reset()
    expected = decoder.predict(counts)
    if on_jump == "reset":
        decoder.reset()
        expected[15:] = decoder.predict(counts[15:])
    np.testing.assert_array_equal(summary.decoded, expected)
    assert summary.jumps == 1 and caplog.text.count("a gap in the stream before bin 16") == 1
    assert np.isnan(summary.true).all()


def test_on_jump_has_two_choices(decoder):
    with pytest.raises(BciDecodeError, match="on_jump: is 'stop'; choose keep or reset"):
        run_live(decoder, Counts(some_counts(decoder)), on_jump="stop")


def test_a_bin_that_is_later_than_the_end_of_the_next_misses_its_deadline(decoder):
    counts = some_counts(decoder)
    late = run_live(decoder, Counts(counts, arrived=10.0))
    assert late.missed.all() and late.deadline == 0.064 and (late.latency > 10).all()
    kept = Kept()
    run_live(decoder, Counts(counts), [kept])
    assert all(got.bin.arrived > 0 for got in kept.got), "a source that sets no time gets one"


def test_an_error_ends_the_stream_and_keeps_what_was_decoded(decoder):
    def full():
        raise BciDecodeError("the disk is full")

    source, sinks = Counts(some_counts(decoder)), [Kept(), Kept(3, full), Kept()]
    summary = run_live(decoder, source, sinks)
    assert str(summary.error) == "the disk is full" and len(summary) == 3
    assert source.closed == 1 and [sink.closed for sink in sinks] == [1, 1, 1]
    counts = some_counts(decoder).astype(float)
    counts[5] = np.nan
    source, sink = Counts(counts), Kept()
    summary = run_live(decoder, source, [sink])
    assert "counts: are nan" in str(summary.error) and len(summary) == len(sink.got) == 5
    assert source.closed == sink.closed == 1 and gc.isenabled()


def test_the_last_sink_is_closed_first(decoder):
    closed = []
    sinks = [Kept() for _ in range(3)]
    for number, sink in enumerate(sinks):
        sink.close = lambda number=number: closed.append(number)
    run_live(decoder, Counts(some_counts(decoder, 2)), sinks)
    assert closed == [2, 1, 0]


def test_garbage_collection_waits(decoder):
    states = []
    sink = Kept(5, lambda: states.append((gc.isenabled(), gc.get_freeze_count() > 0)))
    run_live(decoder, Counts(some_counts(decoder)), [sink])
    assert states == [(False, True)]
    assert gc.isenabled() and gc.get_freeze_count() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_stream_after_the_bin(decoder, number):
    before = signal.getsignal(number)
    seen, last = Kept(7, lambda: os.kill(os.getpid(), number)), Kept()
    summary = run_live(decoder, Counts(some_counts(decoder)), [seen, last])
    assert len(summary) == len(last.got) == 8 and summary.interrupted
    assert last.closed == 1 and signal.getsignal(number) == before


def test_a_second_signal_while_sinks_close_changes_nothing(decoder):
    def again():
        os.kill(os.getpid(), signal.SIGTERM)
        closed.append(1)

    closed, sink = [], Kept(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    sink.close = again
    with stop_sign() as sign:
        summary = run_live(decoder, Counts(some_counts(decoder)), [sink])
        assert sign.asked
        os.kill(os.getpid(), signal.SIGTERM)  # while the report is written
    assert closed == [1] and len(summary) == 4 and summary.interrupted


class Silent(Counts):
    """A source that gets Ctrl-C while it waits for input that never comes."""

    def __iter__(self):
        yield from super().__iter__()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
        raise AssertionError("nothing ended the wait")


def test_a_signal_ends_the_wait_for_input(decoder):
    source = Silent(some_counts(decoder, 5))
    summary = run_live(decoder, source)
    assert len(summary) == 5 and summary.interrupted and source.closed == 1


def test_another_thread_decodes_too(decoder):
    found = []
    counts = some_counts(decoder)
    thread = threading.Thread(target=lambda: found.append(run_live(decoder, Counts(counts))))
    thread.start()
    thread.join()
    assert len(found[0]) == len(counts)


def test_a_stream_without_bins_has_a_summary(decoder):
    summary = run_live(decoder, Counts(np.empty((0, len(decoder.units)))))
    assert len(summary) == 0 and np.isnan(summary.latency_us["p50"])


def test_rows_grow_on_disk():
    rows = Rows(7)
    tracemalloc.start()
    for number in range(50_000):
        rows.next()[:] = number
    grown, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 100_000 and peak < 100_000  # all rows are 2.8 MB
    assert len(rows) == 50_000
    np.testing.assert_array_equal(rows.read(), np.arange(50_000)[:, None] * np.ones(7))
    rows.next()[:] = -1
    assert rows.read()[-1, 0] == -1 and rows.read()[-2, 0] == 49_999
    rows.close()


def test_a_full_disk_keeps_the_rows_so_far():
    rows = Rows(3)
    with files_of_at_most(BLOCK * 24 + 1000):
        with pytest.raises(BciDecodeError, match=r"what was decoded cannot be kept \(File too"):
            for number in range(5 * BLOCK):
                rows.next()[:] = number
        assert len(rows) == 2 * BLOCK
    for number in range(2 * BLOCK, 3 * BLOCK + 1):
        rows.next()[:] = number
    np.testing.assert_array_equal(rows.read()[:, 0], np.arange(3 * BLOCK + 1))
    rows.close()
