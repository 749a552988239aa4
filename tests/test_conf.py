"""Every choice in conf/ composes, and what it names can be made."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from bci_decode.catalog import catalog
from bci_decode.config import TrainConfig
from bci_decode.train import CONF, register_configs

GROUPS = ["session", "data", "model", "optimizer", "scheduler", "trainer", "experiment"]
CHOICES = [f"{group}={path.stem}" for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


def compose(*overrides: str):
    register_configs()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", list(overrides))


@pytest.mark.parametrize("model", ["gru", "lngru"])
@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_can_be_made(choice, model):
    config = compose(f"model={model}", *([] if choice.startswith("model") else [choice]), "session.path=some.mat")
    if choice.startswith("model"):
        config = compose(choice)
    assert isinstance(OmegaConf.to_object(config), TrainConfig)
    decoder = hydra.utils.instantiate(config.model, input_size=5, output_size=2)
    y, _ = decoder(torch.randn(3, config.data.window.length, 5))
    assert y.shape == (3, config.data.window.length, 2)
    optimizer = hydra.utils.instantiate(config.optimizer)(decoder.parameters())
    if config.scheduler:
        hydra.utils.instantiate(config.scheduler)(optimizer)


def test_the_two_models_differ_in_the_recurrent_layer_alone():
    gru, lngru = (OmegaConf.to_container(compose(f"model={model}").model) for model in ("gru", "lngru"))
    layers = gru.pop("recurrent"), lngru.pop("recurrent")
    assert gru == lngru
    shared = set(layers[0]) - {"_target_"}
    assert {key: layers[0][key] for key in shared} == {key: layers[1][key] for key in shared}


def test_the_catalogue_is_the_published_one():
    sessions = catalog()
    assert len(sessions) == 47
    assert sum(entry.monkey == "indy" for entry in sessions.values()) == 37
    assert all(len(entry.md5) == 32 and entry.duration > 300 for entry in sessions.values())
    assert {entry.channels: entry.areas for entry in sessions.values()} == {96: ("M1",), 192: ("M1", "S1")}
    assert all(name.startswith(entry.monkey + "_" + entry.date.replace("-", "")) for name, entry in sessions.items())
    assert sessions["indy_20160927_04"].url.endswith("/3854034/files/indy_20160927_04.mat")


@pytest.mark.parametrize("name", ["indy_20160927_04", "loco_20170302_02"])
def test_a_catalogued_session_is_a_choice(name):
    config = compose(f"session={name}", "data_dir=some/place")
    assert config.session.name == name and Path(config.session.path) == Path("some/place", f"{name}.mat")


def test_a_local_file_names_its_session():
    assert compose("session=local", "session.path=/some/where/mine_01.mat").session.name == "mine_01"
