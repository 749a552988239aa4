"""Config dataclasses: defaults that work, and one line for a value outside its range."""

from __future__ import annotations

import dataclasses

import pytest

from bci_decode.config import (
    DataConfig,
    SplitConfig,
    TrainConfig,
    TrainerConfig,
    described_keys,
    flatten,
)
from bci_decode.errors import BciDecodeError


def test_defaults_are_valid_and_a_dictionary_brings_them_back():
    config = DataConfig(bin_width=0.02, split=SplitConfig(val=0.2))
    assert DataConfig.from_dict(dataclasses.asdict(config)) == config
    assert TrainConfig().trainer.epochs == 60


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: DataConfig(bin_width=0.0), "data.bin_width: is 0.0; choose 0.001 to 86400"),
        (lambda: DataConfig(lag=float("nan")), "data.lag: is nan; give a finite number"),
        (
            lambda: DataConfig(units="sortd"),
            "data.units: is 'sortd'; choose all, sorted, hash or merged",
        ),
        (lambda: SplitConfig(val=1.0), "data.split.val: is 1.0; choose 0 or more, below 1"),
        (lambda: TrainerConfig(epochs=0), "trainer.epochs: is 0; choose 1 to 1000000"),
        (
            lambda: TrainerConfig(clip_norm=0.0),
            "trainer.clip_norm: is 0.0; choose above 0, at most 1000000",
        ),
        (lambda: TrainConfig(seed=-1), "seed: is -1; choose 0 to 4294967295"),
        (
            lambda: TrainConfig(optimizer={"lr": float("inf")}),
            "optimizer.lr: is inf; give a finite number",
        ),
        (
            lambda: TrainConfig(logger="mlfow"),
            "logger: is 'mlfow'; choose none, tensorboard, mlflow or wandb",
        ),
    ],
)
def test_a_value_out_of_range_is_one_line(make, line):
    with pytest.raises(BciDecodeError) as refusal:
        make()
    assert str(refusal.value) == line


def test_only_an_experiment_may_select_on_the_test_part():
    trainer, split = TrainerConfig(select_on="test"), SplitConfig(val=0.0, val_from_test=0.2)
    with pytest.raises(
        BciDecodeError, match=r"trainer.select_on: is test, which makes every score"
    ):
        TrainConfig(trainer=trainer)
    with pytest.raises(
        BciDecodeError, match=r"val_from_test: lies inside the test part, .*select_on=val"
    ):
        TrainConfig(data=DataConfig(split=split))
    TrainConfig(trainer=trainer, data=DataConfig(split=split), allow_test_selection=True)


def test_every_key_with_a_type_is_described():
    described = {name for name, _, _ in described_keys()}
    keys = {name for name in flatten(dataclasses.asdict(TrainConfig()))}
    assert keys - described == {"session", "model", "optimizer", "scheduler"}
    assert all(meaning for _, _, meaning in described_keys())
