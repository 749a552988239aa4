"""Make the parts of a run that its configuration names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from bci_decode.config import DataConfig, TrainConfig, flatten
from bci_decode.errors import BciDecodeError, one_line
from bci_decode.files import expand_user
from bci_decode.runs.messages import suggestion, unread
from bci_decode.runs.part_settings import check_part


def session_file(config: DictConfig, words: Sequence[str] = ()) -> Path:
    """The session's file: `session.path`, or the one that `session._target_` makes or finds."""
    if "_target_" not in config.session:
        return expand_user(config.session.path)
    settings = OmegaConf.to_container(config.session, resolve=True)
    assert isinstance(settings, dict)
    settings.pop("name", None)
    return instantiate(DictConfig(settings), "session", words)


def load_data(config: DictConfig):
    """The `data.dataset.Dataset` of a configuration: its session read, binned, split and scaled."""
    from bci_decode.data.binning import bin_session
    from bci_decode.data.dataset import prepare
    from bci_decode.data.session import read_session

    typed = data_config(config)
    session = read_session(session_file(config), str(config.session.name))
    return prepare(bin_session(session, **typed.binning_kwargs(), grids=typed.window.grids), typed)


def data_config(config: DictConfig) -> DataConfig:
    """The `data` part of a configuration, with all types, names and ranges checked."""
    typed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainConfig), config))
    assert isinstance(typed, TrainConfig)
    return typed.data


def build_decoder(config: DictConfig, data, words: Sequence[str] = ()):
    """The untrained model of a configuration; the data decide its sizes, the seed its weights."""
    import torch

    torch.manual_seed(config.seed)
    axes = data.parts["train"].target.shape[1]
    return checked_decoder(config, len(data.units), axes, words)


def checked_decoder(config: DictConfig, inputs: int, outputs: int, words: Sequence[str] = ()):
    """The untrained model of a configuration with these sizes; its parts must fit each other."""
    model = build_model(config.model, inputs, outputs, words, int(config.ensemble))
    if "recurrent" in config.model:
        from bci_decode.models.decoder import check_decoder

        _with_user_error("model", config.model, words, check_decoder, model, inputs, outputs)
    return model


def build_model(
    config: DictConfig, inputs: int, outputs: int, words: Sequence[str] = (), members: int = 1
):
    """A model from its yaml; only recurrent decoders are given their sizes, others learn them.

    More than one member makes an `Ensemble` of decoders.
    """
    check_part("model", config, inputs, members)
    if "recurrent" not in config:
        return instantiate(config, "model", words)
    sizes = {"input_size": inputs, "output_size": outputs}
    if members == 1:
        return instantiate(config, "model", words, **sizes)
    from bci_decode.models.ensemble import Ensemble

    return Ensemble([instantiate(config, "model", words, **sizes) for _ in range(members)])


def instantiate(config: DictConfig | None, key: str, words: Sequence[str] = (), **sizes) -> Any:
    """Make what `config` names; a partial one, an optimizer say, is made later and as well guarded.

    Whatever its constructor says of a wrong argument becomes one line with the `words` of the
    command line that set it.
    """
    if not config:
        return None
    guarded = partial(_with_user_error, key, config, words)
    make = _instantiate_optimizer if key == "optimizer" else hydra.utils.instantiate
    made = guarded(make, config, **sizes)
    return partial(guarded, made) if isinstance(made, partial) else made


def _instantiate_optimizer(config: DictConfig) -> Any:
    """One of `torch.optim` without the import of PyTorch's compiler: see `training.optimizers`."""
    from bci_decode.training import optimizers

    module, _, name = str(config.get("_target_")).rpartition(".")
    known = module == "torch.optim" and optimizers.find(name) is not None
    target = {"_target_": f"{optimizers.__name__}.{name}"} if known else {}
    return hydra.utils.instantiate(config, **target)


def _with_user_error(key: str, config: DictConfig, words: Sequence[str], make, *arguments, **sizes):
    """What `make` returns; an exception of any library becomes one line about the part `key`."""
    try:
        return make(*arguments, **sizes)
    except Exception as error:  # constructors of any library raise what they like
        cause = error.__cause__ or error
        if isinstance(cause, BciDecodeError):
            raise cause from error
        if found := re.search(r"unexpected keyword argument '(\w+)'", str(cause)):
            raise _unread(key, config, found[1]) from error
        given = [word for word in words if word.startswith((f"{key}.", f"{key}="))]
        field = f"{key} ({', '.join(given)})" if given else key
        remedy = f"correct it on the command line or in conf/{key}/"
        raise BciDecodeError(one_line(cause), field=field, remedy=remedy) from error


def _unread(part: str, config: DictConfig, name: str) -> BciDecodeError:
    """What to say of a key of a part that its class does not take."""
    keys = flatten(OmegaConf.to_container(config), f"{part}.")
    key = next((key for key in keys if key.endswith(f".{name}")), f"{part}.{name}")
    return unread(key, suggestion(key))
