"""Bins and kinematics against numpy's histogram and expected tables written out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from recordings import positions

from bci_decode.data.binning import bin_session, count_spikes, select_units
from bci_decode.data.grid import bin_edges
from bci_decode.data.kinematics import kinematics
from bci_decode.data.session import Series, Session
from bci_decode.errors import BciDecodeError


def made(start=0.0, samples=101, spike_times=((),), units=None, path=None, rate=250.0) -> Session:
    """A session in memory whose finger moves x = 10 t, y = 5 t^2 (mm, s after the start)."""
    t = start + np.arange(samples) / rate
    s = t - start
    finger = np.stack([10 * s, 5 * s**2, 0 * s], axis=1) if path is None else path
    spike_times = tuple(np.asarray(times, float) for times in spike_times)
    if units is None:
        units = pd.DataFrame(
            {"channel": [f"M1 {i:03d}" for i in range(len(spike_times))], "area": "M1", "row": 0}
        )
    return Session(
        "made",
        "made.mat",
        t,
        spike_times,
        units,
        tuple(units["channel"]),
        positions(finger_pos=finger, cursor_pos=finger[:, :2] * 2, target_pos=finger[:, :2].copy()),
    )


@pytest.mark.parametrize("start", [0.0, 148.984, 4644.642, 98765.4321])
@pytest.mark.parametrize("bin_width", [0.004, 0.01, 0.02, 0.0333, 0.064, 0.1, 1 / 3])
def test_edges_are_whole_bins_on_one_grid(start, bin_width):
    session = made(start, samples=25_001)  # 100 s
    edges = bin_edges(session, bin_width)
    assert edges[0] == start
    assert len(edges) - 1 == int(100 / bin_width + 1e-6)
    np.testing.assert_allclose(edges - start, bin_width * np.arange(len(edges)), rtol=0, atol=1e-9)
    assert edges[-1] <= session.t[-1] + 1e-5 and session.t[-1] - edges[-1] < bin_width


def test_a_bin_that_ends_on_the_last_sample_is_whole():
    assert len(bin_edges(made(4644.642, samples=16 * 313 + 1), 0.064)) == 314
    assert len(bin_edges(made(4644.642, samples=16 * 313), 0.064)) == 313


@pytest.mark.parametrize("start", [0.0, 148.984, 4644.642])
@pytest.mark.parametrize("bin_width", [0.004, 0.02, 0.0333, 0.064, 1 / 3])
def test_counts_equal_numpys_histogram(start, bin_width):
    rng = np.random.default_rng(1)
    on_edges = start + bin_width * np.arange(500)
    times = [
        np.sort(np.concatenate([rng.uniform(start - 2, start + 102, 5000), on_edges]))
        for _ in range(3)
    ]
    edges = bin_edges(made(start, samples=25_001), bin_width)
    counts = count_spikes(times, [[0], [1], [2]], edges, bin_width)
    assert counts.shape == (len(edges) - 1, 3)
    for column, unit in zip(counts.T, times, strict=True):
        np.testing.assert_array_equal(column, np.histogram(unit[unit < edges[-1]], edges)[0])


def test_a_spike_on_an_edge_belongs_to_the_later_bin():
    edges = np.array([1.0, 1.5, 2.0, 2.5])
    times = [np.array([0.999, 1.0, 1.499, 1.5, 1.5, 2.499, 2.5, 2.6])]
    np.testing.assert_array_equal(count_spikes(times, [[0]], edges, 0.5), [[2], [2], [1]])


@pytest.mark.parametrize(
    ("spikes", "dtype"), [(255, np.uint8), (256, np.uint16), (65_536, np.uint32)]
)
def test_counts_never_overflow(spikes, dtype):
    times = [
        np.array([0.1]),
        np.full(spikes, 0.75),
        np.r_[np.full(3, 0.8), np.full(300, 0.2)][::-1],
    ]
    counts = count_spikes(times, [[0], [1], [2]], np.array([0.0, 0.5, 1.0]), 0.5)
    np.testing.assert_array_equal(counts, [[1, 0, 300], [0, spikes, 3]])
    assert counts.dtype == (dtype if spikes != 255 else np.uint16)


def test_velocity_is_the_difference_over_the_bin():
    session = made(4644.642)  # 0.4 s: x = 10 s, y = 5 s^2
    velocity = bin_session(session, bin_width=0.1).kinematics
    np.testing.assert_allclose(velocity, [[10, 0.5], [10, 1.5], [10, 2.5], [10, 3.5]], atol=1e-6)


@pytest.mark.parametrize("target", ["position", "velocity", "acceleration"])
@pytest.mark.parametrize("lag", [0.0, 0.064, 0.1])
@pytest.mark.parametrize("late", [-9e-9, 0.0, 9e-9])
def test_kinematics_up_to_an_edge_do_not_depend_on_samples_after_it(target, lag, late):
    """The clock is inexact by nanoseconds, as that of the recordings is."""
    session = made(4644.642, samples=1601)
    session.t[1::2] += late
    session.t[2::2] -= late
    binned = bin_session(session, bin_width=0.064, lag=lag, target=target)
    last = 50  # the first bin of a test part
    sample = round((binned.edges[last] + lag - 4644.642) * 250)
    session.finger_pos[sample + 1 :] += 1000
    changed = bin_session(session, bin_width=0.064, lag=lag, target=target)
    np.testing.assert_array_equal(changed.kinematics[:last], binned.kinematics[:last])
    assert (changed.kinematics[last] != binned.kinematics[last]).all()


def test_only_edges_beside_a_sample_are_snapped_to_it():
    session = made(4644.642, samples=26)
    session.t[5] += 3e-6  # within a thousandth of 4 ms
    session.t[10] += 5e-6
    edges = bin_edges(session, 0.02)
    assert edges[1] == session.t[5] and edges[2] < session.t[10]
    narrow = bin_edges(session, 0.0035)  # most of its edges lie between samples
    np.testing.assert_allclose(narrow, 4644.642 + 0.0035 * np.arange(len(narrow)), atol=1e-9)


def test_position_is_at_the_bins_end_and_acceleration_differentiates_velocity():
    session = made(4644.642)
    position = bin_session(session, bin_width=0.1, target="position").kinematics
    np.testing.assert_allclose(position, [[1, 0.05], [2, 0.2], [3, 0.45], [4, 0.8]], atol=1e-6)
    acceleration = bin_session(session, bin_width=0.1, target="acceleration").kinematics
    np.testing.assert_allclose(acceleration, [[0, 10], [0, 10], [0, 10], [0, 10]], atol=1e-4)


def test_bins_are_64_ms_wide_by_default():
    assert bin_session(made(spike_times=[[0.1]], samples=251)).edges[1] == 0.064


def test_source_chooses_the_cursor():
    session = made()
    finger, cursor = (
        bin_session(session, bin_width=0.1, source=s).kinematics
        for s in ("finger_pos", "cursor_pos")
    )
    np.testing.assert_allclose(cursor, 2 * finger)


@pytest.mark.parametrize("lag", [0.0, 0.1, 0.0537, -0.1, -0.0537])
@pytest.mark.parametrize("bin_width", [0.064, 0.05])
def test_lag_shifts_the_hand_against_the_spikes(lag, bin_width):
    """x = 10 t: the position at a bin's end is 10 (end + lag), and the grid does not move."""
    session = made(100.0, samples=1001)  # 4 s
    binned = bin_session(session, bin_width=bin_width, lag=lag, target="position")
    np.testing.assert_allclose(
        binned.kinematics[:, 0], 10 * (binned.edges[1:] + lag - 100.0), atol=1e-9
    )
    steps = (binned.edges - 100.0) / bin_width
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-9)
    assert binned.edges[0] + lag >= 100.0 - 1e-9 and binned.edges[-1] + lag <= 104.0 + 1e-9
    assert len(binned.counts) == len(binned.kinematics) == len(binned.edges) - 1
    assert len(binned.counts) >= (4.0 - abs(lag)) / bin_width - 2


def test_a_spike_and_the_movement_after_it_share_a_bin_at_their_lag():
    """The hand jumps 0.1 s after each spike: with lag=0.1 counts and velocity move together."""
    spikes = np.array([1.03, 2.03, 3.03])
    t = np.arange(1001) / 250
    x = sum((t >= spike + 0.1).astype(float) for spike in spikes)
    session = made(0.0, 1001, [spikes], path=np.stack([x, x, x], axis=1))
    binned = bin_session(session, bin_width=0.05, lag=0.1)
    np.testing.assert_array_equal(binned.kinematics[:, 0] > 0.5 / 0.05, binned.counts[:, 0] == 1)


UNITS = pd.DataFrame(
    {
        "channel": ["M1 001", "M1 001", "M1 001", "M1 002", "S1 001", "S1 001"],
        "area": ["M1"] * 4 + ["S1"] * 2,
        "row": [0, 1, 2, 1, 0, 1],
    }
)


@pytest.mark.parametrize(
    ("units", "area", "members"),
    [
        ("all", "all", [[0], [1], [2], [3], [4], [5]]),
        ("sorted", "all", [[1], [2], [3], [5]]),
        ("hash", "all", [[0], [4]]),
        ("merged", "all", [[0, 1, 2], [3], [4, 5]]),
        ("merged", "M1", [[0, 1, 2], [3]]),
        ("sorted", "S1", [[5]]),
    ],
)
def test_which_units_make_a_column(units, area, members):
    spikes = [[0.01 * (i + 1)] * (i + 1) for i in range(6)]
    session = made(spike_times=spikes, units=UNITS)
    assert select_units(session, units, area)["members"].tolist() == members
    binned = bin_session(session, bin_width=0.4, units=units, area=area)
    assert binned.counts.tolist() == [[sum(i + 1 for i in group) for group in members]]
    assert len(binned.units) == len(members)


def test_no_unit_left_is_said():
    session = made(spike_times=[[0.1]], units=UNITS.iloc[:1])
    with pytest.raises(
        BciDecodeError,
        match=r"no unit is left of 1 with data.units=all data.area=S1; areas in the file: M1",
    ):
        bin_session(session, bin_width=0.1, area="S1")


def test_a_movement_of_which_nothing_is_known_is_refused():
    session = made(100.0)
    session.finger_pos[:] = np.inf
    with pytest.raises(
        BciDecodeError,
        match=r"made.mat: finger_pos: NaN or Inf at all of 101 samples; .*data.source=cursor_pos",
    ):
        bin_session(session, bin_width=0.1)
    bin_session(session, bin_width=0.1, source="cursor_pos")


def test_a_short_gap_in_the_clock_is_said(caplog):
    session = made()
    session.t[50:] += 0.05
    session.t[70:] += 0.5
    binned = bin_session(session, bin_width=0.1)
    assert "t has 1 gaps, the longest 0.054 s, the first at 0.196 s" in caplog.text
    assert binned.segments.tolist() == [[0, 3]], "no whole bin is left after the second one"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bin_width": -0.1}, "data.bin_width"),
        ({"bin_width": 0.0}, "data.bin_width"),
        ({"bin_width": float("nan")}, "data.bin_width"),
        ({"bin_width": 1e-9}, "data.bin_width: is 1e-09 s"),
        ({"bin_width": 0.1, "lag": float("inf")}, "data.lag: is inf"),
        ({"bin_width": 0.1, "lag": float("nan")}, "data.lag: is nan"),
        ({"bin_width": 7.0}, "only 0.400 s"),
        ({"bin_width": 0.1, "delay": 0.35}, "and data.delay 0.35 s.*narrower bins, or a .*delay"),
        ({"bin_width": 0.1, "delay": 0.5, "lag": 0.4}, "data.delay: is 0.5 s, the recording only"),
        ({"bin_width": 0.1, "delay": 0.3, "lag": -0.2}, "data.delay - data.lag: is 0.5 s"),
        ({"bin_width": 0.1, "lag": 5.0}, "data.lag: is 5 s"),
        ({"bin_width": 0.1, "target": "speed"}, "position, velocity, acceleration"),
        ({"bin_width": 0.1, "source": "hand"}, "data.source: is 'hand'.*finger_pos, cursor_pos"),
        ({"bin_width": 0.1, "units": "good"}, "all, sorted, hash, merged"),
        ({"bin_width": 0.1, "area": "PMd"}, "data.area=PMd; areas in the file: M1"),
        ({"bin_width": 0.3, "target": "acceleration"}, "two bins"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(BciDecodeError, match=words):
        bin_session(made(spike_times=[[0.1]]), **options)


def test_a_gap_of_years_is_refused():
    session = made(spike_times=[[0.1]])
    session.t[50:] += 1e9
    with pytest.raises(BciDecodeError, match=r"t: spans 1e\+09 s with 101 samples only"):
        bin_session(session, bin_width=0.1)


def test_counts_before_a_time_do_not_depend_on_what_comes_after(session):
    """Cut the recording short: the bins that remain are the same, counts and kinematics."""
    whole = bin_session(session, bin_width=0.064)
    half = len(session.t) // 2
    cut = dataclasses.replace(
        session,
        t=session.t[:half],
        series={name: Series(session.series[name].values[:half]) for name in session.series},
    )
    binned = bin_session(cut, bin_width=0.064)
    np.testing.assert_array_equal(binned.counts, whole.counts[: len(binned.counts)])
    np.testing.assert_array_equal(binned.kinematics, whole.kinematics[: len(binned.counts)])


def test_kinematics_of_the_file_by_hand(session):
    """Every 16th sample, as the source study took it."""
    velocity = np.diff(session.finger_pos[::16, :2], axis=0) / 0.064
    edges = bin_edges(session, 0.064)
    np.testing.assert_allclose(
        kinematics(session, edges, 0.064, 0.0, "velocity", "finger_pos"), velocity, atol=1e-4
    )
