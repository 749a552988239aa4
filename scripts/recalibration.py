"""The tables and the figure of docs/recalibration.md: R2 after some seconds of a new day."""

from __future__ import annotations

from pathlib import Path

from bci_decode.errors import run_cli
from bci_decode.options import CommandParser, number, path, whole


def main() -> None:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--excerpt", type=path, metavar="FILE.mat", help="a recording whose halves are two days")
    add("--output", type=path, default=Path("outputs/explain/recalibration"), metavar="DIR")
    add("--data-dir", type=path, default=Path("data/recalibration"), metavar="DIR")
    add("--pairs", type=whole(1, 1000), default=6, help="of simulated sessions (default: 6)")
    add("--seeds", type=whole(1, 1000), default=3, help="of each decoder (default: 3)")
    add(
        "--minutes", type=number(0.05, 240), default=5.0, help="of a simulated session (default: 5)"
    )
    add("--document", type=path, help="update its tables and figure: docs/recalibration.md")
    arguments = parser.parse_args()
    import torch

    from bci_decode.realtime.recalibration.study import recalibration_study
    from bci_decode.studies.document import refresh

    torch.set_num_threads(1)
    print(
        recalibration_study(
            arguments.output,
            arguments.data_dir,
            arguments.excerpt,
            arguments.pairs,
            arguments.seeds,
            arguments.minutes,
        )
    )
    print(f"wrote to {arguments.output}")
    if arguments.document:
        print(refresh(arguments.document, arguments.output.parent))


if __name__ == "__main__":
    run_cli(main)
