"""Adapt a run of many sessions to a new one: `bci-decode calibrate RUN FILE --seconds 60`."""

from __future__ import annotations

import argparse
import logging
import sys
from types import ModuleType

from bci_decode.errors import run_cli
from bci_decode.options import whole
from bci_decode.recalibrate import MOST_STEPS, lines, new_day_parser

DEFAULT_STEPS = 150  # as `realtime.recalibration.calibrate` has them


def main() -> None:
    """Adapt a decoder of many sessions to a new one, from its first seconds alone.

    RUN is the folder of a training with sessions=, or its packed file. The read-in begins with the
    weights of the units of the same channel and row. Then the gradient improves first the read-in,
    then all weights. A new run is written, by default to RUN/calibrated/FILE_<seconds>s; its test
    part is the rest of the session, and its metrics.json names RUN as its parent.
    """
    arguments = _parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    import torch

    from bci_decode.cli import recording_file
    from bci_decode.realtime.recalibration.calibrate import calibrated_run
    from bci_decode.realtime.recalibration.run import Request
    from bci_decode.runs.load_joint import load_joint

    torch.set_num_threads(1)  # more gain nothing for one stream
    options = vars(arguments)
    joint = load_joint(options.pop("run"), trust=tuple(options.pop("trust")))
    file = recording_file(options.pop("file"), options.pop("data_dir"))
    weights = options.pop("weights")
    folder, report = calibrated_run(joint, file, Request(**options), weights)
    print("\n".join(lines(report)))
    print(f"all files in {folder}")


def _parse_args() -> argparse.Namespace:
    parser = new_day_parser(main.__doc__, "folder of a training with sessions=, or packed")
    option = parser.add_argument
    option(
        "--steps",
        type=whole(0, MOST_STEPS),
        default=DEFAULT_STEPS,
        help=f"of the gradient for the read-in, and as many for all weights (default: "
        f"{DEFAULT_STEPS}; 0: scaling and units alone)",
    )
    option(
        "--weights",
        choices=("all", "read-in"),
        default="all",
        help="that are learned: the read-in's and then all (default), or the read-in's alone",
    )
    return parser.parse_args()


class _CallableCommand(ModuleType):
    """`bci_decode.calibrate` is this module and, for users of the package, the function."""

    def __call__(self, *arguments, **options):
        from bci_decode.realtime.recalibration.calibrate import calibrate

        return calibrate(*arguments, **options)


sys.modules[__name__].__class__ = _CallableCommand


if __name__ == "__main__":
    run_cli(main)
