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
from bci_decode.evaluation.decoding import by_segment, decode_parts, predictor
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
        model.fit(train.counts, scaler.transform(train.target), **_beside(data))
    except ValueError as error:  # of a setting, in scikit-learn's words
        raise BciDecodeError(
            " ".join(str(error).split()), field="model", remedy="correct its settings"
        ) from error
    decoded = scaler.inverse(by_segment(predictor(model, None), train.counts, train.pieces))
    row: dict[str, float] = {
        "epoch": 1,
        "train_loss": metrics.mse(train.truth, decoded),
        "train_r2": float(metrics.r2(train.truth, decoded).mean()),
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


def _beside(data: Dataset) -> dict[str, np.ndarray]:
    """What `fit` gets beside counts and target of the training part.

    Counts (T, N) and scaled target (T, D) to choose on, never a part of the test part, and the
    segments of both parts where one has gaps or unknown targets.
    """
    train, part, found = data.parts["train"], data.parts.get("val"), {}
    if train.left_out():
        found["segments"] = train.segments
    if part is not None and "val" not in enclosing(data.slices):
        found |= {"X_val": part.counts, "y_val": data.target_scaler.transform(part.target)}
        if part.left_out():
            found["val_segments"] = part.segments
    return found
