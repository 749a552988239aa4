"""Inspect a session: its numbers, what may hurt decoding, and both as text."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from bci_decode.data.inspection_warnings import inspection_warnings
from bci_decode.data.measures import FAST, REST_SPEED, SLOW, Numbers, measure
from bci_decode.data.session import Session, sources

WIDTH, INDENT = 100, 12


@dataclass(frozen=True)
class Inspection:
    """The measurements of a session by section (see `measures`) and a sentence for each warning."""

    numbers: dict[str, Numbers]
    warnings: list[str]


def inspect(session: Session) -> Inspection:
    """Measure a session and list what in it may hurt decoding."""
    numbers = measure(session)
    return Inspection(numbers, inspection_warnings(numbers))


def report_text(session: Session, inspection: Inspection) -> str:
    """Aligned lines, a topic each, then the warnings, wrapped at `WIDTH` columns."""
    numbers, warnings = inspection.numbers, inspection.warnings
    shapes = (f"{name} {tuple(shape)}" for name, shape in numbers["shapes"].items())
    topics = {
        "shapes": [", ".join(shapes)],
        "clock": _clock(numbers),
        "channels": [_channels(numbers["channels"])],
        "spikes": [_spikes(numbers["spikes"])],
        "units": _units(numbers["rates"]),
    }
    for name in sources(session):
        topics[_topic(name)] = _movement(numbers[name])
    if correlation := numbers.get("finger_cursor_correlation"):
        topics["correlation"] = [_correlation(correlation)]
    if found := numbers.get("targets"):
        topics["targets"] = [_targets(found)]
    lines = [f"{session.name} ({session.path})", ""]
    for topic, (first, *others) in topics.items():
        lines += [f"{topic:{INDENT - 1}} {first}", *(" " * INDENT + line for line in others)]
    lines += ["", f"{len(warnings) or 'no'} warning{'s' * (len(warnings) != 1)}"]
    wrapper = textwrap.TextWrapper(
        WIDTH, initial_indent="! ", subsequent_indent="  ", break_on_hyphens=False
    )
    for warning in warnings:
        lines += wrapper.wrap(warning)
    return "\n".join(lines)


def _clock(numbers: dict[str, Numbers]) -> list[str]:
    clock = numbers["clock"]
    lines = [
        f"{clock['hz']:.5g} Hz, t = {clock['start_s']:.3f} to {clock['stop_s']:.3f} s, "
        f"{clock['minutes']:.2f} minutes, "
        + (_gaps(clock["gaps"]) if clock["gaps"] else "no gap in t")
    ]
    if found := numbers.get("unobserved"):
        lines.append(f"no spikes were recorded in {_gaps(found['gaps'])}")
    return lines


def _gaps(gaps: list[Numbers]) -> str:
    longest = max(gap["seconds"] for gap in gaps)
    return f"{len(gaps)} gap{'s' * (len(gaps) > 1)}, the longest {longest:.3f} s"


def _channels(channels: Numbers) -> str:
    areas = ", ".join(f"{name} {count}" for name, count in channels["areas"].items())
    return f"{channels['total']} ({areas}), {channels['silent']} silent"


def _spikes(spikes: Numbers) -> str:
    return (
        f"{spikes['inside']} in the recording; "
        f"outside it {spikes['before']} before, {spikes['after']} after"
    )


def _units(rates: Numbers) -> list[str]:
    rows = {f"row {row}{' (hash)' * (row == '0')}": hz for row, hz in rates["rows"].items()}
    lines = [f"{'':14}{'units':>6}{'lowest':>10}{'median':>10}{'highest':>10}  Hz"]
    for label, spread in (rows | {"all": rates}).items():
        columns = (_format(spread[f"{key}_hz"], ".2f") for key in ("lowest", "median", "highest"))
        lines.append(f"{label:14}{spread['units']:6}" + "".join(f"{hz:>10}" for hz in columns))
    if rates["units"]:
        lines[-1] += f"  ({rates['highest_unit']})"
    lines.append(
        f"{len(rates['slow'])} below {SLOW} Hz, {len(rates['fast'])} above {FAST:g} Hz, "
        f"{len(rates['drifting'])} drifting"
    )
    return lines


def _topic(series: str) -> str:
    """ "finger" for "finger_pos"; of a path inside the file the last part."""
    return series.rsplit("/", 1)[-1].removesuffix("_pos")


def _movement(movement: Numbers) -> list[str]:
    ending = "mm" if "x_mm" in movement else "mm_s"
    ranges = (movement[f"{axis}_{ending}"] for axis in "xy")
    unit = movement.get("unit", ending.replace("_", "/"))
    speed = f"{unit}/s" if ending == "mm" else unit
    x, y = (" to ".join(_format(end, ".1f") for end in ends) for ends in ranges)
    keys = {"mean": "mean", "median": "median", "95%": "p95", "highest": "highest"}
    speeds = (f"{label} {_format(movement[f'{key}_mm_s'], '.1f')}" for label, key in keys.items())
    rest = f"; at rest (< {REST_SPEED:g} mm/s) {_format(movement['rest_share'], '.1%')}"
    return [
        f"x {x} {unit}, y {y} {unit}, {movement['missing_samples'] or 'no'} samples missing",
        f"speed {', '.join(speeds)} {speed}" + rest * ("unit" not in movement),
    ]


def _correlation(correlation: dict[str, float | None]) -> str:
    values = (f"{axis} {_format(value, '.4f')}" for axis, value in correlation.items())
    return "finger with cursor: " + ", ".join(values)


def _targets(targets: Numbers) -> str:
    return (
        f"{targets['reached']} reached, {targets['per_minute']:.1f} a minute, "
        f"at {targets['places']} places"
    )


def _format(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)
