"""Fit a run to the units of another day: `bci-decode recalibrate RUN FILE --seconds 60`."""

from __future__ import annotations

import argparse
import logging
from typing import Any

from bci_decode.errors import run_cli
from bci_decode.options import CommandParser, add_trust, path, seconds, seed, whole

DEFAULT_STEPS = 200  # as `realtime.recalibration.fit` has them
MOST_STEPS = 100_000  # take the better part of an hour


def main() -> None:
    """Fit a trained decoder to a session with other units, from its first seconds alone.

    The recurrent core stays. Scaling, read-in and read-out are fitted again, first by ridge
    regression, then by some steps of the gradient. A new run is written, by default to
    RUN/recalibrated/FILE_<seconds>s; its test part is the rest of the session, and its
    metrics.json names RUN as its parent.
    """
    arguments = _parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    import torch

    from bci_decode.cli import recording_file
    from bci_decode.realtime.recalibration.run import Request, recalibrated_run
    from bci_decode.runs.load import load_run

    torch.set_num_threads(1)  # more gain nothing for one stream
    options = vars(arguments)
    run = load_run(options.pop("run"), trust=tuple(options.pop("trust")))
    file = recording_file(options.pop("file"), options.pop("data_dir"))
    folder, report = recalibrated_run(run, file, Request(**options))
    print("\n".join(lines(report)))
    print(f"all files in {folder}")


def _parse_args() -> argparse.Namespace:
    parser = new_day_parser(main.__doc__, "folder of a finished run, or a packed one")
    option = parser.add_argument
    option(
        "--steps",
        type=whole(0, MOST_STEPS),
        default=DEFAULT_STEPS,
        help=f"of the gradient after the ridge regression (default: {DEFAULT_STEPS}; 0: none)",
    )
    option(
        "--parent-session",
        metavar="FILE",
        help="the session that RUN was trained on; default: the file that it was then, if it is "
        "still there. Without it, new units start without weights",
    )
    return parser.parse_args()


def new_day_parser(doc: str | None, run: str) -> CommandParser:
    """The options of every command that fits a run to a new day; `run` says what RUN is."""
    parser = CommandParser(doc)
    option = parser.add_argument
    option("run", type=path, metavar="RUN", help=run)
    option("file", metavar="FILE|NAME", help="recording of the new day, or a named session")
    option("--seconds", type=seconds, default=60.0, help="s of FILE to learn from (default: 60)")
    option("--seed", type=seed, default=0, help="of the gradient steps (default: 0)")
    option("--output", metavar="DIR", help="folder of the new run")
    option("--overwrite", action="store_true", help="make it again although it is finished")
    option("--figures", choices=("png", "pdf", "svg"), default="png")
    option("--data-dir", default="data", metavar="DIR", help="where NAME.mat is")
    add_trust(parser)
    return parser


def lines(report: dict[str, Any]) -> list[str]:
    """R2 of the rest of the session, before and after."""
    parent, after = report["parent"], report["scores"]["test"]
    units = parent["units"]
    axes = [name for name in after if name.startswith("r2_")]
    rows = {"before": parent["scores"]["test"], "after": after}
    first, last = report["protocol"]["split_bins"]["test"]
    lines = [
        f"{report['session']}: {units['new session']} units, {units['same channel and row']} of "
        f"them with the channel and row of one of the decoder's {units['parent']}",
        f"R2 of the {last - first} bins after the first {parent['seconds']:g} s:",
    ]
    for name, scores in rows.items():
        if scores is None:
            lines.append(f"{name:<7} none, the decoder has none of the units")
            continue
        values = [float("nan") if scores[k] is None else scores[k] for k in ("r2", *axes)]
        parts = ", ".join(
            f"{axis.removeprefix('r2_')} {value:.3f}"
            for axis, value in zip(axes, values[1:], strict=True)
        )
        lines.append(f"{name:<7} {values[0]:.3f} ({parts})")
    if parent["learned_from"]:
        learned = " and ".join(parent["learned_from"])
        lines.append(f'"before" includes bins that RUN has learned from: its {learned} part')
    pairs = zip(report["stages"], report["stage_r2"], strict=True)
    lines.append("after each stage: " + ", ".join(f"{name} {r2:.3f}" for name, r2 in pairs))
    absent = " (the parent's session was not found)" * (parent.get("session_file", "") is None)
    lines.append(f"read-in: {parent['read_in']}{absent}")
    return lines


if __name__ == "__main__":
    run_cli(main)
