"""The configuration in `conf/`, as Hydra composes it: the types of its keys, its sessions, and what its words come to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from bci_decode.config import TARGETS, TrainConfig
from bci_decode.data.catalog import catalog
from bci_decode.errors import BciDecodeError
from bci_decode.runs.folder import run_folder

_PACKAGE = Path(__file__).resolve().parents[1]
_PACKAGED = _PACKAGE / "conf"  # in an installed wheel; a clone has it beside the package
CONF = _PACKAGED if _PACKAGED.is_dir() else _PACKAGE.parent / "conf"


def register_configs() -> None:
    """Tell Hydra the types of the keys, a `session` option for each catalogued session, and the resolvers of `conf/`."""
    store = ConfigStore.instance()
    store.store(name="schema", node=TrainConfig)
    for name in catalog():
        node = {
            "_target_": "bci_decode.data.catalog.downloaded_file",
            "name": name,
            "session": name,
            "folder": "${data_dir}",
        }
        store.store(group="session", name=name, node=node)
    OmegaConf.register_new_resolver("stem", lambda path: Path(path).resolve().stem, replace=True)
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
    OmegaConf.register_new_resolver("by_target", _by_target, replace=True)


def _by_target(target: str, values: dict):
    """`${by_target:${data.target},{position: 20, velocity: 10, acceleration: 10}}`"""
    if target not in values:
        raise BciDecodeError(f"is {target!r}", field="data.target", remedy=f"choose {', '.join(TARGETS)}")
    return values[target]


def composed(*words: str) -> DictConfig:
    """The configuration that the words of a command line stand for."""
    if not CONF.is_dir():
        raise BciDecodeError(
            "no such folder", file=CONF, remedy="run from a clone of the project, installed with 'make setup'"
        )
    register_configs()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", list(words))


def settings_of(*words: str) -> dict[str, Any]:
    """The same, resolved, as a run's config.yaml has it; of whatever session."""
    config = composed(*words)
    config.session = {}
    found = OmegaConf.to_container(config, resolve=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}
