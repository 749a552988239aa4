"""Which bin a sample is, for time stamps that jitter, stray or jump."""

from __future__ import annotations

import numpy as np
import pytest

from bci_decode.realtime.interfaces.lsl_clock import SampleClock

BIN = 0.004  # s


def placed(stamps, silence: float = BIN) -> tuple[SampleClock, list, list[int]]:
    """The clock after some samples, its index after each, and the jumps."""
    clock, indices, jumps = SampleClock("s", BIN, 1.0), [], []
    for stamp in stamps:
        jumps.append(clock.add(float(stamp), silence))
        indices.append(clock.index)
    return clock, indices, jumps


def test_a_stamp_that_is_late_by_half_a_bin_changes_nothing():
    stamps = 7 + BIN * np.arange(30)
    stamps[10] += 0.0022
    _, indices, jumps = placed(stamps)
    assert indices == list(range(30)) and not any(jumps)


def test_jitter_is_no_jump():
    rng = np.random.default_rng(0)
    stamps = 7 + BIN * np.arange(50_000) + rng.exponential(0.0003, 50_000)
    _, indices, jumps = placed(stamps)
    assert indices[-1] == 49_999 and not any(jumps)


@pytest.mark.parametrize("stray", [-5.0, 1e9, 1.7e308, np.nan, np.inf, -np.inf])
def test_a_stray_is_ignored(stray, caplog):
    stamps = 7 + BIN * np.arange(30)
    stamps[[10, 20]] = stray
    clock, indices, jumps = placed(stamps)
    assert indices == list(range(30)) and not any(jumps) and clock.ignored == 2
    assert len(caplog.messages) == 1 and "is ignored" in caplog.messages[0]
    assert clock.time == pytest.approx(stamps[-1])


def test_a_bin_with_a_stray_stamp_has_the_time_of_its_place():
    clock, _, _ = placed([7, 7 + BIN, np.nan])
    assert clock.time == pytest.approx(7 + 2 * BIN)
    clock, _, _ = placed([7, 7 + BIN, -5])
    assert clock.time == pytest.approx(7 + 2 * BIN)


def test_samples_before_the_first_time_are_left_out():
    _, indices, jumps = placed([np.nan, 7, 7 + BIN])
    assert indices == [-1, 0, 1] and jumps == [None, 0, 0]


def test_after_a_silence_the_first_stamp_is_believed():
    clock, _, _ = placed([7, 7 + BIN])
    assert clock.add(7 + 50 * BIN, silence=2.0) == 48 and clock.index == 50


def test_stamps_that_disagree_are_no_jump():
    """After a halt, stamps made when samples are sent come all at once."""
    places = [0, 1, 2, 9, 9, 9, 9, 9, 9, 9, 10, 11]
    _, indices, jumps = placed(7 + BIN * np.array(places))
    assert indices == list(range(12)) and not any(jumps)
