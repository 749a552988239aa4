"""Say what is in a recording: shapes, clock, units, rates, movement, and what may hurt decoding."""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path

from bci_decode.catalog import catalog, downloaded_file
from bci_decode.errors import BciDecodeError, exit_on_mistake
from bci_decode.inspection import FAST, REST_SPEED, SLOW, Inspection, inspect
from bci_decode.session import Session, read_session

WIDTH, INDENT = 100, 12


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, usage="%(prog)s FILE|NAME [--data-dir DIR] [--figure [PATH]] [--json]"
    )
    parser.add_argument("session", metavar="FILE|NAME", help="a .mat file, or the name of a published session")
    parser.add_argument("--data-dir", default="data", metavar="DIR", help="where NAME.mat lies (default: data)")
    parser.add_argument(
        "--figure",
        nargs="?",
        const="",
        metavar="PATH",
        help="draw raster, rates and movement (default: ./<session>.png)",
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON, for scripts")
    arguments = parser.parse_args()
    session = read_session(found(arguments.session, arguments.data_dir))
    inspection = inspect(session)
    if arguments.json:
        identity = {"session": session.name, "file": str(session.path)}
        print(json.dumps(identity | inspection.numbers | {"warnings": inspection.warnings}, indent=2))
    else:
        print(described(session, inspection))
    if arguments.figure is not None:
        draw(session, Path(arguments.figure or f"{session.name}.png"), quiet=arguments.json)


def found(choice: str, data_dir: str) -> Path:
    """The file behind a FILE or a NAME; a published session that is absent is told how to be fetched."""
    path = Path(choice)
    if path.exists():
        return path
    if choice in catalog():
        return downloaded_file(choice, data_dir)
    if path.suffix != ".mat":
        raise BciDecodeError(
            "is neither a file nor one of the 47 published sessions", file=choice, remedy="check the path or the name"
        )
    return downloaded_file(path.stem, str(path.parent)) if path.stem in catalog() else path


def draw(session: Session, path: Path, quiet: bool) -> None:
    if path.suffix != ".png":
        raise BciDecodeError("is no name for a picture", file=path, field="--figure", remedy="end it with .png")
    from bci_decode.plots import draw_session

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_session(session, path)
    except OSError as fault:
        raise BciDecodeError(f"cannot be written ({fault})", file=path, remedy="choose another place") from fault
    if not quiet:
        print(f"drew {path}")


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


if __name__ == "__main__":
    exit_on_mistake(main)
