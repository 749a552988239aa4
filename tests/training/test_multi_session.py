"""Training on many sessions: the windows, their order, resuming, and the scores of each session."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from recordings import recording, write_mat73
from toys import config as trainer_config

from bci_decode.config import DataConfig, SplitConfig, WindowConfig
from bci_decode.data.dataset import prepare
from bci_decode.data.many_sessions import ManySessions, prepare_many
from bci_decode.errors import BciDecodeError
from bci_decode.evaluation.decoding import decode_parts
from bci_decode.layers import GRU
from bci_decode.models.decoder import Decoder
from bci_decode.models.multi_session import MultiSessionDecoder, ReadIn
from bci_decode.training.checkpoint import read_checkpoint, save_checkpoint
from bci_decode.training.history import part_columns
from bci_decode.training.many_windows import ManyWindows, StoredWindows
from bci_decode.training.multi_session import MultiSessionTrainer
from bci_decode.training.trainer import Trainer
from bci_decode.training.windows import TrainingWindows

CPU = torch.device("cpu")
DATA = DataConfig(
    min_rate=6.0,
    split=SplitConfig(gap=0.0),
    window=WindowConfig(length=8, burn_in=2, stride=3, grids=3),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("many")


@pytest.fixture(scope="module")
def data(home) -> ManySessions:
    """Two sessions of other lengths and units."""
    files = [
        ("one", write_mat73(home / "one.mat", recording(channels=3, samples=2500))),
        ("two", write_mat73(home / "two.mat", recording(channels=5, samples=3300, seed=1))),
    ]
    return prepare_many(files, DATA, home / "binned")


def made_decoder(data, seed=0) -> MultiSessionDecoder:
    torch.manual_seed(seed)
    read_in = partial(ReadIn, width=4, unit_dropout=0.2)
    decoders = [
        Decoder(
            partial(GRU, hidden_size=6, num_layers=1), torch.nn.Linear, encoder=read_in,
            input_size=len(one.prepared.units), output_size=2,
        )
        for one in data.sessions
    ]  # fmt: skip
    return MultiSessionDecoder(decoders)


def made_trainer(folder, data, **changes) -> MultiSessionTrainer:
    folder.mkdir(exist_ok=True)
    optimizer = partial(torch.optim.AdamW, lr=1e-2)
    changes = {"noise": 0.3, "offset": 0.1, "ema": 0.9, "epochs": 4} | changes
    settings = trainer_config(**changes)
    fingerprint = " ".join(one.stored.md5 for one in data.sessions)
    decoder = made_decoder(data)
    return MultiSessionTrainer(
        decoder, data, folder, settings, optimizer, None, 0, fingerprint, progress=False
    )


def test_the_windows_on_disk_are_those_in_memory(data):
    for session in data.sessions:
        prepared = session.prepared
        assert not prepared.active.all() and len(prepared.units) > 1
        stored = StoredWindows(prepared, CPU)
        memory = TrainingWindows(prepare(prepared.binned, DATA), CPU)
        orders = [one.order(True, torch.Generator().manual_seed(3)) for one in (stored, memory)]
        assert torch.equal(*orders) and len({int(row[0]) % 3 for row in orders[0]}) > 1
        assert torch.equal(stored.counts_of(orders[0]), memory.counts[orders[0]])
        assert torch.equal(stored.target_of(orders[0]), memory.target_of(orders[0]))


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_has_every_window_once_and_its_batches_mix(data, shuffle):
    windows = ManyWindows(data, CPU)
    batches = list(windows.batches(8, shuffle, torch.Generator().manual_seed(0)))
    for number, session in enumerate(windows.sessions):
        found = torch.cat([bins for batch in batches for one, bins in batch if one == number])
        steps = found[:, 1:] - found[:, :-1]
        assert len(found) == len(session) and (steps == 1).all()
        # whatever its grid, a window begins at its own place or a bin before
        train = session.last_bin + 1
        grid_start = torch.where(
            found[:, 0] < train, 0, 1 + (found[:, 0] - 1) // (train - 1) * (train - 1)
        )
        places = torch.sort(found[:, 0] - grid_start).values
        wanted = session.windows[:, 0]
        assert ((wanted - places) <= 1).all() and ((wanted - places) >= 0).all()
    mixed = [len(batch) == 2 for batch in batches]
    assert sum(mixed) > 3 if shuffle else sum(mixed) <= 1
    sizes = [sum(len(bins) for _, bins in batch) for batch in batches]
    assert sizes[:-1] == [8] * (len(sizes) - 1) and sum(sizes) == len(windows)


def test_a_stop_changes_no_bit(home, data):
    whole = made_trainer(home / "whole", data)
    history = whole.fit()
    made_trainer(home / "part", data, epochs=2).fit()
    again = made_trainer(home / "part", data)
    resumed = again.fit()
    columns = [name for name in history if name != "seconds"]
    assert history[columns].equals(resumed[columns]) and len(history) == 5
    for one, other in zip(whole.session_history, again.session_history, strict=True):
        assert [{k: row[k] for k in columns} for row in one] == [
            {k: row[k] for k in columns} for row in other
        ]
    for name, values in whole.scored.state_dict().items():
        assert torch.equal(values, again.scored.state_dict()[name]), name


def test_a_checkpoint_of_other_sessions_is_refused(home, data):
    made_trainer(home / "two", data, epochs=1).fit()
    one = ManySessions(data.sessions[:1])
    with pytest.raises(BciDecodeError, match="is of another model"):
        made_trainer(home / "two", one, epochs=1).fit()
    for change in ("rows", "columns", "number"):
        state = read_checkpoint(home / "two" / "last.pt")
        rows = state["session_history"]
        if change == "rows":
            rows[0].pop()
        elif change == "columns":
            rows[0] = [row | {"more": 1.0} for row in rows[0]]
        else:
            rows.pop()
        save_checkpoint(home / "two" / "last.pt", state)
        with pytest.raises(BciDecodeError, match="state of another training"):
            made_trainer(home / "two", data, epochs=2).fit()


def test_the_history_is_the_mean_of_what_each_decoder_scores(home, data):
    trainer = made_trainer(home / "scored", data, epochs=2, select_on="last")
    history = trainer.fit()
    for number, session in enumerate(data.sessions):
        part = session.prepared.dataset("val", "test")
        own = trainer.scored.session_decoder(number)
        row = part_columns(part, decode_parts(own, part))
        last = trainer.session_history[number][-1]
        assert {name: last[name] for name in row} == pytest.approx(row)
    for name in ("train_loss", "train_r2", "val_loss", "test_r2_x"):
        rows = [rows[-1][name] for rows in trainer.session_history]
        assert history[name].iloc[-1] == pytest.approx(np.mean(rows))
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]


def test_a_session_alone_begins_as_an_ordinary_training(home, data):
    """Its untrained scores are those of the ordinary trainer of the same decoder."""
    one = ManySessions(data.sessions[1:])
    trainer = made_trainer(home / "alone", one, epochs=1)
    memory = prepare(one.sessions[0].prepared.binned, DATA)
    (home / "ordinary").mkdir()
    ordinary = Trainer(
        made_decoder(one).session_decoder(0), memory, home / "ordinary", trainer_config(epochs=1),
        partial(torch.optim.AdamW, lr=1e-2), progress=False,
    )  # fmt: skip
    first, other = trainer.fit().iloc[0], ordinary.fit().iloc[0]
    for name in ("train_loss", "train_r2", "val_loss", "test_loss", "test_r2"):
        assert first[name] == pytest.approx(other[name], rel=1e-5), name


def test_a_batch_learns_the_mean_over_all_outputs(home, data):
    """One step of plain descent by the gradient of that mean."""
    trainer = made_trainer(
        home / "step", data, noise=0.0, offset=0.0, ema=0.0, batch_size=1000, clip_norm=None
    )
    decoder, before = trainer.decoder, made_decoder(data)
    for one in decoder.read_ins:
        one.unit_dropout = 0.0
    trainer.optimizer = torch.optim.SGD(decoder.parameters(), lr=1.0)
    batch = next(iter(trainer.training.batches(1000, False, torch.Generator().manual_seed(5))))
    trainer.shuffle_rng.manual_seed(5)
    trainer.config = dataclasses.replace(trainer.config, shuffle=False)
    trainer._train_epoch()
    errors = []
    for number, bins in batch:
        session = trainer.training.sessions[number]
        own = before.session_decoder(number).eval()
        counts = session.counts_of(bins)
        errors.append((own(counts, first_output=2)[0] - session.target_of(bins)).flatten())
    torch.cat(errors).square().mean().backward()
    for (name, values), old in zip(decoder.named_parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(values, old - old.grad, msg=name)
