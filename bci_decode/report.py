"""What a finished run leaves behind: `metrics.json`, the figures with the protocol behind them, and `predictions.npz`."""

from __future__ import annotations

import json
import math
import platform
from importlib.metadata import version

import numpy as np
import pandas as pd

import bci_decode
from bci_decode import metrics
from bci_decode.binning import TARGETS
from bci_decode.checkpoint import load_checkpoint
from bci_decode.config import DataConfig
from bci_decode.dataset import Dataset
from bci_decode.decoder import Decoder
from bci_decode.files import written_whole
from bci_decode.trainer import AXES, Trainer, decode_part

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
    decoded = {name: decode_part(decoder, data, name) for name in data.parts if name != "train"}
    report = about | {
        "best_epoch": best,
        "epochs": int(history["epoch"].iloc[-1]),
        "select_on": trainer.config.select_on,
        "selection_rule": RULES[trainer.config.select_on],
        "scores": {name: scores(data.parts[name].target, decoded[name]) for name in decoded},
        "loss": {name: metrics.mse(data.parts[name].target, decoded[name]) for name in decoded},
        "target_variance": {name: float(part.target.var(axis=0).mean()) for name, part in data.parts.items()},
        "protocol": _protocol(data, decoder, config),
        "parameters": sum(parameter.numel() for parameter in decoder.parameters()),
        "seconds": float(history["seconds"].sum()),
        "device": str(trainer.device),
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
        "scored_on": "every bin of the part, as one stream",
        "delay_s": _delay(data, decoder, config),
    }


def _delay(data: Dataset, decoder: Decoder, config: DataConfig) -> float:
    """Seconds that a live decoder would have to wait for spikes that follow the moment it decodes."""
    to_the_end = decoder.bidirectional and data.window.history is None
    return max(0.0, -config.lag) + (len(data.parts["test"]) * config.bin_width if to_the_end else 0.0)
