"""Small data, decoders, layers and trainers that the tests of several packages use."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pandas as pd
import torch

from bci_decode.config import TrainerConfig
from bci_decode.data.dataset import Dataset
from bci_decode.data.parts import Part, Scaler, Window
from bci_decode.layers import (
    HGRN,
    LRU,
    LSTM,
    RNN,
    LayerNormGRU,
    LayerNormLSTM,
    LayerNormRNN,
    MinGRU,
    ResidualStack,
    StackedRecurrent,
)
from bci_decode.models.decoder import Decoder
from bci_decode.training.trainer import Trainer


def made_data(with_val=True, window=None, scale=20.0) -> Dataset:
    """Five units whose counts tell the velocity of the same bin, but for noise."""
    rng = np.random.default_rng(0)
    counts = rng.normal(size=(700, 5)).astype(np.float32)
    target = scale * np.stack(
        [counts[:, 0] - counts[:, 1], counts[:, 2] + 0.5 * counts[:, 3]], axis=1
    ) + rng.normal(0, 2, (700, 2))
    bins = {"train": slice(0, 400), "val": slice(400, 500), "test": slice(500, 700)}
    if not with_val:
        del bins["val"]
    time = np.arange(700) * 0.064
    parts = {name: Part(time[where], counts[where], target[where]) for name, where in bins.items()}
    units = pd.DataFrame({"channel": ["M1 001"] * 5, "area": "M1", "row": range(5)})
    target_scaler = Scaler.fit(target[:400], "zscore")
    return Dataset(
        parts,
        bins,
        units,
        Scaler(np.zeros(5), np.ones(5)),
        target_scaler,
        window or Window("sequence", 20, 10, 3),
    )


def made_holdout(window=None) -> Dataset:
    """The same without a validation part; "val" and "holdout" are slices of the test part."""
    data = made_data(with_val=False, window=window)
    test, inside = data.parts["test"], {"val": slice(0, 60), "holdout": slice(80, 200)}
    first = data.slices["test"].start
    parts = {name: Part(test.time[s], test.counts[s], test.target[s]) for name, s in inside.items()}
    slices = {name: slice(first + s.start, first + s.stop) for name, s in inside.items()}
    return dataclasses.replace(data, parts=data.parts | parts, slices=data.slices | slices)


def made_decoder(seed=0, dropout=0.1, hidden=12) -> Decoder:
    torch.manual_seed(seed)
    return Decoder(
        partial(LayerNormGRU, hidden_size=hidden),
        torch.nn.Linear,
        dropout=dropout,
        input_size=5,
        output_size=2,
    )


def config(**changes) -> TrainerConfig:
    base = {
        "epochs": 6,
        "batch_size": 8,
        "shuffle": True,
        "clip_norm": 1.0,
        "patience": None,
        "select_on": "val",
        "device": "cpu",
        "threads": 1,
        "profile": False,
        "monitor_layers": False,
    }
    return TrainerConfig(**base | changes)  # fmt: skip


def made_trainer(
    folder, data=None, decoder=None, lr=1e-2, scheduler=None, fingerprint="", **changes
) -> Trainer:
    adam = partial(torch.optim.Adam, lr=lr)
    folder.mkdir(exist_ok=True)
    return Trainer(
        decoder or made_decoder(),
        data or made_data(),
        folder,
        config(**changes),
        adam,
        scheduler,
        0,
        fingerprint,
    )


def made_layer(seed=0, **options) -> LayerNormGRU:
    """A float64 layer whose every parameter is away from its initial value."""
    torch.manual_seed(seed)
    layer = LayerNormGRU(**{"input_size": 5, "hidden_size": 7, **options}, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


# every layer beside GRU and LayerNormGRU; a stack has one layer more than it is asked for
ZOO = {
    "LSTM": LSTM,
    "LayerNormLSTM": LayerNormLSTM,
    "RNN": RNN,
    "LayerNormRNN": LayerNormRNN,
    "MinGRU": MinGRU,
    "LRU": partial(LRU, glu=True),
    "HGRN": HGRN,
    "pre-norm LSTM": partial(ResidualStack, layer=LSTM, norm="pre"),
    "post-norm LRU": partial(ResidualStack, layer=LRU, norm="post", init="admin"),
}


def made_zoo_layer(kind: str, seed=0, **options) -> StackedRecurrent:
    """A float64 layer of `ZOO` whose every parameter is away from its initial value."""
    torch.manual_seed(seed)
    if "norm " in kind:
        options["num_layers"] = 1 + options.get("num_layers", 1)
    layer = ZOO[kind](5, 7, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return layer
