"""The configuration in `conf/`, composed by Hydra: types of the keys, sessions, resolvers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from bci_decode.config import TARGETS, TrainConfig, described_keys
from bci_decode.errors import BciDecodeError
from bci_decode.files import expand_user
from bci_decode.runs.config_source import register_config_source
from bci_decode.runs.messages import error_line, suggestion, unread
from bci_decode.runs.own_files import quoted, with_local
from bci_decode.runs.part_settings import RANGES, check_part

_PACKAGE = Path(__file__).resolve().parents[1]
_PACKAGED = _PACKAGE / "conf"  # in an installed wheel; a clone has it beside the package
CONF = _PACKAGED if _PACKAGED.is_dir() else _PACKAGE.parent / "conf"

LOCAL = ("name", "path")  # the keys of session=local
READ_IN = "bci_decode.models.multi_session.ReadIn"
PATHS = ("session.path", "data_dir", "output_dir", "init_from")  # keys whose value is a path


def register_configs() -> None:
    """Give Hydra the types of the keys, the published sessions and the resolvers."""
    register_config_source()
    for resolver in (stem, by_target, norm_and_place, key_table):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


def stem(path: str) -> str:
    """`${stem:a/b.mat}` is "b"."""
    return expand_user(path).resolve().stem


def by_target(target: str, values: dict) -> Any:
    """The value of a target, as in a yaml file.

    `${by_target:${data.target},{position: 20, velocity: 10, acceleration: 10}}`
    """
    if target not in values:
        remedy = f"choose {', '.join(TARGETS)}"
        raise BciDecodeError(f"is {target!r}", field="data.target", remedy=remedy)
    return values[target]


def norm_and_place(_root_: DictConfig) -> str:
    """`${norm_and_place:}` is "rms-state", the form of a `NormGRU`."""
    layer = OmegaConf.select(_root_, "model.recurrent") or {}
    if "norm" not in layer or "place" not in layer:
        remedy = "leave out model=, or choose model=normgru"
        raise BciDecodeError("has no norm at a place", field="model", remedy=remedy)
    return f"{layer['norm']}-{layer['place']}"


def key_table() -> str:
    """Every key with its default, its meaning and the values that it may have, for `--help`."""
    keys = [
        (f"{name}={'null' if default is None else str(default).lower()}", meaning)
        for name, default, meaning in described_keys()
        if not name.startswith("names.")
    ]
    return "\n".join(f"  {key:<32} {meaning}" for key, meaning in keys)


def hydra_word(word: str) -> str:
    """A word of the command line as Hydra reads it.

    `data.split=chained` chooses a file of a group, which Hydra calls `data/split`. A path is quoted
    unless it is quoted or a sweep already.
    """
    if re.fullmatch(r"data\.split=[A-Za-z_][\w,]*", word):
        return word.replace("data.split", "data/split", 1)
    name, _, path = word.partition("=")
    plain = re.fullmatch(r"[\w./:-]*", path, re.ASCII)
    if name not in PATHS or plain or path[0] in "'\"" or re.search(r",|\$\{|^\w+\(.*\)$", path):
        return word
    return f"{name}={quoted(path)}"


def compose_config(*words: str) -> DictConfig:
    """The configuration that the words of a command line mean, with `names` filled in."""
    if not CONF.is_dir():
        raise BciDecodeError("no such folder", file=CONF, remedy="install the project again")
    register_configs()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        quoted = [hydra_word(word) for word in with_local(list(words))]
        try:
            config = hydra.compose("train", quoted, return_hydra_config=True)
        except (HydraException, OmegaConfBaseException, ValueError) as mistake:
            raise BciDecodeError(error_line(mistake)) from mistake
    choices = config.hydra.runtime.choices
    with open_dict(config):
        del config["hydra"]
    given: Any = OmegaConf.to_container(config.names, resolve=False)
    for key in ("experiment", "model"):  # unless an experiment gives a name of its own
        if str(given[key]).startswith("${hydra:"):
            config.names[key] = choices[key]
    return config


def resolved_config(*words: str) -> dict[str, Any]:
    """The same as plain values, as `config.yaml` of a run has them, without the session."""
    config = compose_config(*words)
    config.session = {}
    return plain(config)


def plain(config: DictConfig) -> dict[str, Any]:
    """A configuration as dictionaries, lists and values, interpolations resolved."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def typed_config(config: DictConfig) -> TrainConfig:
    """The dataclasses of a configuration, with all types, names and ranges checked."""
    for key in strange_keys(config, TrainConfig):
        raise unread(key, suggestion(key))
    for key in _unread_of_session(config.session):
        raise unread(key, suggestion(key))
    if not config.names.model:
        raise BciDecodeError("is not set", field="model", remedy=f"choose {', '.join(models())}")
    for part in RANGES:
        check_part(part, config[part], members=config.ensemble)
    typed = OmegaConf.to_object(config)
    assert isinstance(typed, TrainConfig)
    check_recipe(typed.names.experiment, typed.names.model)
    for key, without in (("bidirectional", False), ("init_from", None), ("ensemble", 1)):
        if config[key] != without and "recurrent" not in config.model:
            raise BciDecodeError(
                f"takes no {key}, which is for recurrent models",
                field=f"model={typed.names.model}",
                remedy=f"remove {key}=",
            )
    if typed.sessions is not None:
        _check_multi_session(config, typed)
    if typed.data.window.step > 1 and "recurrent" not in config.model:
        raise BciDecodeError(
            f"is {typed.data.window.step}, which is for recurrent models",
            field="data.window.step",
            remedy=f"choose 1 with model={typed.names.model}",
        )
    return typed


def _check_multi_session(config: DictConfig, typed: TrainConfig) -> None:
    """Refuse models that cannot learn from many sessions, and keys that mean a single one."""
    encoder = OmegaConf.select(config, "model.encoder._target_")
    if "recurrent" not in config.model or encoder != READ_IN:
        raise BciDecodeError(
            "has no read-in, so it cannot learn from sessions=",
            field=f"model={typed.names.model}",
            remedy="add experiment=multi_session, or choose model=multi_session"
            if "recurrent" in config.model
            else "choose a recurrent model, model=multi_session say",
        )
    unfit = {
        "ensemble": typed.ensemble != 1,
        "init_from": typed.init_from is not None,
        "data.split.cuts": typed.data.split.cuts is not None,
        "trainer.reconstruction": typed.trainer.reconstruction > 0,
        "trainer.monitor_layers": typed.trainer.monitor_layers,
    }
    for key in (key for key, is_set in unfit.items() if is_set):
        raise BciDecodeError("is for one session", field=key, remedy="leave it out with sessions=")


def strange_keys(config: DictConfig, group: type, prefix: str = "") -> Iterator[str]:
    """Keys that `+key=value` added where no dataclass has them."""
    known = {entry.name: entry.default_factory for entry in fields(group)}
    for name in map(str, config):
        if name not in known:
            yield prefix + name
        elif isinstance(inner := known[name], type) and is_dataclass(inner):
            yield from strange_keys(config[name], inner, f"{prefix}{name}.")


def _unread_of_session(session: Any) -> list[str]:
    """The keys of a session that is a file, besides its name and path; else a class refuses them.

    It may have no file at all: a data set may be made of arrays.
    """
    keys = list(session or {})
    return [] if "_target_" in keys else [f"session.{k}" for k in keys if k not in LOCAL]


def models() -> list[str]:
    """The names of `conf/model/`."""
    return sorted(path.stem for path in (CONF / "model").glob("*.yaml"))


def check_recipe(experiment: str, model: str) -> None:
    """Refuse a model that an experiment with recipes for some models has none for."""
    folder = CONF / "experiment" / "model"
    known = sorted(
        path.stem.removeprefix(f"{experiment}_") for path in folder.glob(f"{experiment}_*.yaml")
    )
    if known and model not in known:
        raise BciDecodeError(
            f"experiment={experiment} has no recipe for it",
            field=f"model={model}",
            remedy=f"choose {', '.join(known)}, or write {folder / f'{experiment}_{model}.yaml'}",
        )
