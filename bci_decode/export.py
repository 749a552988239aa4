"""Export a trained decoder to ONNX: `bci-decode export RUN out.onnx`."""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING

from bci_decode.errors import BciDecodeError, run_cli
from bci_decode.options import CommandParser, add_trust, path, whole

if TYPE_CHECKING:
    from bci_decode.realtime.onnx.export import Exported


def main() -> None:
    """Write the step of a trained decoder as an ONNX model: one bin of counts in, kinematics out.

    Scaling is inside; state is in the inputs and outputs; units, bin width, lag and all else that
    a program needs are in the metadata. The file is kept only if onnxruntime gives what PyTorch
    gives over a whole session: --session, or the run's own recording, or else random counts.
    """
    arguments = _parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from bci_decode.files import expand_user
    from bci_decode.realtime.onnx.export import check_libraries, check_place

    path = expand_user(arguments.output)
    check_place(path)
    check_libraries()
    if arguments.session == "":
        remedy = "name a file, or leave it out"
        raise BciDecodeError("is empty", field="--session", remedy=remedy)
    import torch

    from bci_decode.realtime.onnx.export import export_onnx
    from bci_decode.runs.load import load_run

    torch.set_num_threads(1)  # more gain nothing for one stream
    run, session = load_run(arguments.run, trust=tuple(arguments.trust)), None
    if arguments.session:
        from bci_decode.cli import recording_file
        from bci_decode.data.session import read_session

        file = recording_file(arguments.session, arguments.data_dir)
        session = read_session(file, source=run.config.source)
    print(_report(export_onnx(run, path, session, arguments.opset)))


def _parse_args() -> argparse.Namespace:
    parser = CommandParser(main.__doc__)
    parser.add_argument(
        "run", type=path, metavar="RUN", help="folder of a finished run, or a packed one"
    )
    parser.add_argument("output", metavar="FILE.onnx", help="what is written")
    parser.add_argument(
        "--session", metavar="FILE|NAME", help="verify over this recording, or named session"
    )
    parser.add_argument(
        "--opset",
        type=whole(18, 23),
        default=20,
        help="version of ONNX's operators, 18 to 23 (default: 20)",
    )
    parser.add_argument("--data-dir", default="data", metavar="DIR", help="where NAME.mat is")
    add_trust(parser)
    return parser.parse_args()


def _report(exported: Exported) -> str:
    inputs = (f"{name} {tuple(shape)}" for name, shape in exported.inputs.items())
    return (
        f"wrote {exported.path}: {exported.size / 1024:.0f} KiB, {exported.nodes} nodes\n"
        f"inputs: {', '.join(inputs).replace(chr(39), '')}\n"
        f"verified over {exported.bins} bins of {exported.session}, and over two streams of "
        f"random counts: differs from PyTorch by at most {exported.difference:.1e} of the target's "
        "SD"
    )


if __name__ == "__main__":
    run_cli(main)
