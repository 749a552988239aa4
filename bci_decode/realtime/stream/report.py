"""The report of a stream: scores, latency and losses as `stream.json`, and as lines to print."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from bci_decode.errors import one_line
from bci_decode.evaluation.scores import scores
from bci_decode.files import made_folder, written_whole
from bci_decode.realtime.decoder import StreamingDecoder
from bci_decode.realtime.stream.drops import dropped_text
from bci_decode.realtime.stream.figures import MIN_BINS, draw_stream
from bci_decode.realtime.stream.loop import LiveSummary


def stream_report(
    decoder: StreamingDecoder, summary: LiveSummary, about: dict[str, Any]
) -> dict[str, Any]:
    """What `stream.json` holds; `about` has what the source knows (session, file, dropped)."""
    known = np.isfinite(summary.true).all(axis=1)
    missing = _missing_units(decoder)
    report = {
        "run": str(decoder.run.source),
        "epoch": decoder.run.state["epoch"],
        "engine": decoder.runs_on,
        "seconds": None,
        "bins": len(summary),
        "bin_width": decoder.bin_width,
        "units": {"decoder": len(decoder.run.units), "missing": missing},
        "target": decoder.target,
        "unit": decoder.unit,
        "scores": None,
        "latency_us": {
            name: value if math.isfinite(value) else None
            for name, value in summary.latency_us.items()
        },
        "deadline_s": summary.deadline,
        "missed": int(summary.missed.sum()),
        "jumps": summary.jumps,
        "interrupted": summary.interrupted,
        "error": None if summary.error is None else one_line(summary.error),
    }
    if len(summary):
        first, last = summary.time[0] - decoder.bin_width, summary.time[-1]
        report["seconds"] = [float(first), float(last)]
    if known.sum() >= MIN_BINS:
        report["scores"] = scores(summary.true[known], summary.decoded[known], decoder.axes)
    return report | about


def _missing_units(decoder: StreamingDecoder) -> int:
    tables = (decoder.units, decoder.run.units)
    there, needed = (set(zip(table["channel"], table["row"], strict=True)) for table in tables)
    return len(needed - there)


def report_text(report: dict[str, Any]) -> str:
    """The report in lines; R2 has the digits that `bci-decode evaluate` prints."""
    units, name = report["units"], report.get("session") or "the stream"
    dropped = dropped_text(report["dropped"]) if "dropped" in report else ""
    if report["seconds"] is None:
        return "\n".join(filter(None, [f"{name}: ended before the first bin", dropped]))
    start, stop = report["seconds"]
    lines = [
        f"{name}: {report['bins']} bins, {start:.1f} to {stop:.1f} s; "
        f"{units['decoder'] - units['missing']} of {units['decoder']} units"
    ]
    if report["interrupted"]:
        lines[0] += "; stopped by a signal"
    if report["error"]:
        lines[0] += "; stopped by an error"
    if report["scores"]:
        axes = [key for key in report["scores"] if key.startswith("r2_")]
        lines.append(f"{'':<6}{'R2':>14}")
        for key in (*axes, "r2"):
            value = report["scores"][key]
            axis = key.removeprefix("r2_") if key != "r2" else "mean"
            lines.append(f"{axis:<6}{math.nan if value is None else value:14.3f}")
    figures = ", ".join(f"{key} {value:.0f} us" for key, value in report["latency_us"].items())
    lines.append(f"latency of a bin: {figures}")
    if report["deadline_s"] is None:
        lines.append("no deadlines at full speed")
    else:
        lines.append(
            f"deadline {1e3 * report['deadline_s']:g} ms: "
            f"missed by {report['missed']} of {report['bins']} bins"
        )
    if report["jumps"]:
        lines.append(f"gaps in the stream: {report['jumps']}")
    return "\n".join(filter(None, [*lines, dropped]))


def write_stream(
    folder: Path, decoder: StreamingDecoder, summary: LiveSummary, report: dict, figures: str
) -> list[str]:
    """Write predictions.npz, stream.json (the report) and figures; returns their names."""
    decoded: dict[str, Any] = {
        "time": summary.time,
        "true": summary.true,
        "decoded": summary.decoded,
        "axes": np.array(decoder.axes),
        "target": decoder.target,
        "unit": decoder.unit,
        "bin_width": decoder.bin_width,
    }
    made_folder(folder, "choose another --output")
    with written_whole(folder / "predictions.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **decoded, index=summary.index, latency=summary.latency)
    with written_whole(folder / "stream.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    title = f"{report['run']} on {report.get('session') or 'a live stream'}"
    drawn = draw_stream(folder, figures, summary, decoded, title)
    return ["stream.json", "predictions.npz", *drawn]
