"""Properties that binning keeps for any session: nothing lost, nothing moved."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import positions
from sizes import cases

from bci_decode.data.binning import bin_session
from bci_decode.data.session import Session

WIDTHS = (0.004, 0.02, 0.064, 0.1)
some_sessions = settings(
    max_examples=cases(15, 300), derandomize=True, database=None, deadline=None
)


@st.composite
def sessions(draw, start=None) -> Session:
    """A session on a clock in 1/1024 s, which numbers of this size hold exactly."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    samples = draw(st.integers(120, 600))
    steps = rng.choice([4, 4, 4, 4, 5, 40], samples - 1) if draw(st.booleans()) else 4
    start = draw(st.integers(-5000, 5000)) if start is None else start
    t = (start * 1024 + np.append(0, np.cumsum(np.broadcast_to(steps, samples - 1)))) / 1024
    spikes = []
    for _ in range(draw(st.integers(1, 4))):
        several = rng.integers(t[0] * 1024 - 100, t[-1] * 1024 + 100, draw(st.integers(1, 400)))
        spikes.append(np.sort(several) / 1024)
    inside = [np.count_nonzero((times >= t[0]) & (times <= t[-1])) for times in spikes]
    names = [f"M1 {number:03d}" for number in range(len(spikes))]
    units = pd.DataFrame({"channel": names, "area": "M1", "row": 1, "spikes": inside})
    finger, cursor = rng.normal(0, 30, (samples, 3)), rng.normal(0, 30, (samples, 2))
    target = np.repeat(rng.normal(0, 30, (1, 2)), samples, axis=0)
    series = positions(finger_pos=finger, cursor_pos=cursor, target_pos=target)
    return Session("x", Path("x.mat"), t, tuple(spikes), units, tuple(names), series)


@given(session=sessions(), width=st.sampled_from(WIDTHS), lag=st.sampled_from([0.0, 0.05, -0.05]))
@some_sessions
def test_counts_sum_to_the_spikes_inside_the_edges(session, width, lag):
    binned = bin_session(session, bin_width=width, lag=lag)
    first, last = binned.edges[0], binned.edges[-1]
    inside = [np.count_nonzero((s >= first) & (s < last)) for s in session.spike_times]
    np.testing.assert_array_equal(binned.counts.sum(axis=0), inside)


@given(session=sessions(start=0), seconds=st.integers(1, 100_000))
@pytest.mark.parametrize("width", [1 / 128, 1 / 16])
@some_sessions
def test_shifting_all_times_changes_nothing(session, seconds, width):
    """To the bit, as widths and times are fractions of powers of two."""
    later = dataclasses.replace(
        session,
        t=session.t + seconds,
        spike_times=tuple(times + seconds for times in session.spike_times),
    )
    plain, shifted = (bin_session(one, bin_width=width) for one in (session, later))
    np.testing.assert_array_equal(plain.counts, shifted.counts)
    np.testing.assert_array_equal(plain.edges + seconds, shifted.edges)
    np.testing.assert_array_equal(plain.kinematics, shifted.kinematics)
    pd.testing.assert_frame_equal(plain.units, shifted.units)


@given(session=sessions(), width=st.sampled_from(WIDTHS), lag=st.sampled_from([0.0, 0.05, -0.05]))
@some_sessions
def test_velocity_integrates_back_to_position(session, width, lag):
    """The sum of velocity over bins is the way from the first edge to the end of each bin."""
    velocity = bin_session(session, bin_width=width, lag=lag)
    position = bin_session(session, bin_width=width, lag=lag, target="position")
    first = [
        np.interp(velocity.edges[0] + lag, session.t, axis) for axis in session.finger_pos.T[:2]
    ]
    np.testing.assert_allclose(
        first + width * np.cumsum(velocity.kinematics, axis=0), position.kinematics, atol=1e-6
    )
