"""Numbers: one precision or another, one thread or two, and memory that stays where it is."""

from __future__ import annotations

import dataclasses
import gc
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from composing import compose
from sizes import cases
from toys import made_data, made_decoder, made_trainer

from bci_decode.runs.run import run
from bci_decode.training.checkpoint import read_checkpoint

SMALL = ("session.minutes=1", "model.recurrent.hidden_size=8", "figures=svg")
MODELS = ("gru", "lngru", "normgru", "lstm", "lnlstm", "rnn", "lnrnn", "mingru", "lru", "hgrn")
STEADY = cases(1, 5)  # runs, or tens of epochs, after which nothing may grow


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("numbers")


def trained(home: Path, *words: str) -> tuple[pd.DataFrame, dict[str, torch.Tensor]]:
    """The history and the selected weights of a tiny run."""
    place = (f"data_dir={home / 'data'}", f"output_dir={home / '-'.join(words).replace('/', '.')}")
    folder = run(compose(*place, *SMALL, *words), progress=False)
    return pd.read_csv(folder / "history.csv"), read_checkpoint(folder / "best.pt")["decoder"]


def in_float64():
    """The data and the decoder of `made_trainer` with twice the digits."""
    data = made_data()
    parts = {
        name: dataclasses.replace(part, counts=part.counts.astype(np.float64))
        for name, part in data.parts.items()
    }
    return dataclasses.replace(data, parts=parts), made_decoder(dropout=0.0).double()


def test_float32_and_float64_learn_the_same(tmp_path):
    short = made_trainer(tmp_path / "32", decoder=made_decoder(dropout=0.0)).fit()
    data, decoder = in_float64()
    trainer = made_trainer(tmp_path / "64", data=data, decoder=decoder)
    long = trainer.fit()
    assert next(trainer.decoder.parameters()).dtype == torch.float64
    assert short["test_r2"].iloc[-1] > 0.5  # something was learned
    for column in ("train_loss", "val_loss", "test_loss"):
        np.testing.assert_allclose(short[column], long[column], rtol=1e-4)
    np.testing.assert_allclose(short["test_r2"], long["test_r2"], atol=1e-4)
    assert (short["test_loss"] != long["test_loss"]).any()


@pytest.mark.parametrize("model", MODELS[: cases(2, len(MODELS))])
def test_deterministic_mode_changes_no_bit(home, model):
    """PyTorch then raises an error at each operation that has no deterministic form."""
    words = (f"model={model}", "trainer.epochs=2", "trainer.threads=1")
    history, weights = trained(home, *words)
    torch.use_deterministic_algorithms(True)
    try:
        again, others = trained(home, *words, "overwrite=true")
    finally:
        torch.use_deterministic_algorithms(False)
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), again.drop(columns="seconds"))
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize("model", MODELS[: cases(2, len(MODELS))])
def test_one_and_two_threads_give_the_same_r2(home, model):
    words = (f"model={model}", "trainer.epochs=5", "model.recurrent.hidden_size=64")
    one, two = (trained(home, *words, f"trainer.threads={threads}")[0] for threads in (1, 2))
    np.testing.assert_allclose(one["test_r2"], two["test_r2"], atol=1e-3)
    assert len(one) == 6


def test_memory_is_flat_over_the_epochs(tmp_path):
    """A row of the history is all that an epoch may leave."""
    seen: list[int] = []

    def note(row: dict[str, float]) -> None:
        if row["epoch"] % 10 == 0:
            seen.append(in_use().memory)

    epochs = cases(40, 300)
    made_trainer(tmp_path, epochs=epochs).fit(note)
    assert len(seen) == epochs // 10 + 1
    assert seen[-1] - seen[STEADY] < 5e6 + 20e3 * (epochs - 10 * STEADY)


def test_memory_and_open_files_are_flat_over_many_runs(home):
    seen = []
    for number in range(cases(4, 50)):
        trained(home, "model=gru", "trainer.epochs=1", f"seed={number}")
        gc.collect()
        seen.append(in_use())
    assert seen[-1].files <= seen[STEADY].files
    assert seen[-1].memory - seen[STEADY].memory < 20e6 + 500e3 * (len(seen) - STEADY)


class InUse(NamedTuple):
    """What a process holds: open files, and bytes of memory."""

    files: int
    memory: int


def in_use() -> InUse:
    """Of this process; zeros where the system does not tell."""
    if sys.platform != "linux":
        return InUse(0, 0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return InUse(len(list(Path("/proc/self/fd").iterdir())), pages * os.sysconf("SC_PAGE_SIZE"))
