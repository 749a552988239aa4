"""Tables and the figure of docs/normalisation.md from the runs of its two experiments."""

from __future__ import annotations

from pathlib import Path

from bci_decode.errors import run_cli
from bci_decode.options import CommandParser, path


def main() -> None:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("folders", type=path, nargs="+", metavar="FOLDER", help="folders with the runs")
    add("--output", type=path, default=Path("outputs/explain/normalisation"), metavar="DIR")
    add("--document", type=path, help="update its tables and figure: docs/normalisation.md")
    arguments = parser.parse_args()
    from bci_decode.studies.document import refresh
    from bci_decode.studies.normalisation import normalisation

    print(normalisation(arguments.folders, arguments.output))
    print(f"wrote to {arguments.output}")
    if arguments.document:
        print(refresh(arguments.document, arguments.output.parent))


if __name__ == "__main__":
    run_cli(main)
