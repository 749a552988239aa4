"""Spikes in a live stream: the bins of offline binning, and what becomes of events out of order."""

from __future__ import annotations

import numpy as np
import pytest

from bci_decode.data.binning import bin_session, count_spikes, interval_edges
from bci_decode.data.counts import trailing_sums
from bci_decode.errors import BciDecodeError
from bci_decode.realtime.stream.binner import SpikeBinner
from bci_decode.realtime.stream.trailing import TrailingCounts

WIDTH = 0.02


def some_events(seed=0, bins=300, units=7, width=WIDTH, start=100.0, each=40):
    """Times with many on edges, and their units, in order of time."""
    rng = np.random.default_rng(seed)
    edges = start + width * np.arange(bins + 1)
    times = np.concatenate([rng.uniform(edges[0], edges[-1], each * bins // 10), edges[:-1:3]])
    times = np.sort(times)
    return times, rng.integers(0, units, len(times)), edges


def expected_counts(times, columns, edges, units=7, width=WIDTH) -> np.ndarray:
    trains = tuple(times[columns == unit] for unit in range(units))
    return count_spikes(trains, [[unit] for unit in range(units)], edges, width)


def given(binner, times, columns, pieces) -> list:
    """All bins, with the events given in pieces of random sizes."""
    bins, first = [], 0
    for size in pieces:
        bins += binner.add(times[first : first + size], columns[first : first + size])
        first += size
        if first >= len(times):
            break
    assert first >= len(times)
    return bins


def pieces_of(seed, most=40, number=20000) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, most, number)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("own_edges", [False, True])
@pytest.mark.parametrize("tolerance", [0.0, 0.013, 0.3])
def test_counts_equal_offline_binning_in_any_order_within_the_tolerance(seed, own_edges, tolerance):
    times, columns, edges = some_events(seed)
    late = np.random.default_rng(seed).uniform(0, 0.999 * tolerance, len(times))
    order = np.argsort(times + late, kind="stable")
    grid = {"edges": edges} if own_edges else {"start": edges[0]}
    binner = SpikeBinner(7, WIDTH, tolerance=tolerance, **grid)
    bins = given(binner, times[order], columns[order], pieces_of(seed))
    bins += binner.advance(edges[-1])
    bins += binner.flush()
    np.testing.assert_array_equal(
        [found.counts for found in bins], expected_counts(times, columns, edges)
    )
    assert [found.index for found in bins] == list(range(len(edges) - 1))
    assert [found.time for found in bins] == edges[1:].tolist()
    assert not any(found.jumped for found in bins) and not any(binner.dropped.values())
    assert binner.report() == "no event dropped"


def test_one_call_with_all_events_gives_the_same_bins():
    times, columns, edges = some_events(bins=2000)
    binner = SpikeBinner(7, WIDTH, start=edges[0])
    bins = binner.add(times, columns) + binner.advance(edges[-1])
    np.testing.assert_array_equal(
        [found.counts for found in bins], expected_counts(times, columns, edges)
    )


@pytest.mark.parametrize("counting", [{"presence": 0.004}, {"count_window": 0.1}])
def test_presence_and_count_window_are_those_of_bin_session(session, counting):
    binned = bin_session(session, bin_width=WIDTH, **counting)
    edges = binned.edges
    if "presence" in counting:
        edges = interval_edges(session, edges, WIDTH, 0.004)
    events = [
        (time, unit) for unit, train in enumerate(session.spike_times) for time in train.tolist()
    ]
    times, columns = (np.array(values) for values in zip(*sorted(events), strict=True))
    columns = columns.astype(int)
    inside = (times >= edges[0]) & (times < edges[-1])
    binner = SpikeBinner(len(binned.units), WIDTH, edges=edges, **counting)
    bins = given(binner, times[inside], columns[inside], pieces_of(0))
    bins += binner.advance(edges[-1])
    np.testing.assert_array_equal([found.counts for found in bins], binned.counts)


def test_trailing_counts_of_a_source_of_counts():
    counts = np.random.default_rng(0).integers(0, 4, (50, 3))
    sums = TrailingCounts(3, 0.02, 0.1)
    np.testing.assert_array_equal([sums.add(row) for row in counts], trailing_sums(counts, 5))
    sums.reset()
    np.testing.assert_array_equal(sums.add(counts[0]), counts[0])


def test_a_bin_is_complete_when_the_clock_has_passed_its_end_by_the_tolerance():
    binner = SpikeBinner(2, 0.1, start=0.0, tolerance=0.05)
    assert binner.add([0.02, 0.14], [0, 1]) == []
    (first,) = binner.add([0.16], [0], arrived=12.5)
    assert first.time == 0.1 and first.counts.tolist() == [1, 0] and first.arrived == 12.5
    (second,) = binner.advance(0.27)
    assert second.counts.tolist() == [1, 1] and second.index == 1
    binner.add([0.21], [1])
    assert [found.counts.tolist() for found in binner.flush()] == [[0, 1]]


def test_what_cannot_be_counted_is_dropped_by_reason_with_one_line_each(caplog):
    binner = SpikeBinner(2, 0.1, start=10.0, tolerance=0.05)
    bins = binner.add([9.9, 9.0, 10.01, np.nan, np.inf, 10.02, 10.03], [0, 0, 0, 1, 1, 2, -1])
    bins += binner.add([10.16, 10.06], [1, 1])
    bins += binner.add([10.09, 10.1, 10.08], [1, 1, 0])
    assert [found.counts.tolist() for found in bins] == [[1, 1]]
    assert binner.dropped == {
        "late": 2, "unknown unit": 2, "not a time": 2, "before the start": 2,
        "after the end": 0, "off the clock": 0,
    }  # fmt: skip
    assert len(caplog.records) == 4
    line = "8 events dropped: 2 late, 2 unknown unit, 2 not a time, 2 before the start"
    assert binner.report() == line


def test_events_after_given_edges_are_dropped():
    binner = SpikeBinner(1, 0.1, edges=np.array([0.0, 0.1, 0.2]))
    bins = binner.add([0.05, 0.2, 7.0], [0, 0, 0]) + binner.advance(0.2)
    assert [found.counts.tolist() for found in bins] == [[1], [0]]
    assert binner.dropped["after the end"] == 2


def test_units_are_columns_or_labels():
    binner = SpikeBinner([("M1 001", 0), ("M1 001", 1)], 0.1, start=0.0)
    bins = binner.add([0.01, 0.02, 0.03], [("M1 001", 1), 0, ("M1 009", 0)])
    bins += binner.advance(0.1)
    assert [found.counts.tolist() for found in bins] == [[1, 1]]
    assert binner.dropped["unknown unit"] == 1
    with pytest.raises(BciDecodeError, match="units: are whole numbers"):
        SpikeBinner([4, 5], 0.1)


def running(binner, start, seconds, step=0.01) -> list:
    """Bins of one unit that fires at regular times, each in a call of its own."""
    times = start + step * np.arange(round(seconds / step))
    return [found for time in times for found in binner.add([time], [0])]


def test_a_jump_forward_leaves_bins_out_and_keeps_the_phase(caplog):
    binner = SpikeBinner(1, 0.1, start=0.0, max_gap=1.0)
    bins = running(binner, 0.005, 0.95) + running(binner, 7.305, 0.5)
    bins += binner.flush()
    assert [found.index for found in bins] == [*range(10), *range(73, 78)]
    assert [round(found.time, 9) for found in bins[9:12]] == [1.0, 7.4, 7.5]
    assert [found.counts[0] for found in bins] == [10] * 9 + [5] + [10] * 5
    assert [found.index for found in bins if found.jumped] == [73]
    assert len(caplog.records) == 1 and "the clock jumped from 0.945 to 7.305 s" in caplog.text
    assert not any(binner.dropped.values())


def test_a_window_of_counts_forgets_what_was_before_a_jump():
    binner = SpikeBinner(1, 0.1, start=0.0, count_window=0.3)
    bins = running(binner, 0.005, 0.5) + running(binner, 8.005, 0.2) + binner.flush()
    assert [found.counts[0] for found in bins] == [10, 20, 30, 30, 30, 10, 20]


def test_a_restarted_clock_goes_on_in_the_same_phase_without_a_loss(caplog):
    binner = SpikeBinner(1, 0.1, start=50.0, max_gap=1.0)
    bins = running(binner, 53.005, 2.0) + running(binner, 0.005, 0.3) + binner.flush()
    assert [found.index for found in bins[-4:]] == [bins[-4].index + k for k in range(4)]
    assert [round(found.time, 9) for found in bins[-4:]] == [55.0, 0.1, 0.2, 0.3]
    assert [found.jumped for found in bins[-4:]] == [False, True, False, False]
    assert [found.counts[0] for found in bins[-4:]] == [10, 10, 10, 10]
    assert caplog.text.count("went back") == 1 and not any(binner.dropped.values())


def test_one_call_may_hold_a_jump():
    times = np.concatenate([np.arange(0.005, 1, 0.01), np.arange(90.005, 91, 0.01)])
    binner = SpikeBinner(1, 0.1, start=0.0)
    bins = binner.add(times, np.zeros(len(times), int)) + binner.flush()
    assert [found.counts[0] for found in bins] == [10] * 20
    assert [found.index for found in bins] == [*range(10), *range(900, 910)]


@pytest.mark.parametrize("stray", [1e12, -1e12, 3.0, -2.0])
def test_stray_times_are_dropped_and_change_nothing_else(stray):
    binner = SpikeBinner(1, 0.1, start=0.0)
    bins = running(binner, 0.005, 0.5)
    bins += binner.add([stray], [0]) + binner.add([0.505], [0]) + binner.add([stray] * 2, [0, 0])
    bins += running(binner, 0.515, 0.49) + binner.add([stray], [0]) + binner.flush()
    assert [found.counts[0] for found in bins] == [10] * 10
    assert binner.dropped["off the clock"] == 4
    assert not any(found.jumped for found in bins)


def test_a_stray_time_as_the_first_event_does_not_hold_the_stream():
    binner = SpikeBinner(1, 0.1)
    bins = binner.add([1e9], [0]) + running(binner, 5.0, 1.0) + binner.flush()
    assert sum(found.counts[0] for found in bins) == 101


def test_a_silent_stream_goes_on_by_its_clock():
    binner = SpikeBinner(1, 0.1, start=0.0)
    bins = [found for now in np.arange(0.15, 30.1, 0.1) for found in binner.advance(now)]
    assert len(bins) == 300 and not any(found.jumped for found in bins)
    assert [found.index for found in binner.advance(60.05)] == [300]
    (after,) = binner.advance(60.15)
    assert after.jumped and round(after.time, 9) == 60.1 and after.index == 600
    assert [found.index for found in binner.advance(1.05)] == [601]
    (back,) = binner.advance(1.15)
    assert back.jumped and round(back.time, 9) == 1.1 and back.index == 602
    assert binner.advance(np.nan) == [] and binner.dropped["not a time"] == 1


def test_accepted_events_are_handed_on():
    seen = []
    binner = SpikeBinner(2, 0.1, start=0.0)
    binner.on_events = lambda times, columns: seen.extend(
        zip(times.tolist(), columns.tolist(), strict=True)
    )
    binner.add([0.05, 0.15, np.nan], [0, 1, 0])
    binner.add([0.05, 0.16], [0, 0])
    assert seen == [(0.05, 0), (0.15, 1), (0.16, 0)]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"bin_width": 0.0}, "bin_width: is 0.0 s"),
        ({"bin_width": np.nan}, "bin_width: is nan s"),
        ({"tolerance": -1.0}, "tolerance: is -1.0 s"),
        ({"tolerance": 1e9}, "tolerance: is 1000000000.0 s; give 0 to 10 s"),
        ({"max_gap": 0.01}, "max_gap: is 0.01 s; give a bin width, 0.1 s, or more"),
        ({"max_gap": np.nan}, "max_gap: is nan s"),
        ({"start": np.nan}, "start: is nan s; give a time of the clock"),
        ({"edges": np.array([1.0])}, "edges: are 1 times; give ascending times, 1 for each bin"),
        ({"edges": np.array([2.0, 1.0])}, "edges: are 2 times"),
        ({"edges": np.arange(4.0), "presence": 0.05}, "edges: are 4 times; .* 2 for each bin"),
        ({"presence": 0.03}, "data.presence: is 0.03 s, not a divisor"),
        ({"count_window": 0.03}, "data.count_window: is 0.03 s, not a multiple"),
    ],
)
def test_settings_without_meaning_are_refused(settings, problem):
    with pytest.raises(BciDecodeError, match=problem):
        SpikeBinner(1, **({"bin_width": 0.1} | settings))


def test_events_need_a_unit_each():
    with pytest.raises(BciDecodeError, match="give a unit for each time"):
        SpikeBinner(1, 0.1).add([0.1, 0.2], [0])


@pytest.mark.parametrize("units", [True, -1, 0, 2.5, None, [], [["a"], ["b"]], ["a", "b", "a"]])
def test_units_that_are_none_are_refused(units):
    with pytest.raises(BciDecodeError, match="^units: .*; give "):
        SpikeBinner(units, 0.1)


@pytest.mark.parametrize("units", [np.int64(3), np.array(["a", "b", "c"])])
def test_numbers_and_arrays_of_numpy_are_units(units):
    assert SpikeBinner(units, 0.1).units == 3


def test_one_missing_bin_is_singular(caplog):
    binner = SpikeBinner(1, 0.1, start=0.0, max_gap=0.1)
    running(binner, 0.005, 0.1)
    running(binner, 0.205, 0.1)
    assert "; 1 bin is missing" in caplog.text
