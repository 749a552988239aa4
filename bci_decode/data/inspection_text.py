"""An inspection as text: aligned lines, a topic each, and the warnings wrapped."""

from __future__ import annotations

import textwrap

from bci_decode.data.inspection import FAST, REST_SPEED, SLOW, Inspection
from bci_decode.data.session import Session

WIDTH, INDENT = 100, 12


def described(session: Session, inspection: Inspection) -> str:
    """Aligned lines, a topic each, and the warnings wrapped."""
    numbers = inspection.numbers
    lines = [f"{session.name} ({session.path})", ""]
    for topic, text in {
        "shapes": [", ".join(f"{name} {tuple(shape)}" for name, shape in numbers["shapes"].items())],
        "clock": _clock(numbers["clock"]),
        "channels": _channels(numbers["channels"]),
        "spikes": _spikes(numbers["spikes"]),
        "units": _units(numbers["rates"]),
        "finger": _movement(numbers["finger_pos"]),
        "cursor": _movement(numbers["cursor_pos"]),
        "agreement": _agreement(numbers["agreement"]),
        "targets": _targets(numbers["targets"]),
    }.items():
        lines += [f"{topic if line == text[0] else '':{INDENT}}{line}" for line in text]
    lines += ["", f"{len(inspection.warnings) or 'no'} warning{'s' * (len(inspection.warnings) != 1)}"]
    for warning in inspection.warnings:
        lines += textwrap.wrap(warning, WIDTH, initial_indent="! ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines)


def _clock(found: dict) -> list[str]:
    gaps = [gap["seconds"] for gap in found["gaps"]]
    return [
        f"{found['hz']:.5g} Hz, t = {found['start_s']:.3f} to {found['stop_s']:.3f} s, {found['minutes']:.2f} minutes, "
        + (f"{len(gaps)} gaps, the longest {max(gaps):.3f} s" if gaps else "no gap in t")
    ]


def _channels(found: dict) -> list[str]:
    areas = ", ".join(f"{name} {count}" for name, count in found["areas"].items())
    return [f"{found['total']} ({areas}), {found['silent']} silent"]


def _spikes(found: dict) -> list[str]:
    return [f"{found['inside']} in the recording; outside it {found['before']} before, {found['after']} after"]


def _units(found: dict) -> list[str]:
    rows = {f"row {row}{' (hash)' * (row == '0')}": spread for row, spread in found["rows"].items()} | {"all": found}
    lines = [f"{'':14}{'units':>6}{'lowest':>10}{'median':>10}{'highest':>10}  Hz"]
    for label, spread in rows.items():
        hz = (_shown(spread[key], ".2f") for key in ("lowest_hz", "median_hz", "highest_hz"))
        lines.append(f"{label:14}{spread['units']:6}" + "".join(f"{value:>10}" for value in hz))
    if found["units"]:
        lines[-1] += f"  ({found['highest_unit']})"
    lines.append(
        f"{len(found['slow'])} below {SLOW} Hz, {len(found['fast'])} above {FAST:g} Hz, {len(found['adrift'])} adrift"
    )
    return lines


def _movement(found: dict) -> list[str]:
    ranges = (" to ".join(_shown(end, ".1f") for end in found[f"{axis}_mm"]) for axis in "xy")
    speeds = {"mean": "mean_mm_s", "median": "median_mm_s", "95%": "p95_mm_s", "top": "highest_mm_s"}
    return [
        "x {} mm, y {} mm, {} samples missing".format(*ranges, found["missing_samples"] or "no"),
        "speed "
        + ", ".join(f"{name} {_shown(found[key], '.1f')}" for name, key in speeds.items())
        + f" mm/s; at rest (< {REST_SPEED:g} mm/s) {_shown(found['rest_share'], '.1%')}",
    ]


def _agreement(found: dict) -> list[str]:
    return ["correlation of finger and cursor: " + ", ".join(f"{k[-1]} {_shown(v, '.4f')}" for k, v in found.items())]


def _targets(found: dict) -> list[str]:
    return [f"{found['reached']} reached, {found['per_minute']:.1f} a minute, at {found['places']} places"]


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
