"""Print the simulated session beside a real recording: units, rates, movement, and how well it is decoded.

The GRU is the default recipe, trained by `python -m bci_decode.train model=gru` (a finished run is not repeated);
the Wiener filter sees the same bins, parts and scores, its ridge penalty chosen on the validation part.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from bci_decode.comparison.tables import markdown
from bci_decode.data.binning import bin_session
from bci_decode.data.inspection import inspect
from bci_decode.data.session import Session, read_session
from bci_decode.errors import run_cli

ALPHAS = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0, 30000.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="real recordings, .mat")
    parser.add_argument("--output-dir", default="outputs", help="where the GRU's runs are kept (default: outputs)")
    arguments = parser.parse_args()
    columns = {"simulated": described(arguments.output_dir, "simulated", "session=simulated")}
    for file in arguments.files:
        columns[file.stem] = described(arguments.output_dir, file.stem, "session=local", f'session.path="{file}"')
    print(markdown(pd.DataFrame(columns).rename_axis(""), index=True))


def described(output_dir: str, name: str, *choice: str) -> dict[str, float]:
    """One column of the table."""
    command = [sys.executable, "-m", "bci_decode.train", "model=gru", f"output_dir={output_dir}", *choice]
    if subprocess.run(command, stdout=sys.stderr).returncode:
        raise SystemExit(2)  # it has said why
    folder = Path(output_dir, "default", name, "gru", "seed0")
    metrics = json.loads((folder / "metrics.json").read_text())
    session = read_session(metrics["data"]["file"], name)
    binned = bin_session(session, bin_width=metrics["protocol"]["bin_width_s"])
    test = metrics["scores"]["test"]
    return _measured(session, binned.kinematics) | {
        "Wiener filter R2": wiener_r2(binned.counts, binned.kinematics, metrics["protocol"]["split_bins"]),
        "GRU R2": test["r2"],
    }


def _measured(session: Session, velocity: np.ndarray) -> dict[str, float]:
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
    """Test R2 of a ridge Wiener filter over ten bins, penalty chosen on the validation part."""
    from bci_decode.evaluation.metrics import r2
    from bci_decode.models.wiener import WienerFilter

    parts = {name: (counts[slice(*limits)], velocity[slice(*limits)]) for name, limits in bins.items()}
    models = [WienerFilter(alpha=alpha).fit(*parts["train"]) for alpha in ALPHAS]
    best = max(models, key=lambda model: r2(parts["val"][1], model.predict(parts["val"][0])).mean())
    return float(r2(parts["test"][1], best.predict(parts["test"][0])).mean())


if __name__ == "__main__":
    run_cli(main)
