"""The tables and the figure of docs/multi_session.md: one decoder for many days, and new days."""

from __future__ import annotations

from pathlib import Path

from bci_decode.errors import run_cli
from bci_decode.options import CommandParser, path, whole


def main() -> None:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--excerpt", type=path, metavar="FILE.mat", help="a recording that is cut into four days")
    add("--output", type=path, default=Path("outputs/explain/multi_session"), metavar="DIR")
    add("--data-dir", type=path, default=Path("data/multi_session"), metavar="DIR")
    add("--seeds", type=whole(1, 1000), default=3, help="arrays, each a seed (default: 3)")
    add(
        "--days",
        type=whole(9, 1000),
        nargs="+",
        default=[9, 10, 11, 12],
        help="new ones, after the trained days 1 to 8 (default: 9 10 11 12)",
    )
    add("--document", type=path, help="update its tables and figure: docs/multi_session.md")
    arguments = parser.parse_args()
    import torch

    from bci_decode.realtime.recalibration.days_study import days_study
    from bci_decode.studies.document import refresh

    torch.set_num_threads(1)
    print(
        days_study(
            arguments.output,
            arguments.data_dir,
            arguments.excerpt,
            arguments.seeds,
            arguments.days,
        )
    )
    print(f"wrote to {arguments.output}")
    if arguments.document:
        print(refresh(arguments.document, arguments.output.parent))


if __name__ == "__main__":
    run_cli(main)
