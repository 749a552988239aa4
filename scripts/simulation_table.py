"""Print the simulated session beside real recordings: units, rates, movement, decoding.

The recurrent decoder is the default recipe with a GRU; a finished run is not repeated. The Wiener
filter has the same bins, parts and scores, its penalty selected on the validation part.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd

from bci_decode.comparison.tables import markdown
from bci_decode.data.binning import bin_session
from bci_decode.data.inspection import inspect
from bci_decode.data.session import Session, read_session
from bci_decode.errors import run_cli
from bci_decode.options import CommandParser, path
from bci_decode.style import BASELINE, model_label


def main() -> None:
    parser = CommandParser(__doc__)
    option = parser.add_argument
    option("files", nargs="*", type=path, help="real recordings, .mat")
    folder = Path("outputs/simulation_table")
    option("--output", type=path, default=folder, help=f"folder of the runs; default: {folder}")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    columns = {file.stem if file else "simulated": column(arguments.output, file)
               for file in (None, *arguments.files)}  # fmt: skip
    print(markdown(pd.DataFrame(columns).rename_axis(""), index=True))


def column(output: Path, file: Path | None) -> dict[str, float]:
    """One column of the table; without a file that of the simulated session."""
    from bci_decode.studies.training import quoted, session_words, train

    words = [f"model={BASELINE}", f"output_dir={quoted(output)}", *session_words(file)]
    metrics = json.loads((train(words) / "metrics.json").read_text())
    session = read_session(metrics["data"]["file"], metrics["session"])
    binned = bin_session(session, bin_width=metrics["protocol"]["bin_width_s"])
    parts = metrics["protocol"]["split_bins"]
    return measured(session, binned.kinematics) | {
        "Wiener filter R2": wiener_r2(binned.counts, binned.kinematics, parts),
        f"{model_label(BASELINE)} R2": metrics["scores"]["test"]["r2"],
    }


def measured(session: Session, velocity: np.ndarray) -> dict[str, float]:
    numbers = inspect(session).numbers
    rates, finger = numbers["rates"], numbers["finger_pos"]
    return {
        "minutes": numbers["clock"]["minutes"],
        "units": rates["units"],
        "of them hash": rates["hash_units"],
        "channels without a unit": numbers["channels"]["silent"],
        "mean rate of a unit, Hz": rates["mean_hz"],
        "median rate of a unit, Hz": rates["median_hz"],
        "variance of x velocity, (mm/s)²": velocity[:, 0].var(),
        "variance of y velocity, (mm/s)²": velocity[:, 1].var(),
        "mean speed, mm/s": finger["mean_mm_s"],
        "95th percentile of speed, mm/s": finger["p95_mm_s"],
        "share of time below 10 mm/s": finger["rest_share"],
        "targets per minute": numbers["targets"]["per_minute"],
    }


def wiener_r2(counts: np.ndarray, velocity: np.ndarray, bins: dict[str, list[int]]) -> float:
    """Test R2 of a Wiener filter over ten bins, its penalty selected on the validation part."""
    from bci_decode.evaluation.metrics import r2
    from bci_decode.models.wiener import WienerFilter

    parts = {
        name: (counts[slice(*limits)], velocity[slice(*limits)]) for name, limits in bins.items()
    }
    model = WienerFilter().fit(*parts["train"], *parts["val"])
    return float(r2(parts["test"][1], model.predict(parts["test"][0])).mean())


if __name__ == "__main__":
    run_cli(main)
