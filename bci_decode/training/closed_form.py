"""Fit a closed-form model, then write `history.csv` and `best.pt`, as training does."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from bci_decode.data.dataset import Dataset
from bci_decode.data.split import enclosing
from bci_decode.errors import BciDecodeError
from bci_decode.evaluation import metrics
from bci_decode.evaluation.decoding import decode_parts, predictor
from bci_decode.files import written_whole
from bci_decode.models.closed_form import ClosedForm
from bci_decode.training.checkpoint import data_state, save_checkpoint
from bci_decode.training.history import history_columns, part_columns

log = logging.getLogger(__name__)


def fit_closed_form(model: ClosedForm, data: Dataset) -> pd.DataFrame:
    """Fit to the training part; the history has one row, epoch 1, without a learning rate.

    The validation part, if any, chooses among settings such as the penalties of a Wiener filter.
    Nothing is written, so a setting that is refused leaves nothing behind.
    """
    started = time.perf_counter()
    train = data.parts["train"]
    scaler = data.target_scaler
    try:
        model.fit(train.counts, scaler.transform(train.target), *_validation(data))
    except ValueError as error:  # of a setting, in scikit-learn's words
        raise BciDecodeError(
            " ".join(str(error).split()), field="model", remedy="correct its settings"
        ) from error
    decoded = scaler.inverse(predictor(model, None)(train.counts))
    row: dict[str, float] = {
        "epoch": 1,
        "train_loss": metrics.mse(train.target, decoded),
        "train_r2": float(metrics.r2(train.target, decoded).mean()),
    }
    row |= part_columns(data, decode_parts(model, data))
    row |= {"lr": math.nan, "seconds": time.perf_counter() - started}
    scored = [name for name in ("val", "test", "holdout") if f"{name}_loss" in row]
    return pd.DataFrame([row], columns=history_columns(scored, data.axes))


def write_closed_form(
    model: ClosedForm, data: Dataset, history: pd.DataFrame, folder: Path, about: dict[str, Any]
) -> pd.DataFrame:
    """Write what `fit_closed_form` found, say what it chose, and return the history."""
    for name, value in model.choices().items():
        log.info("%s %g, chosen by the fit", name, value)
    weights = {name: torch.as_tensor(values) for name, values in model.fitted_arrays().items()}
    save_checkpoint(folder / "best.pt", about | data_state(data) | {"epoch": 1, "decoder": weights})
    with written_whole(folder / "history.csv") as temporary:
        history.to_csv(temporary, index=False)
    return history


def _validation(data: Dataset) -> tuple[np.ndarray, np.ndarray] | tuple[()]:
    """Counts (T, N) and scaled target (T, D) to choose on; never a part of the test part."""
    part = data.parts.get("val")
    if part is None or "val" in enclosing(data.slices):
        return ()
    return part.counts, data.target_scaler.transform(part.target)
