"""Print how a simulated array changes over its days, and what that does to a decoder of day 1.

The decoder is the default recipe with a GRU. It is scored on the test part of day 1 and on all of
each later day, its units matched by channel and row. A finished run is not repeated.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from bci_decode.comparison.tables import markdown
from bci_decode.data.simulate import simulated_days, units_by_day
from bci_decode.errors import run_cli
from bci_decode.options import CommandParser, path, whole
from bci_decode.style import BASELINE


def main() -> None:
    parser = CommandParser(__doc__)
    option = parser.add_argument
    folder = Path("outputs/simulated_days")
    option("--days", type=whole(1, 1000), default=12, help="how many (default: 12)")
    option("--output", type=path, default=folder, help=f"folder of the run; default: {folder}")
    option("--data-dir", type=path, default=Path("data"), help="of the files (default: data)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    print(markdown(table(arguments.days, arguments.output, arguments.data_dir)))


def table(
    days: int, output: Path, data: Path, minutes: float = 7.0, channels: int = 96, epochs: int = 60
) -> pd.DataFrame:
    """A row for each day of the array with seed 0."""
    from bci_decode.runs.load import load_run
    from bci_decode.studies.training import quoted, train

    array: dict[str, Any] = {"minutes": minutes, "channels": channels}
    words = ["session=simulated_day01", f"model={BASELINE}", f"trainer.epochs={epochs}"]
    words += [f"session.{key}={value}" for key, value in array.items()]
    folders = [f"output_dir={quoted(output)}", f"data_dir={quoted(data)}"]
    run = load_run(train([*words, *folders]))
    units = units_by_day(days, seed=0, **array)
    files = simulated_days(data, days, **array)
    return pd.DataFrame(
        {
            "day": number,
            "units": len(units[number - 1]),
            "neurons of day 1": _left(units[0], units[number - 1]),
            "R2 of the decoder of day 1": round(float(run.score(file).loc["mean", "r2"]), 3),
        }
        for number, file in enumerate(files, 1)
    )


def _left(first: dict, later: dict) -> int:
    return sum(cell in later and later[cell].is_neuron_of(unit) for cell, unit in first.items())


if __name__ == "__main__":
    run_cli(main)
