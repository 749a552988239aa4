"""A sentence, with its remedy, for each property of a session that may hurt decoding."""

from __future__ import annotations

from collections.abc import Iterator

from bci_decode.config import BRIDGED
from bci_decode.data.measures import FAST, LONG_REST, SLOW, STILL, Numbers

DEFAULT = "finger_pos"
USUAL_HZ = (20.0, 5000.0)  # of a hand; a clock in minutes would seem faster than that
PUBLISHED_HZ = 250.0  # of every published recording, which the source study is about
STUDY_BINS, STUDY_TEST = 5000, 500  # the source study's training part; fewest bins to test on
LOW_CORRELATION = 0.99  # of finger and cursor


def inspection_warnings(numbers: dict[str, Numbers]) -> list[str]:
    """All warnings about a session, from its measurements."""
    return [
        *_clock_warnings(numbers["clock"]),
        *_unobserved_warnings(numbers),
        *_channel_warnings(numbers),
        *_rate_warnings(numbers["rates"]),
        *_position_warnings(numbers),
        *_movement_warnings(numbers),
    ]


def _clock_warnings(clock: Numbers) -> Iterator[str]:
    slowest, fastest = USUAL_HZ
    if not slowest <= clock["hz"] <= fastest:
        usual = f"movement is usually recorded at {slowest:g} to {fastest:g} Hz"
        yield f"the clock runs at {clock['hz']:.5g} Hz, {usual}; check that t is in seconds"
    if gaps := clock["gaps"]:
        yield (
            f"t has {_several(gaps, 'gap')}, {_longest(gaps)}; gaps of more than {BRIDGED:g} s are "
            "left out of training and scores, across others positions are interpolated"
        )
    bins = clock["bins_of_64_ms"]
    if bins < STUDY_BINS + STUDY_TEST and abs(1 / clock["hz"] - 1 / PUBLISHED_HZ) < 1e-4:
        fewer = int(0.8 * bins)
        yield (
            f"{bins} bins of 64 ms are too few for experiment=source_study, which trains on the "
            f"first {STUDY_BINS}; add data.split.first_bins={fewer - fewer % 100 or fewer}"
        )


def _unobserved_warnings(numbers: dict[str, Numbers]) -> Iterator[str]:
    if found := numbers.get("unobserved"):
        gaps = found["gaps"]
        yield (
            f"no spikes were recorded in {_several(gaps, 'gap')}, {_longest(gaps)}; left out of "
            "training and scores"
        )


def _channel_warnings(numbers: dict[str, Numbers]) -> Iterator[str]:
    channels, spikes, rates = numbers["channels"], numbers["spikes"], numbers["rates"]
    if not rates["units"]:
        yield "no channel has spikes, so there is nothing to decode; check the variable spikes"
        return
    if channels["silent"] > 0.2 * channels["total"]:
        yield (
            f"{channels['silent']} of {channels['total']} channels are silent; expect lower scores "
            "than from a complete array, and fetch the file again if it should be complete"
        )
    if rates["units"] == rates["hash_units"]:
        yield "no unit is sorted; data.units=sorted would leave none, keep data.units=all"
    outside = spikes["before"] + spikes["after"]
    if outside > 0.05 * spikes["total"]:
        yield (
            f"{outside / spikes['total']:.0%} of the spikes lie outside t "
            f"({spikes['before']} before, {spikes['after']} after) and are left out; "
            "check that both have the same clock"
        )
    if units := spikes["refractory_violations"]:
        yield (
            f"over 1% of the intervals are impossible (below 0.5 ms; in hash: 0 ms) in "
            f"{_several(units, 'unit')} ({_first(units)}); spikes may be listed twice: remove the "
            "copies, or leave out hash with data.units=sorted"
        )


def _rate_warnings(rates: Numbers) -> Iterator[str]:
    if slow := rates["slow"]:
        yield (
            f"{_several(slow, 'unit')} below {SLOW} Hz ({_first(slow)}); "
            f"leave out with data.min_rate={SLOW}"
        )
    if fast := rates["fast"]:
        yield (
            f"{_several(fast, 'unit')} above {FAST:g} Hz ({_first(fast)}), more likely noise than "
            "neurons; look at --figure, and at data.units=sorted if they are hash (row 0)"
        )
    if drifting := rates["drifting"]:
        yield (
            f"{_several(drifting, 'unit')} with a rate that changes more than fourfold from the "
            f"first to the last fifth ({_first(drifting)}); the test part comes last: "
            "data.units=merged is less sensitive to it"
        )


def _position_warnings(numbers: dict[str, Numbers]) -> Iterator[str]:
    sound = _sound_sources(numbers)
    remedy, out = "repair it, or cut it out of the recording", "left out of training and scores"
    if sound:
        remedy = f"{'keep' if sound[0] == DEFAULT else 'use'} data.source={sound[0]}"
    for source in _sources(numbers):
        if stretches := numbers[source]["missing"]:
            samples = _several(numbers[source]["missing_samples"], "sample")
            yield (
                f"{source} is NaN or Inf at {samples} in "
                f"{_several(stretches, 'stretch', 'stretches')}, {_longest(stretches)}; with "
                f"data.source={source} they are {out}" + f": {remedy}" * bool(sound)
            )
        if axes := _still_axes(numbers[source]):
            yield f"{source} never moves along {axes}; {remedy}"


def _movement_warnings(numbers: dict[str, Numbers]) -> Iterator[str]:
    correlation = numbers.get("finger_cursor_correlation", {})
    low = [
        f"{axis} {value:.3f}"
        for axis, value in correlation.items()
        if value is not None and value < LOW_CORRELATION
    ]
    if low:
        yield (
            f"finger and cursor disagree (correlation {', '.join(low)}); look at --figure and "
            "choose data.source=finger_pos or data.source=cursor_pos"
        )
    hand = numbers[(_sound_sources(numbers) or _sources(numbers))[0]]
    if (rests := hand["long_rests"]) and _still_axes(hand) != "x and y":
        yield (
            f"the hand rests for more than {LONG_REST:g} s {_several(rests, 'time')}, "
            f"{_longest(rests)}; scores of rest say little about reaches: cut it out"
        )


def _sources(numbers: dict[str, Numbers]) -> list[str]:
    """The movements that were measured, the usual one first."""
    return [name for name, section in numbers.items() if "rest_share" in section]


def _sound_sources(numbers: dict[str, Numbers]) -> list[str]:
    """The movements that are complete and move along both axes."""
    return [
        source
        for source in _sources(numbers)
        if not numbers[source]["missing"] and not _still_axes(numbers[source])
    ]


def _still_axes(movement: Numbers) -> str:
    """ "x", "y", "x and y" or "": the axes along which nothing moves."""
    ranges = {axis: movement.get(f"{axis}_mm") or movement[f"{axis}_mm_s"] for axis in "xy"}
    still = [axis for axis, (low, high) in ranges.items() if low is not None and high - low < STILL]
    return " and ".join(still)


def _several(things: list | int, one: str, many: str | None = None) -> str:
    number = things if isinstance(things, int) else len(things)
    return f"{number} {one if number == 1 else many or one + 's'}"


def _first(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)


def _longest(stretches: list[Numbers]) -> str:
    longest = max(stretches, key=lambda stretch: stretch["seconds"])
    which = "" if len(stretches) == 1 else "the longest "
    return f"{which}{longest['seconds']:.3f} s at t = {longest['start_s']:.3f} s"
