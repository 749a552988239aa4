"""`train`, the command as a function, and a recurrent decoder as a scikit-learn estimator."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from bci_decode.config import DataConfig, flatten
from bci_decode.data.dataset import Dataset
from bci_decode.data.parts import Part, Scaler, Window
from bci_decode.errors import BciDecodeError
from bci_decode.evaluation.decoding import predictor
from bci_decode.runs.build import build_decoder, instantiate
from bci_decode.runs.chained import cut_configs
from bci_decode.runs.compose import compose_config, plain, typed_config
from bci_decode.runs.config_source import is_session
from bci_decode.runs.load_joint import load_any
from bci_decode.runs.run import run

AXIS_NAMES = ("x", "y", "z")
# there is no test part to select on, whatever an experiment says
SELECT_ON_VAL = ("trainer.select_on=val", "data.split.val_from_test=0")


def train(
    session: str | Path | None = None,
    model: str | None = None,
    overrides: Sequence[str] = (),
    output_dir: str | Path = "outputs",
    progress: bool = True,
) -> Any:  # a union would make every caller tell both kinds of runs apart
    """Train a decoder as `python -m bci_decode.train` does, and load it as a `LoadedRun`.

    `session` is a file, the name of a published session in `data/` or of a simulated day, or None
    for the simulated session; `overrides` are words of the command line such as "data.lag=0.06". A
    finished run of the same settings is loaded, not repeated. With a chained split all cuts are
    trained, and the decoder of the last one is loaded, which has the most training bins. With
    `sessions=[...]` among the overrides, the decoder of all of them is returned as a `JointRun`.
    """
    words = [f"output_dir={output_dir}", *overrides]
    if model is not None:
        words.insert(0, f"model={model}")
    if session is not None:
        known = is_session(str(session))
        own = ["session=local", f"session.path={session}"]
        words = ([f"session={session}"] if known else own) + words
    config = compose_config(*words)
    run(config, words=words, progress=progress)
    model_settings = flatten(plain(config)["model"])
    named = {value for key, value in model_settings.items() if key.endswith("_target_")}
    return load_any(list(cut_configs(config))[-1], trust=tuple(named))  # the caller named them


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
        from bci_decode.training.surroundings import torch_state_kept
        from bci_decode.training.trainer import Trainer

        words = (f"model={self.model}", f"trainer.epochs={self.epochs}", f"seed={self.seed}")
        config = compose_config(*words, *self.overrides, *SELECT_ON_VAL)
        typed = typed_config(config)
        if "recurrent" not in config.model:
            raise BciDecodeError(
                "is no recurrent model", field=f"model={self.model}", remedy="use its own class"
            )
        data = self._dataset(np.asarray(X), np.asarray(y), typed.data)
        with tempfile.TemporaryDirectory() as folder, torch_state_kept():
            self.decoder_ = build_decoder(config, data)
            optimizer, scheduler = (
                instantiate(config[key], key) for key in ("optimizer", "scheduler")
            )
            trainer = Trainer(
                self.decoder_,
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
        self.counts_scaler_, self.target_scaler_ = data.counts_scaler, data.target_scaler
        self.window_, self.low_pass_ = data.window, data.low_pass
        self.n_features_in_ = data.parts["train"].counts.shape[1]
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Kinematics (T, D) of a stretch of counts (T, N).

        Each bin is decoded from its own and earlier bins, unless the model is bidirectional.
        """
        check_is_fitted(self, "decoder_")
        counts = np.asarray(X)
        if counts.ndim != 2 or counts.shape[1] != self.n_features_in_:
            raise BciDecodeError(
                f"the counts are {counts.shape}", remedy=f"give (T, {self.n_features_in_})"
            )
        scaled = self.counts_scaler_.transform(counts, np.float32)
        window = self.window_
        decode = predictor(self.decoder_, window.history, window.step, self.low_pass_)
        return self.target_scaler_.inverse(decode(scaled))

    def _dataset(self, counts: np.ndarray, target: np.ndarray, config: DataConfig) -> Dataset:
        """A training and a validation part, scaled, without a test part."""
        fits = counts.ndim == target.ndim == 2 and len(counts) == len(target)
        if not fits or target.shape[1] > len(AXIS_NAMES):
            raise BciDecodeError(
                f"counts are {counts.shape} and kinematics {target.shape}",
                remedy="give counts (T, N) and kinematics (T, D) of the same bins, D up to 3",
            )
        window, end = Window.from_config(config.window), round(len(counts) * (1 - self.val))
        slices = {"train": slice(0, end), "val": slice(end, len(counts))}
        if min(end, len(counts) - end) < max(window.span, 2):
            raise BciDecodeError(
                f"{len(counts)} bins leave {end} to train and {len(counts) - end} to validate on",
                remedy=f"give more, each part needs {max(window.span, 2)}, or change val",
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
        return Dataset(
            parts, slices, units, scaler, target_scaler, window, axes, low_pass=config.cutoff
        )
