"""`train`, the command as a function, and a recurrent decoder as a scikit-learn estimator."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin

from bci_decode.config import DataConfig
from bci_decode.data.catalog import catalog
from bci_decode.data.dataset import Dataset, Part, Scaler, Window
from bci_decode.errors import BciDecodeError
from bci_decode.evaluation.decoding import predictor
from bci_decode.runs.build import build_decoder, instantiate
from bci_decode.runs.compose import compose_config, typed_config
from bci_decode.runs.load import LoadedRun, load_run
from bci_decode.runs.run import run

AXIS_NAMES = ("x", "y", "z")


def train(
    session: str | Path | None = None,
    model: str | None = None,
    overrides: Sequence[str] = (),
    output_dir: str | Path = "outputs",
    progress: bool = True,
) -> LoadedRun:
    """Train a decoder as `python -m bci_decode.train` does, and load it.

    `session` is a file, the name of a published session in `data/`, or None for the simulated one;
    `overrides` are words of the command line such as "data.lag=0.06". A finished run of the same
    settings is loaded, not repeated.
    """
    words = [f"output_dir={output_dir}", *overrides]
    if model is not None:
        words.insert(0, f"model={model}")
    if session is not None:
        known = str(session) in catalog() or str(session) == "simulated"
        own = ["session=local", f"session.path={session}"]
        words = ([f"session={session}"] if known else own) + words
    return load_run(run(compose_config(*words), words=words, progress=progress))


class RNNDecoder(RegressorMixin, BaseEstimator):
    """A recurrent decoder from arrays, with the recipe that `model` has in `conf/model/`.

    `val` is the last share of what `fit` gets, which selects the epoch. `overrides` are words of
    the command line such as "model.recurrent.hidden_size=64".
    """

    def __init__(
        self,
        model: str = "lngru",
        epochs: int = 60,
        val: float = 0.1,
        seed: int = 0,
        overrides: Sequence[str] = (),
        progress: bool = False,
    ):
        self.model = model
        self.epochs = epochs
        self.val = val
        self.seed = seed
        self.overrides = overrides
        self.progress = progress

    def fit(self, X: np.ndarray, y: np.ndarray) -> RNNDecoder:
        """Learn from counts (T, N) and kinematics (T, D), D up to 3, of one stretch of time."""
        from bci_decode.training.trainer import Trainer

        words = (f"model={self.model}", f"trainer.epochs={self.epochs}", f"seed={self.seed}")
        config = compose_config(*words, *self.overrides)
        typed = typed_config(config)
        data = self._dataset(np.asarray(X), np.asarray(y), typed.data)
        decoder = build_decoder(config, data)
        optimizer, scheduler = (instantiate(config[key], key) for key in ("optimizer", "scheduler"))
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                decoder,
                data,
                Path(folder),
                typed.trainer,
                optimizer,
                scheduler,
                self.seed,
                progress=self.progress,
            )
            self.history_ = trainer.fit()
            trainer.load_best()
        self.decoder_ = decoder
        self.counts_scaler_, self.target_scaler_ = data.counts_scaler, data.target_scaler
        self.window_, self.n_features_in_ = data.window, X.shape[1]
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Kinematics (T, D) of a stretch of counts (T, N), each bin from earlier bins alone."""
        counts = self.counts_scaler_.transform(np.asarray(X), np.float32)
        return self.target_scaler_.inverse(predictor(self.decoder_, self.window_.history)(counts))

    def _dataset(self, counts: np.ndarray, target: np.ndarray, config: DataConfig) -> Dataset:
        """A training and a validation part, scaled, without a test part."""
        if counts.ndim != 2 or target.ndim != 2 or len(counts) != len(target):
            raise BciDecodeError(
                f"counts are {counts.shape} and kinematics {target.shape}",
                remedy="give counts (T, N) and kinematics (T, D) of the same bins",
            )
        window, end = Window.from_config(config.window), round(len(counts) * (1 - self.val))
        slices = {"train": slice(0, end), "val": slice(end, len(counts))}
        if min(end, len(counts) - end) < max(window.length, 2):
            raise BciDecodeError(
                f"{len(counts)} bins leave {end} to train and {len(counts) - end} to validate on",
                remedy=f"give more, each part needs {max(window.length, 2)}, or change val",
            )
        scaler = Scaler.fit(counts[:end], config.scale.counts)
        parts = {
            name: Part(
                np.arange(len(counts), dtype=float)[bins],
                scaler.transform(counts[bins], np.float32),
                target[bins].astype(np.float64),
            )
            for name, bins in slices.items()
        }
        names = [f"input {column}" for column in range(counts.shape[1])]
        units = pd.DataFrame({"channel": names, "area": "", "row": 0})
        target_scaler = Scaler.fit(parts["train"].target, config.scale.target)
        axes = AXIS_NAMES[: target.shape[1]]
        return Dataset(parts, slices, units, scaler, target_scaler, window, axes)
