"""What a finished run leaves behind: `metrics.json`, the figures with the protocol behind them, and `predictions.npz`."""

from __future__ import annotations

import json
import math
import platform
from importlib.metadata import version

import numpy as np
import pandas as pd

import bci_decode
from bci_decode.config import TARGETS, DataConfig
from bci_decode.data.dataset import Dataset
from bci_decode.evaluation import metrics
from bci_decode.files import written_whole
from bci_decode.layers.cpu.matmul import fast_matmul, onednn_is_exact
from bci_decode.models.decoder import Decoder
from bci_decode.training.checkpoint import load_checkpoint
from bci_decode.training.trainer import AXES, Trainer, decode_parts

SCORES = {"r2": metrics.r2, "cc": metrics.cc, "rmse": metrics.rmse, "snr_db": metrics.snr_db}
RULES = {
    "val": "lowest loss on the validation part",
    "test": "highest R2 on the TEST part: a leak, as in the source study, so the test scores are too good",
}


def scores(true: np.ndarray, decoded: np.ndarray) -> dict[str, float | None]:
    """Every score, its mean over the axes and each axis alone, of (T, D) arrays; None where it is not a number."""
    found = {}
    for name, score in SCORES.items():
        values = score(true, decoded)
        found[name] = float(values.mean())
        found |= {f"{name}_{axis}": float(value) for axis, value in zip(AXES, values, strict=True)}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def write_report(trainer: Trainer, history: pd.DataFrame, config: DataConfig, about: dict) -> dict:
    """Score the best epoch's decoder on the whole test stream; write `predictions.npz`, then `metrics.json`.

    `about` (session, model, seed, data file and the like) goes into `metrics.json` as it is. That file is written
    last: a run that has it is finished. Returns what it holds.
    """
    data, decoder, folder = trainer.data, trainer.decoder, trainer.folder
    best = load_checkpoint(folder / "best.pt", decoder)["epoch"]
    with fast_matmul(trainer.config.gemm):
        decoded = {name: a for name, a in decode_parts(decoder, data).items() if name in data.bins}
    report = about | {
        "best_epoch": best,
        "epochs": int(history["epoch"].iloc[-1]),
        "select_on": trainer.config.select_on,
        "selection_rule": RULES[trainer.config.select_on],
        "scores": {name: scores(data.parts[name].target, decoded[name]) for name in decoded},
        "loss": {name: metrics.mse(data.parts[name].target, decoded[name]) for name in decoded},
        "honest": _honest(data, history, best),
        "target_variance": {name: float(part.target.var(axis=0).mean()) for name, part in data.parts.items()},
        "protocol": _protocol(data, decoder, config),
        "parameters": sum(parameter.numel() for parameter in decoder.parameters()),
        "seconds": float(history["seconds"].sum()),
        "device": str(trainer.device),
        "gemm": "onednn where it pays" if trainer.config.gemm == "auto" and onednn_is_exact() else "default",
        "versions": {"python": platform.python_version(), "bci_decode": bci_decode.__version__}
        | {name: version(name) for name in ("torch", "numpy", "h5py", "scipy", "pandas", "hydra-core")},
    }
    test = data.parts["test"]
    with written_whole(folder / "predictions.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            time=test.time,
            true=test.target,
            decoded=decoded["test"],
            axes=AXES,
            target=config.target,
            unit=TARGETS[config.target],
            bin_width=config.bin_width,
        )
    with written_whole(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    return report


def _honest(data: Dataset, history: pd.DataFrame, chosen: int) -> dict | None:
    """The score that no choice was made on, where another one was chosen on the test part; None without such bins.

    Both figures are of the same bins, the "held" ones: at the epoch of the lowest validation loss, and, to tell what
    the leak gains, at the `chosen` one.
    """
    if not data.stretches:
        return None
    first = data.bins["test"].start
    val, held = ([first + s.start, first + s.stop] for s in (data.stretches["val"], data.stretches["held"]))
    best = int(history["val_loss"].idxmin())

    def at(epoch: int) -> dict:
        values = {score: float(history.loc[epoch, f"held_{score}"]) for score in ("r2", "r2_x", "r2_y", "loss")}
        return {"epoch": epoch} | {name: value if math.isfinite(value) else None for name, value in values.items()}

    return at(best) | {
        "selection_rule": f"lowest loss on bins {val[0]} to {val[1]}, the beginning of what follows the training part; "
        f"scored on bins {held[0]} to {held[1]}, on which nothing was chosen",
        "val_bins": val,
        "bins": held,
        "at_test_choice": at(chosen),
    }


def told(report: dict) -> str:
    """The scores in a line, each with how its epoch was chosen."""
    test, honest = report["scores"]["test"], report["honest"]
    line = f"test {_r2(test)} at epoch {report['best_epoch']}, chosen by the {report['selection_rule']}"
    if honest is None:
        return line
    start, stop = honest["bins"]
    return f"{line}; honest: {_r2(honest)} on the last {stop - start} bins, epoch {honest['epoch']} by validation"


def _r2(scores: dict) -> str:
    r2, x, y = (math.nan if scores[key] is None else scores[key] for key in ("r2", "r2_x", "r2_y"))
    return f"R2 {r2:.3f} (x {x:.3f}, y {y:.3f})"


def _protocol(data: Dataset, decoder: Decoder, config: DataConfig) -> dict:
    """How the figures came about: what has to be the same before two runs may stand in one column."""
    return {
        "source": config.source,
        "target": config.target,
        "unit": TARGETS[config.target],
        "bin_width_s": config.bin_width,
        "lag_s": config.lag,
        "units": config.units,
        "area": config.area,
        "min_rate_hz": config.min_rate,
        "units_used": len(data.units),
        "split_bins": {name: [where.start, where.stop] for name, where in data.bins.items()},
        "scale": {"counts": config.scale.counts, "target": config.scale.target},
        "window": {"kind": data.window.kind, "length": data.window.length, "first_output": data.window.first_output},
        "scored_on": "every bin of the part, as one stream" + ", read from both its ends" * _looks_ahead(data, decoder),
        "bidirectional": decoder.bidirectional,
        "delay_s": _delay(data, decoder, config),
    }


def _delay(data: Dataset, decoder: Decoder, config: DataConfig) -> float:
    """Seconds that a live decoder would have to wait for spikes that follow the moment it decodes."""
    to_the_end = len(data.parts["test"]) * config.bin_width if _looks_ahead(data, decoder) else 0.0
    return max(0.0, -config.lag) + to_the_end


def _looks_ahead(data: Dataset, decoder: Decoder) -> bool:
    """A window of history ends with the bin that is decoded: read from both ends, it still holds the past alone."""
    return decoder.bidirectional and data.window.history is None
