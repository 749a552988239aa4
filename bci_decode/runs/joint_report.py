"""The report of a decoder of many sessions: the scores of each, and their mean."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bci_decode.files import written_whole
from bci_decode.runs.checksums import SUMS, write_checksums

SHARED = ("epochs", "select_on", "selection_rule", "versions")  # as in the report of a session
PROTOCOL = ("target", "unit", "bin_width_s")
OF_A_SESSION = ("file", "bytes", "modified_ns", "md5", "seconds")


def joint_report(
    folder: Path, reports: Sequence[dict[str, Any]], history: pd.DataFrame, about: dict[str, Any]
) -> dict[str, Any]:
    """Write `metrics.json`, `sessions.csv` and all checksums; returns what `metrics.json` holds.

    `reports` are those of the sessions. Scores and losses are their means.
    """
    first = reports[0]
    report = about | {
        **{key: first[key] for key in SHARED},
        "protocol": {key: first["protocol"][key] for key in PROTOCOL},
        "scores": {part: _mean([r["scores"][part] for r in reports]) for part in first["scores"]},
        "loss": _mean([r["loss"] for r in reports]),
        "target_variance": _mean([r["target_variance"] for r in reports]),
        "seconds": float(history["seconds"].sum()),
        "sessions": [_session(one) for one in reports],
        "checksums": SUMS,
    }
    with written_whole(folder / "sessions.csv") as temporary:
        _table(report).to_csv(temporary, index=False)
    with written_whole(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    write_checksums(folder)
    return report


def table_text(report: dict[str, Any]) -> str:
    """Session, units and test R2 of each session, then the mean, as aligned lines."""
    table = _table(report)[["session", "units", "r2", "r2_x", "r2_y"]]
    width = max(len(name) for name in ["session", *table["session"]])
    lines = [f"test R2 of {len(report['sessions'])} sessions"]
    lines += [f"{'session':<{width}}{'units':>7}{'test R2':>9}{'x':>8}{'y':>8}"]
    for session, units, *scores in table.itertuples(index=False):
        cells = "".join(f"{value:{size}.3f}" for value, size in zip(scores, (9, 8, 8), strict=True))
        lines.append(f"{session:<{width}}{units:>7}{cells}")
    return "\n".join(lines)


def _session(report: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": report["session"],
        **{key: report["data"][key] for key in OF_A_SESSION},
        "units": report["protocol"]["units_used"],
        "scores": report["scores"]["test"],
        "loss": report["loss"]["test"],
    }


def _table(report: dict[str, Any]) -> pd.DataFrame:
    """A row for each session, and their mean."""
    rows = [
        {"session": one["name"], "units": one["units"], **one["scores"], "loss": one["loss"]}
        for one in report["sessions"]
    ]
    mean = {"session": "mean", "units": ""} | report["scores"]["test"]
    table = pd.DataFrame([*rows, mean | {"loss": report["loss"]["test"]}])
    numbers = [name for name in table if name not in ("session", "units")]
    return table.astype(dict.fromkeys(numbers, float))


def _mean(values: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """The mean of each entry; None where it is none of a session."""
    columns = {name: [one[name] for one in values] for name in values[0]}
    return {
        name: None if None in column else float(np.mean(column)) for name, column in columns.items()
    }
