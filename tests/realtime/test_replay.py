"""A recording replayed as events: the bins of offline binning, in step with the wall clock."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from recordings import recording, write_mat73
from streams import other_recording, small_run

from bci_decode.data.session import read_session
from bci_decode.errors import BciDecodeError
from bci_decode.realtime.stream.replay import MAX_SPEED, Replay
from bci_decode.runs.load import load_run

COUNTING = {
    "plain": [],
    "lag": ["data.lag=0.1", "data.delay=0.03", "data.units=sorted"],
    "presence": ["data.presence=0.016"],
    "count_window": ["data.count_window=0.32"],
    "merged": ["data.units=merged", "data.presence=0.016", "data.count_window=0.128"],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("replay")


@pytest.fixture(scope="module", params=list(COUNTING))
def loaded(request, home):
    return load_run(small_run(home, *COUNTING[request.param], name=request.param))


def trained_on(home: Path) -> Path:
    (file,) = (home / "data").glob("simulated*.mat")
    return file


@pytest.mark.parametrize("tolerance", [0.0, 0.1])
@pytest.mark.parametrize("which", ["test part", "whole", "range"])
def test_counts_and_truth_are_those_of_the_binned_session(loaded, home, which, tolerance):
    session = read_session(trained_on(home) if which != "whole" else other_recording(home))
    limits = {"start": session.t[0] + 7.3, "stop": session.t[0] + 20} if which == "range" else {}
    bins = list(Replay(loaded, session, MAX_SPEED, **limits, tolerance=tolerance))
    scored, binned = loaded.predictions(session, **limits), loaded.bin(session)
    chosen = np.isin(binned.edges[1:], scored["time"])
    assert len(bins) == chosen.sum() > 100
    np.testing.assert_array_equal([found.counts for found in bins], binned.counts[chosen])
    np.testing.assert_array_equal([found.time for found in bins], scored["time"])
    np.testing.assert_array_equal([found.true for found in bins], scored["true"])
    assert [found.index for found in bins] == list(range(len(bins)))


def test_a_gap_in_the_recording_is_told(home, tmp_path):
    variables = recording(channels=2)
    t = variables["t"]
    t[1500:] += 3.0
    t[2000:] += 0.5
    session = read_session(write_mat73(tmp_path / "gaps.mat", variables))
    loaded = load_run(small_run(home, name="gaps"))
    source = Replay(loaded, session, MAX_SPEED, max_gap=1.0)
    (after,) = [found for found in source if found.jumped]
    assert after.time - 2 * 0.064 < session.t[1500] <= after.time - 0.064, "the first whole bin"
    assert (
        len([found for found in Replay(loaded, session, MAX_SPEED, max_gap=0.4) if found.jumped])
        == 2
    )


def test_pace_follows_the_wall_clock_from_the_start(home):
    """A slow consumer is caught up with, so that delays do not add up."""
    loaded = load_run(small_run(home, name="pace"))
    session = read_session(other_recording(home))
    source = Replay(loaded, session, 10.0, session.t[0], session.t[0] + 5)
    began, arrived = time.perf_counter(), []
    for found in source:
        arrived.append(found.arrived - began)
        if found.index == 10:
            time.sleep(0.1)
    due = 0.0064 * np.arange(1, len(arrived) + 1)
    assert (arrived >= due - 1e-6).all()
    assert arrived[12] < arrived[10] + 0.1, "input that waited arrived when it was due"
    assert source.deadline == pytest.approx(0.0064)


def test_speed_has_bounds(home):
    loaded = load_run(small_run(home, name="pace"))
    for speed in (0.0, -1.0, float("nan"), 1e-300, 1e6):
        with pytest.raises(BciDecodeError, match="speed: is"):
            Replay(loaded, other_recording(home), speed)
    assert Replay(loaded, other_recording(home), MAX_SPEED).deadline is None


def test_close_ends_the_replay(home):
    source = Replay(load_run(small_run(home, name="pace")), other_recording(home), MAX_SPEED)
    bins = iter(source)
    next(bins)
    source.close()
    source.close()
    assert list(bins) == []


def test_a_recording_of_unknown_movement_is_replayed_without_truth(home, caplog):
    loaded = load_run(small_run(home, name="pace"))
    session = read_session(other_recording(home))
    unknown = session.with_positions(finger_pos=np.full_like(session.finger_pos, np.nan))
    bins = list(Replay(loaded, unknown, MAX_SPEED))
    np.testing.assert_array_equal([found.counts for found in bins], loaded.bin(session).counts)
    assert all(found.true is None for found in bins)
    assert "finger_pos is NaN throughout, so there is no R2" in caplog.text
    half = len(session.t) // 2
    unknown.finger_pos[half:] = session.finger_pos[half:]
    bins = list(Replay(loaded, unknown, MAX_SPEED))
    truth = np.array([found.true for found in bins])
    known = loaded.bin(session).edges[:-1] >= session.t[half]
    np.testing.assert_array_equal(np.isnan(truth).any(axis=1), ~known)
    np.testing.assert_array_equal(truth[known], loaded.bin(session).kinematics[known])
