"""Score and plot a trained decoder on a session: `bci-decode evaluate RUN --session FILE`."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from bci_decode.errors import BciDecodeError, run_cli
from bci_decode.options import CommandParser, add_trust, clock_time, path, seconds


def main() -> None:
    """Score and plot a trained decoder on another session, or on a range of time of one.

    Units are matched by channel and row; missing ones are counted and reported. Without a range,
    the session that the run was trained on is scored on its test part alone. "R2, 95 %" is the
    interval of a bootstrap of 2 s blocks, "R2 by chance" the mean against 20 targets that are
    shifted in time. Writes
    evaluation.json, predictions.npz and a figure of the trajectory, by default into
    RUN/evaluations/<session>.
    """
    arguments = _parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    import torch

    from bci_decode.runs.load import load_run

    torch.set_num_threads(1)  # more gain nothing for one stream
    run = load_run(arguments.run, trust=tuple(arguments.trust))
    folder, report = evaluate(run, arguments)
    print(_table(report))
    print(f"wrote evaluation.json, predictions.npz and trajectory.{arguments.figures} to {folder}")


def _parse_args() -> argparse.Namespace:
    parser = CommandParser(main.__doc__)
    parser.add_argument(
        "run", type=path, metavar="RUN", help="folder of a finished run, or a packed one"
    )
    parser.add_argument(
        "--session", required=True, metavar="FILE|NAME", help="a recording, or a named session"
    )
    parser.add_argument("--start", type=clock_time, metavar="S", help="s of the session's clock")
    parser.add_argument("--stop", type=clock_time, metavar="S", help="s of the session's clock")
    parser.add_argument("--output", type=path, metavar="DIR", help="folder for what is written")
    parser.add_argument("--figures", choices=("png", "pdf", "svg"), default="png")
    parser.add_argument(
        "--seconds", type=seconds, default=10.0, help="s that the figure shows (default: 10)"
    )
    parser.add_argument("--data-dir", default="data", metavar="DIR", help="where NAME.mat is")
    add_trust(parser)
    return parser.parse_args()


def evaluate(run: Any, arguments: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """Decode, score and write; returns the folder and what `evaluation.json` holds."""
    from bci_decode.cli import recording_file
    from bci_decode.config import TrajectoryConfig
    from bci_decode.data.session import read_session
    from bci_decode.evaluation.intervals import chance_level, r2_intervals
    from bci_decode.evaluation.scores import scores
    from bci_decode.runs.folder import file_stat

    shown = TrajectoryConfig(seconds=arguments.seconds)
    file = recording_file(arguments.session, arguments.data_dir)
    session = read_session(file, source=run.config.source)
    decoded = run.predictions(session, arguments.start, arguments.stop)
    report = {
        "run": str(run.source),
        "epoch": run.state["epoch"],
        "session": session.name,
        "data": file_stat(session.path),
        "seconds": [float(decoded["time"][0] - run.config.bin_width), float(decoded["time"][-1])],
        "bins": len(decoded["time"]),
        "units": {"decoder": len(run.units), "missing": decoded["missing_units"]},
        "overlaps": decoded["overlaps"],  # parts that the run learned from
        "left_out": decoded["left_out"],  # bins that are not scored
        "target": decoded["target"],
        "unit": decoded["unit"],
        "scores": scores(decoded["true"], decoded["decoded"], run.axes),
        "intervals": r2_intervals(
            decoded["true"], decoded["decoded"], run.config.bin_width, run.axes
        ),
        "chance": chance_level(decoded["true"], decoded["decoded"], run.axes),
    }
    folder = arguments.output or run.folder / "evaluations" / session.name
    _write(folder, report, decoded, shown, arguments.figures)
    return folder, report


def _write(folder: Path, report: dict, decoded: dict, shown: Any, figures: str) -> None:
    import numpy as np

    from bci_decode.files import written_whole
    from bci_decode.runs.figures import trajectory_figure
    from bci_decode.style import save_figure

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BciDecodeError(
            f"cannot be made ({error.strerror})", file=folder, remedy="choose another --output"
        ) from error
    with written_whole(folder / "predictions.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **{name: decoded[name] for name in SAVED})
    figure = trajectory_figure(decoded, f"{report['run']} on {report['session']}", shown)
    save_figure(figure, folder / f"trajectory.{figures}")
    with written_whole(folder / "evaluation.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


SAVED = ("time", "true", "decoded", "axes", "target", "unit", "bin_width")


def _table(report: dict[str, Any]) -> str:
    """The scores as aligned lines, with what they are of."""
    from bci_decode.data.segments import left_out_text

    start, stop = report["seconds"]
    units = report["units"]
    axes = [name.removeprefix("r2_") for name in report["scores"] if name.startswith("r2_")]
    headings = {"r2": "R2", "cc": "CC", "rmse": f"RMSE, {report['unit']}", "snr_db": "SNR, dB"}
    lines = [
        f"{report['session']}: {report['bins']} bins, {start:.1f} to {stop:.1f} s; "
        f"{units['decoder'] - units['missing']} of {units['decoder']} units",
        " " * 6
        + "".join(f"{heading:>14}" for heading in headings.values())
        + f"{'R2, 95 %':>20}{'R2 by chance':>14}",
    ]
    if line := left_out_text({report["session"]: report["left_out"]}):
        lines.insert(1, line)
    for axis in (*axes, "mean"):
        suffix = "" if axis == "mean" else f"_{axis}"
        values = (report["scores"][name + suffix] for name in headings)
        cells = "".join(f"{float('nan') if value is None else value:14.3f}" for value in values)
        ends, chance = (report[name]["r2" + suffix] for name in ("intervals", "chance"))
        within = f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else ""
        by_chance = f"{chance['mean']:.3f}" if chance else ""
        lines.append(f"{axis:<6}{cells}{within:>20}{by_chance:>14}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    run_cli(main)
