"""Every choice in conf/ composes, and what it names can be made."""

from __future__ import annotations

import shutil

import hydra
import numpy as np
import pytest
import torch
from composing import compose
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from bci_decode.config import TrainConfig
from bci_decode.data.catalog import catalog
from bci_decode.errors import BciDecodeError
from bci_decode.models.decoder import Decoder
from bci_decode.runs import compose as runs_compose
from bci_decode.runs.build import build_model, session_file
from bci_decode.runs.compose import CONF, key_table, typed_config
from bci_decode.runs.config_source import is_session
from bci_decode.runs.report import recording_kind

GROUPS = ["session", "data", "model", "optimizer", "scheduler", "trainer", "experiment"]
CHOICES = [
    f"{group}={path.stem}" for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))
]


@pytest.mark.parametrize("model", ["gru", "lngru"])
@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_can_be_made(choice, model):
    more = {
        "session=local": ["session.path=some.mat"],
        "data=source_study": ["experiment=source_study"],  # alone they are refused: see test_config
        "trainer=source_study": ["experiment=source_study"],
        "experiment=normalisation": ["model=normgru"],
        "experiment=normalisation_source": ["model=normgru"],
    }.get(choice, [])
    own = choice.startswith("model") or any(word.startswith("model=") for word in more)
    words = [choice, *more] if own else [f"model={model}", choice, *more]
    config = compose(*words)
    assert isinstance(typed_config(config), TrainConfig)
    decoder = build_model(config.model, 5, 2)
    if not isinstance(decoder, Decoder):
        rng = np.random.default_rng(0)
        counts, target = rng.poisson(2.0, (200, 5)), rng.normal(size=(200, 2))
        assert decoder.fit(counts, target).predict(counts).shape == (200, 2)
        return
    y, _ = decoder(torch.randn(3, config.data.window.length, 5))
    assert y.shape == (3, config.data.window.length, 2)
    optimizer = hydra.utils.instantiate(config.optimizer)(decoder.parameters())
    if config.scheduler:
        hydra.utils.instantiate(config.scheduler)(optimizer)


def test_the_two_models_differ_in_the_recurrent_layer_alone():
    gru, lngru = (
        OmegaConf.to_container(compose(f"model={model}").model) for model in ("gru", "lngru")
    )
    layers = gru.pop("recurrent"), lngru.pop("recurrent")
    assert gru == lngru
    shared = set(layers[0]) - {"_target_"}
    assert {key: layers[0][key] for key in shared} == {key: layers[1][key] for key in shared}


def test_the_catalogue_is_the_published_one():
    sessions = catalog()
    assert len(sessions) == 47
    assert sum(entry.monkey == "indy" for entry in sessions.values()) == 37
    assert all(len(entry.md5) == 32 and entry.duration > 300 for entry in sessions.values())
    assert {entry.channels: entry.areas for entry in sessions.values()} == {
        96: ("M1",),
        192: ("M1", "S1"),
    }
    assert all(
        name.startswith(entry.monkey + "_" + entry.date.replace("-", ""))
        for name, entry in sessions.items()
    )
    assert sessions["indy_20160927_04"].url.endswith("/3854034/files/indy_20160927_04.mat")


@pytest.mark.parametrize("name", ["indy_20160927_04", "loco_20170302_02"])
def test_a_catalogued_session_is_a_choice(name):
    config = compose(f"session={name}", "data_dir=some/place")
    assert config.session.name == name
    with pytest.raises(InstantiationException) as failure:
        hydra.utils.instantiate(
            {key: value for key, value in config.session.items() if key != "name"}
        )
    line = str(failure.value.__cause__)
    assert f"some/place/{name}.mat: is not there; type 'make data SESSION={name}'" in line


def test_a_simulated_day_is_a_choice(tmp_path):
    words = (f"data_dir={tmp_path}", "session.minutes=0.2", "session.channels=4")
    first, third = (
        session_file(compose(f"session=simulated_day{day}", *words, "session.seed=3"))
        for day in ("01", "03")
    )
    assert first == session_file(compose("session=simulated", *words, "session.seed=3"))
    assert third.name == f"{first.stem}_slow_day03.mat" and third.parent == first.parent
    config = compose("session=simulated_day12")
    assert (config.session.minutes, config.session.channels, config.session.seed) == (7.0, 96, 0)
    assert recording_kind(config.session, "") == "simulated"
    assert [is_session(name) for name in ("simulated_day12", "simulated_day13")] == [True, False]


def test_the_source_study_is_wus():
    """Wu 2021, written out:

    64 ms, raw counts and mm/s, 5000 bins, 10 of history, 2 x 256, SGD 1e-5, batch 16, in order.
    """
    for model in ("gru", "lngru"):
        config = OmegaConf.to_container(
            compose(
                "experiment=source_study", f"model={model}", "session=local", "session.path=a.mat"
            ),
            resolve=True,
        )
        data, trainer, recurrent = config["data"], config["trainer"], config["model"]["recurrent"]
        assert (data["bin_width"], data["lag"], data["target"], data["source"]) == (
            0.064,
            0.0,
            "velocity",
            "finger_pos",
        )
        assert (data["units"], data["area"], data["min_rate"]) == ("all", "all", 0.0)
        assert data["scale"] == {"counts": "none", "target": "none"}
        assert (data["split"]["first_bins"], data["split"]["val"], data["split"]["gap"]) == (
            5000,
            0.0,
            0.0,
        )
        assert (data["window"]["kind"], data["window"]["length"], data["window"]["stride"]) == (
            "history",
            10,
            1,
        )
        assert (recurrent["hidden_size"], recurrent["num_layers"], recurrent["dropout"]) == (
            256,
            2,
            0.0,
        )
        assert (recurrent["bidirectional"], config["model"]["dropout"]) == (False, 0.0)
        assert config["optimizer"] == {
            "_target_": "torch.optim.SGD",
            "_partial_": True,
            "lr": 1e-5,
            "momentum": 0.0,
        }
        assert config["scheduler"] == {}
        assert (
            trainer["epochs"],
            trainer["batch_size"],
            trainer["shuffle"],
            trainer["clip_norm"],
        ) == (
            75,
            16,
            False,
            None,
        )
        assert (trainer["patience"], trainer["select_on"]) == (None, "test")
        if model == "lngru":
            assert (recurrent["bias"], recurrent["affine"]) == (True, False)
            assert config["model"]["norm"]["_target_"].endswith("HistoryNorm")
            assert (
                config["model"]["head"]["_target_"].endswith("PerAxisHead")
                and config["model"]["head"]["width"] == 128
            )


@pytest.mark.parametrize(
    ("target", "history"), [("position", 20), ("velocity", 10), ("acceleration", 10)]
)
def test_the_source_study_looks_back_on_twenty_bins_for_position(target, history):
    config = compose("experiment=source_study", f"data.target={target}")
    assert config.data.window.length == history
    assert (
        compose(
            "experiment=source_study", f"data.target={target}", "data.window.length=7"
        ).data.window.length
        == 7
    )


@pytest.mark.parametrize("experiment", ["default", "source_study"])
@pytest.mark.parametrize("model", ["gru", "lngru"])
def test_both_directions_by_one_key(experiment, model):
    """Twice the outputs reach the head, and the first bin's output depends on the last bin's
    counts.
    """
    config = compose(f"experiment={experiment}", f"model={model}", "bidirectional=true")
    decoder = hydra.utils.instantiate(config.model, input_size=5, output_size=2).eval()
    assert decoder.bidirectional and decoder.recurrent.bidirectional
    counts = torch.randn(1, 10, 5)
    later = counts.clone()
    later[0, -1] += 3
    assert not torch.equal(decoder(counts)[0][0, 0], decoder(later)[0][0, 0])


def test_a_window_of_steps_is_for_recurrent_models():
    with pytest.raises(BciDecodeError, match=r"data.window.step: is 20, .*; choose 1 with model=w"):
        typed_config(compose("model=wiener", "data.window.step=20"))
    assert typed_config(compose("model=gru", "data.window.step=20")).data.window.step == 20


def test_a_local_file_names_its_session():
    assert (
        compose("session=local", "session.path=/some/where/mine_01.mat").session.name == "mine_01"
    )


def test_a_model_without_a_recipe_in_an_experiment_is_refused(tmp_path, monkeypatch):
    """A new model would train with the settings of its own file, not with those of the study."""
    shutil.copytree(CONF, tmp_path / "conf")
    model = tmp_path / "conf" / "model"
    (model / "mine.yaml").write_text((model / "lngru.yaml").read_text())
    monkeypatch.setattr(runs_compose, "CONF", tmp_path / "conf")
    with pytest.raises(
        BciDecodeError, match=r"model=mine: experiment=source_study has no recipe for it"
    ):
        typed_config(compose("experiment=source_study", "model=mine"))
    assert typed_config(compose("model=mine")).names.model == "mine"


def test_help_lists_every_key_with_its_values():
    table = key_table()
    assert "trainer.epochs=60" in table and "(none | tensorboard | mlflow | wandb)" in table
    assert "$" not in table  # Hydra's template would read it
