"""The report of a run: `metrics.json`, scores with the protocol behind them, and `predictions.npz`.

It is made from decoded parts and a history, whatever model they come from.
"""

from __future__ import annotations

import json
import math
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import bci_decode
from bci_decode.config import TARGETS, DataConfig, TrainConfig
from bci_decode.data.catalog import catalog
from bci_decode.data.dataset import Dataset
from bci_decode.data.segments import known_rows
from bci_decode.data.split import enclosing
from bci_decode.errors import BciDecodeError
from bci_decode.evaluation import metrics
from bci_decode.evaluation.intervals import chance_level, r2_intervals
from bci_decode.evaluation.scores import scores
from bci_decode.files import written_whole
from bci_decode.runs.checksums import SUMS, write_checksums

RULES = {
    "val": "lowest loss on the validation part",
    "test": "highest R2 on the TEST part: a leak, as in the source study, so the test scores are "
    "too good",
    "last": "none: the last epoch, fixed beforehand",
    "closed form": "none: fitted in closed form",
}
AGREES = 1e-3  # of a loss: float32 on another device differs by far less
LIBRARIES = ("torch", "numpy", "h5py", "scipy", "pandas", "hydra-core")


def write_report(
    folder: Path,
    data: Dataset,
    decoded: dict[str, np.ndarray],
    history: pd.DataFrame,
    config: TrainConfig,
    about: dict[str, Any],
) -> dict[str, Any]:
    """Write `predictions.npz`, `metrics.json` and all checksums; returns what `metrics.json` holds.

    `decoded` has every part but the training one, (T, D) in the target's unit, at the epoch
    `about["best_epoch"]`. `about` (session, model, seed, data file and the like) goes into
    `metrics.json` as it is. The checksums are written last: a run that has them is finished.
    """
    parts = [name for name in decoded if name not in enclosing(data.slices)]
    select_on = config.trainer.select_on
    test, width = data.parts["test"].truth, config.data.bin_width
    rule = select_on if len(history) > 1 else "closed form"
    report = about | {
        "epochs": int(history["epoch"].iloc[-1]),
        "select_on": select_on,
        "selection_rule": RULES[rule],
        "scores": {
            name: scores(data.parts[name].truth, decoded[name], data.axes) for name in parts
        },
        "intervals": {"test": r2_intervals(test, decoded["test"], width, data.axes)},
        "chance": {"test": chance_level(test, decoded["test"], data.axes)},
        "loss": {name: metrics.mse(data.parts[name].truth, decoded[name]) for name in parts},
        "holdout": _holdout(data, history, about["best_epoch"]),
        "target_variance": {name: target_variance(part.truth) for name, part in data.parts.items()},
        "protocol": _protocol(data, config.data, about["bidirectional"]),
        "seconds": float(history["seconds"].sum()),
        "versions": {"python": platform.python_version(), "bci_decode": bci_decode.__version__}
        | {name: version(name) for name in LIBRARIES},
        "checksums": SUMS,
    }
    write_predictions(folder / "predictions.npz", data, decoded["test"], config.data)
    with written_whole(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    write_checksums(folder)
    return report


def check_agrees(
    data: Dataset, decoded: dict[str, np.ndarray], history: pd.DataFrame, epoch: int, best: Path
) -> None:
    """Refuse a report of weights that do not decode with the losses that the history has of them.

    `best` is the checkpoint of the selected `epoch` that the weights are from.
    """
    row = history[history["epoch"] == epoch]
    for name, outputs in decoded.items():
        loss, column = metrics.mse(data.parts[name].truth, outputs), f"{name}_loss"
        known = float(row[column].iloc[0]) if len(row) and column in row else math.nan
        if column in history and not math.isclose(loss, known, rel_tol=AGREES):
            raise BciDecodeError(
                f"decodes the {name} part with a loss of {loss:.6g}, and history.csv has "
                f"{known:.6g} at epoch {epoch}",
                file=best,
                remedy="start the same command again; if that does not help, with overwrite=true",
            )


def write_predictions(path: Path, data: Dataset, decoded: np.ndarray, config: DataConfig) -> None:
    """Write time, true and decoded target (T, D) of the test part.

    The true one is NaN in bins that are not scored, the decoded one in gaps.
    """
    test = data.parts["test"]
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            time=test.time,
            true=test.truth,
            decoded=decoded,
            axes=data.axes,
            target=config.target,
            unit=data.unit or TARGETS[config.target],
            bin_width=config.bin_width,
        )


def target_variance(target: np.ndarray) -> float:
    """Variance of a target (T, D) where it is known, mean over the axes.

    It is the loss of a decoder that knows the mean alone.
    """
    return float(known_rows(target).var(axis=0).mean())


def recording_kind(session: dict[str, Any], md5: str) -> str:
    """The kind of recording that a run is of.

    It is "simulated", "recorded" (a published session), "excerpt" of one or "own file". `session`
    is that part of the resolved settings.
    """
    name = str(session["name"])
    if str(session.get("_target_")).startswith("bci_decode.data.simulate."):
        return "simulated"
    if name in catalog() and md5 == catalog()[name].md5:
        return "recorded"
    return "excerpt" if name.startswith(tuple(catalog())) else "own file"


def _holdout(data: Dataset, history: pd.DataFrame, selected: int) -> dict | None:
    """The score of bins on which nothing was selected, where an epoch is selected on the test part.

    Both figures are of the same bins: at the epoch of the lowest validation loss and, to tell what
    the leak gains, at the `selected` one. None without such bins.
    """
    if "holdout" not in data.slices:
        return None
    val, holdout = ([data.slices[n].start, data.slices[n].stop] for n in ("val", "holdout"))

    def at(epoch: int) -> dict:
        names = ("r2", *(f"r2_{axis}" for axis in data.axes), "loss")
        values = {name: float(history.loc[epoch, f"holdout_{name}"]) for name in names}
        return {"epoch": epoch} | {
            name: value if math.isfinite(value) else None for name, value in values.items()
        }

    return at(int(history["val_loss"].idxmin())) | {
        "selection_rule": f"lowest loss on bins {val[0]} to {val[1]}, the beginning of the test "
        f"part; scored on bins {holdout[0]} to {holdout[1]}, on which nothing was selected",
        "val_bins": val,
        "bins": holdout,
        "at_test_selected_epoch": at(selected),
    }


def score_line(report: dict) -> str:
    """The scores in a line, each with how its epoch was selected."""
    test, holdout = report["scores"]["test"], report["holdout"]
    rule = f"selected by the {report['selection_rule']}"
    if report["selection_rule"] == RULES["closed form"]:
        return f"test {_r2(test)}, fitted in closed form"
    if report["selection_rule"] == RULES["last"]:
        rule = "the last one, as fixed beforehand"
    line = f"test {_r2(test)} at epoch {report['best_epoch']}, {rule}"
    if holdout is None:
        return line
    start, stop = holdout["bins"]
    return (
        f"{line}; holdout: {_r2(holdout)} on the last {stop - start} bins, epoch "
        f"{holdout['epoch']} by validation"
    )


def _r2(scores: dict) -> str:
    r2, x, y = (math.nan if scores[key] is None else scores[key] for key in ("r2", "r2_x", "r2_y"))
    return f"R2 {r2:.3f} (x {x:.3f}, y {y:.3f})"


def _protocol(data: Dataset, config: DataConfig, bidirectional: bool) -> dict[str, Any]:
    """How the figures came about: the same for two runs that share a column of a table."""
    # a window of history ends with the bin that is decoded: read from both ends, it is still past
    looks_ahead = bidirectional and data.window.history is None
    delay = max(0.0, config.delay - config.lag)
    delay += len(data.parts["test"]) * config.bin_width if looks_ahead else 0.0
    window = data.window
    left_out = {name: found for name, part in data.parts.items() if (found := part.left_out())}
    return {
        "source": config.source,
        "target": config.target,
        "unit": data.unit or TARGETS[config.target],
        "bin_width_s": config.bin_width,
        "lag_s": config.lag,
        "units": config.units,
        "area": config.area,
        "min_rate_hz": config.min_rate,
        "low_pass_hz": config.low_pass,
        "presence_s": config.presence,
        "count_window_s": config.count_window,
        "difference": config.difference,
        "split_by": config.split.by,
        "units_used": len(data.units),
        "split_bins": {
            name: [bins.start, bins.stop]
            for name, bins in data.slices.items()
            if name not in enclosing(data.slices)
        },
        "scale": {"counts": config.scale.counts, "target": config.scale.target},
        "window": {
            "kind": window.kind,
            "length": window.length,
            "first_output": window.first_output,
            "step": window.step,
        },
        "scored_on": ("the bins that are not left out" if left_out else "every bin of the part")
        + ", as one stream"
        + ", read from both its ends" * looks_ahead,
        "bidirectional": bidirectional,
        "delay_s": delay,  # how long a live decoder would wait for later spikes
    } | ({"left_out": left_out} if left_out else {})
