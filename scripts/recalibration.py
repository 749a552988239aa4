"""The tables and the figure of docs/recalibration.md: R2 after some seconds of a new day."""

from __future__ import annotations

import argparse
from pathlib import Path

from bci_decode.errors import run_cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--excerpt", type=Path, metavar="FILE.mat", help="a recording whose halves are two days")
    add("--output", type=Path, default=Path("outputs/explain/recalibration"), metavar="DIR")
    add("--data-dir", type=Path, default=Path("data/recalibration"), metavar="DIR")
    add("--pairs", type=int, default=6, help="of simulated sessions (default: 6)")
    add("--seeds", type=int, default=3, help="of each decoder (default: 3)")
    add("--minutes", type=float, default=5.0, help="of a simulated session (default: 5)")
    add("--document", type=Path, help="update its tables and figure: docs/recalibration.md")
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
