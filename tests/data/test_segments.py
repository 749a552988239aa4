"""Recordings with gaps and unknown movement: segments, counts, kinematics, windows."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import recording, write_mat73
from sizes import cases

from bci_decode.config import BRIDGED, DataConfig, WindowConfig
from bci_decode.data.binning import bin_session
from bci_decode.data.dataset import prepare
from bci_decode.data.parts import Part, Window
from bci_decode.data.segments import inside, left_out, recording_gaps, scored_mask
from bci_decode.data.session import Session, read_session
from bci_decode.errors import BciDecodeError

WIDTH, SECOND = 0.064, 1000  # s; the first sample after the gap
CONFIG = DataConfig(bin_width=WIDTH, window=WindowConfig(length=6, burn_in=2, stride=2))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Session:
    """Ten seconds without a gap."""
    folder = tmp_path_factory.mktemp("segments")
    return read_session(write_mat73(folder / "whole.mat", recording(channels=3)))


def with_gap(session: Session, bins: float = 20) -> Session:
    """The same, with a gap before sample `SECOND` that moves what is later by whole bins."""
    t, shift = session.t.copy(), bins * WIDTH - 0.004
    # the second piece begins on an edge of the bins
    shift += (-(t[SECOND] + shift - t[0])) % WIDTH
    before = t[SECOND]
    t[SECOND:] += shift
    times = tuple(np.where(one >= before, one + shift, one) for one in session.spike_times)
    return replace(session, t=t, spike_times=times)


def pieces(session: Session) -> tuple[Session, Session]:
    """Both sides of the gap, as sessions of their own."""
    return tuple(
        replace(
            session,
            t=session.t[part],
            series={name: replace(s, values=s.values[part]) for name, s in session.series.items()},
        )
        for part in (slice(0, SECOND), slice(SECOND, None))
    )  # type: ignore[return-value]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"presence": 0.016},
        {"count_window": 0.32},
        {"lag": 0.1},
        {"lag": -0.1, "target": "position"},
        {"target": "acceleration"},
        {"difference": "central"},
        {"difference": "central", "target": "acceleration", "count_window": 0.128},
        {"grids": 3},
    ],
)
def test_both_sides_of_a_gap_are_binned_as_if_alone(whole, options):
    session = with_gap(whole, bins=2)  # shorter than the sums of counts
    binned = bin_session(session, bin_width=WIDTH, **options)
    for grid in (binned, *binned.shifted):
        assert len(grid.segments) == 2
        assert np.isnan(grid.kinematics[~inside(grid.segments, len(grid.counts))]).all()
        assert not grid.counts[~inside(grid.segments, len(grid.counts))].any()
    compared = 0
    for piece in pieces(session):
        alone = bin_session(piece, bin_width=WIDTH, **options)
        for grid, other in zip((binned, *binned.shifted), (alone, *alone.shifted), strict=True):
            first = int(np.argmin(np.abs(grid.edges - other.edges[0])))
            (segment,) = (s for s in grid.segments if s[0] <= first < s[1])
            bins = np.arange(max(first, segment[0]), min(first + len(other.counts), segment[1]))
            if options.get("count_window") is None or segment[0] == first:
                np.testing.assert_array_equal(grid.counts[bins], other.counts[bins - first])
            known = ~np.isnan(grid.kinematics[bins]).any(axis=1)
            assert known.sum() >= len(bins) - 4, "only bins at the ends depend on the other side"
            np.testing.assert_allclose(
                grid.kinematics[bins][known], other.kinematics[bins - first][known], atol=1e-6
            )
            compared += len(bins)
    assert compared > 100


@pytest.mark.parametrize("lag", [0.0, 0.05, -0.2])
@pytest.mark.parametrize("target", ["position", "velocity", "acceleration"])
@pytest.mark.parametrize("difference", ["bin", "central"])
def test_movement_is_unknown_just_where_it_depends_on_an_unknown_sample(
    whole, lag, target, difference
):
    keys = {"bin_width": WIDTH, "lag": lag, "target": target, "difference": difference}
    bad = np.zeros(len(whole.t), bool)
    bad[[0, 400, 401, 1200]] = bad[600:700] = True
    path = whole.finger_pos.copy()
    path[bad, 1] = np.nan
    found = bin_session(whole.with_positions(finger_pos=path), **keys)
    true, unknown = bin_session(whole, **keys).kinematics, np.isnan(found.kinematics)
    assert (unknown[:, 0] == unknown[:, 1]).all()
    np.testing.assert_allclose(found.kinematics[~unknown], true[~unknown])
    other = whole.finger_pos.copy()
    other[bad, 1] += 1000 * np.random.default_rng(0).normal(size=bad.sum())
    changed = bin_session(whole.with_positions(finger_pos=other), **keys).kinematics != true
    assert unknown[changed.any(axis=1)].all(), "a value that depends on an unknown one is known"
    reach = 3 * WIDTH if target == "acceleration" else 2 * WIDTH
    ends = found.edges[1:] + lag
    near = (np.abs(ends[:, None] - whole.t[bad]) <= reach).any(axis=1)
    assert not unknown[~near].any()
    assert 2 < unknown[:, 0].sum() < 0.5 * len(ends)
    assert len(found.segments) == 1, "spikes are known there"


def test_spikes_are_left_out_where_they_were_not_recorded(whole, caplog):
    start = whole.t[0]
    observed = start + np.array([[0.5, 3.0], [3.05, 5.0], [6.0, 20.0]])
    binned = bin_session(replace(whole, observed=observed), bin_width=0.1)
    # bins 4 and 50 end, or begin, within the tolerance of an edge
    assert [list(ends) for ends in binned.segments] in ([[5, 50], [60, 99]], [[6, 50], [60, 99]])
    lost = ~inside(binned.segments, len(binned.counts))
    assert not binned.counts[lost].any() and np.isnan(binned.kinematics[lost]).all()


gap_lists = st.lists(st.tuples(st.floats(0, 9), st.floats(0.01, 2)), max_size=4)


@settings(max_examples=cases(40, 1000), deadline=None)
@given(gaps=gap_lists, unobserved=gap_lists, width=st.sampled_from([0.02, 0.064, 0.3]))
def test_segments_hold_just_the_bins_that_no_gap_touches(whole, gaps, unobserved, width):
    t = whole.t.copy()
    for place, seconds in gaps:
        t[t > whole.t[0] + place] += seconds
    ends = np.unique([whole.t[0], *(whole.t[0] + sum(one) for one in unobserved), t[-1] + 1])
    observed = np.stack([ends[:-1], np.minimum(ends[:-1] + 1.0, ends[1:])], axis=1)
    session = replace(whole, t=t, observed=observed if unobserved else None)
    edges = t[0] + width * np.arange(int((t[-1] - t[0]) / width))
    spans = [(a, b) for a, b in itertools.pairwise(t) if b - a > BRIDGED]
    if unobserved:
        limits = [t[0], *np.clip(observed.ravel(), t[0], t[-1]), t[-1]]
        spans += [(a, b) for a, b in zip(limits[::2], limits[1::2], strict=True) if b - a > BRIDGED]
    found = recording_gaps(session)
    assert (found[:, 0] < found[:, 1]).all() and (found[1:, 0] >= found[:-1, 1]).all()
    for low, high in itertools.pairwise(edges):
        expected = any(low < b and high > a for a, b in spans)
        assert expected == any(low < b and high > a for a, b in found)


@settings(max_examples=cases(60, 2000), deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 5)), min_size=1, max_size=6),
    window=st.builds(
        Window,
        st.sampled_from(["history", "sequence"]),
        st.integers(2, 12),
        st.integers(1, 5),
        st.just(1),
        st.integers(1, 2),
    ),
    seed=st.integers(0, 100),
)
def test_a_window_never_holds_bins_of_two_segments(lengths, window, seed):
    stops = np.cumsum(np.ravel(lengths))
    segments = np.stack([np.append(0, stops[1:-1:2]), stops[::2]], axis=1)
    bins, rng = int(stops[-1]), np.random.default_rng(seed)
    target = np.where(rng.random((bins, 1)) < 0.3, np.nan, rng.normal(size=(bins, 2)))
    of_bin = np.full(bins, -1)
    for number, (start, stop) in enumerate(segments):
        of_bin[start:stop] = number
    windows = window.of(Part(np.arange(bins), np.zeros((bins, 1)), target, segments))
    assert (of_bin[windows] >= 0).all() and (of_bin[windows] == of_bin[windows][:, :1]).all()
    learned = {int(k) for k in windows[:, window.first_output :].ravel()}
    for start, stop in segments:
        if stop - start >= window.span and window.stride == window.step == 1:
            out = np.arange(start + window.first_output, stop)
            assert set(out[~np.isnan(target[out, 0])].tolist()) <= learned


def test_burn_in_follows_a_gap_alone():
    target = np.ones((20, 2))
    target[15, 0] = np.nan
    segments = np.array([[0, 6], [9, 18]])
    scored = scored_mask(target, segments, 3)
    assert np.flatnonzero(scored).tolist() == [0, 1, 2, 3, 4, 5, 12, 13, 14, 16, 17]
    truth = np.where(scored[:, None], target, np.nan)
    assert left_out(target, segments, truth) == {
        "gaps": 2, "gap_bins": 5, "unknown_bins": 1, "burn_in_bins": 3
    }  # fmt: skip
    assert left_out(np.ones((4, 2)), np.array([[0, 4]]), np.ones((4, 2))) == {}


def test_scaling_and_rates_see_no_gap(whole):
    path = whole.finger_pos.copy()
    path[200:300] = np.nan
    session = with_gap(whole.with_positions(finger_pos=path), bins=60)
    config = CONFIG
    binned = bin_session(session, **config.binning_kwargs())
    data = prepare(binned, config)
    bins = data.slices["train"]
    kept = inside(binned.segments, len(binned.counts))[bins]
    np.testing.assert_allclose(data.counts_scaler.mean, binned.counts[bins][kept].mean(axis=0))
    np.testing.assert_allclose(data.target_scaler.std, np.nanstd(binned.kinematics[bins], axis=0))
    again = prepare(binned, replace(config, min_rate=4.5))
    rates = binned.counts[bins][kept].sum(axis=0) / (kept.sum() * WIDTH)
    assert len(again.units) == (rates >= 4.5).sum()


def test_a_part_without_a_window_is_refused(whole):
    path = whole.finger_pos.copy()
    path[: int(0.7 * len(path))] = np.nan
    config, session = CONFIG, whole.with_positions(finger_pos=path)
    with pytest.raises(BciDecodeError, match="the train part has no two bins of known velocity"):
        prepare(bin_session(session, **config.binning_kwargs()), config)
    every = whole.t[0] + np.stack([np.arange(0, 10, 0.5), np.arange(0, 10, 0.5) + 0.3], axis=1)
    with pytest.raises(BciDecodeError, match="the train part has no .* bins without a gap"):
        binned = bin_session(replace(whole, observed=every), **config.binning_kwargs())
        prepare(binned, config)
