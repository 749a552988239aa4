"""Try recipes by forward-chained cross-validation: three cuts, three seeds, one CSV file."""

from __future__ import annotations

from pathlib import Path

from bci_decode.errors import run_cli
from bci_decode.files import made_folder
from bci_decode.options import CommandParser, path, whole

LIST = Path(__file__).resolve().parents[1] / "docs" / "trials.yaml"


def main() -> None:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--list", type=path, default=LIST, metavar="FILE.yaml", help="default: docs/trials.yaml")
    add("--session", type=path, metavar="FILE.mat", help="default: the simulated session")
    add("--table", type=path, default=Path("outputs/trials.csv"), metavar="FILE.csv",
        help="has all scores; what it lacks is trained; default: outputs/trials.csv")  # fmt: skip
    add("--seeds", type=whole(1, 1000), default=3, help="default: 3")
    arguments = parser.parse_args()
    from bci_decode.studies.trials import read_trials, run_trials, text

    made_folder(arguments.table.parent)
    trials = read_trials(arguments.list, arguments.seeds, cuts=3)
    print(text(run_trials(trials, arguments.session, arguments.table)))


if __name__ == "__main__":
    run_cli(main)
