"""The configurations that are no files, for Hydra: types of the keys, and sessions.

As entries of Hydra's `ConfigStore` all of them would be made at every start, and Hydra copies its
store with all of them for each group that `--help` lists. A `ConfigSource`, Hydra's interface for
configurations of any origin, makes only those that a command needs.
"""

from __future__ import annotations

from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from bci_decode.config import TrainConfig
from bci_decode.data.catalog import SIMULATED_ARRAY, SIMULATED_DAYS, catalog

SCHEMA, GROUP = "schema", "session"


def is_session(name: str) -> bool:
    """Whether `session=NAME` needs no file of the user: a published or a simulated session."""
    return name == "simulated" or name in SIMULATED_DAYS or name in catalog()


def register_config_source() -> None:
    """Let Hydra find these configurations in this process."""
    for plugin in (ProjectConfigs, _AfterTheFiles):
        Plugins.instance().register(plugin)


class ProjectConfigs(ConfigSource):
    """`bci_decode://`: `schema`, and `session/<name of a published session or simulated day>`."""

    @staticmethod
    def scheme() -> str:
        return "bci_decode"

    def load_config(self, config_path: str) -> ConfigResult:
        if not self.is_config(config_path):
            raise ConfigLoadError(f"Config not found : {config_path}")
        path = _plain(config_path)
        node = TrainConfig if path == SCHEMA else _session(path.removeprefix(f"{GROUP}/"))
        config = OmegaConf.structured(node)
        return ConfigResult(self.provider, self.full_path(), config, {"package": None})

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return _plain(config_path) in ("", GROUP)

    def is_config(self, config_path: str) -> bool:
        group, _, name = _plain(config_path).rpartition("/")
        return name == SCHEMA if not group else group == GROUP and name in _sessions()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if _plain(config_path) == GROUP:
            found = dict.fromkeys(_sessions(), ObjectType.CONFIG)
        else:
            found = {SCHEMA: ObjectType.CONFIG, GROUP: ObjectType.GROUP}
        return sorted(name for name, kind in found.items() if results_filter in (None, kind))


class _AfterTheFiles(SearchPathPlugin):
    """Adds this source after the files of `conf/`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("bci_decode", f"{ProjectConfigs.scheme()}://")


def _plain(config_path: str) -> str:
    """A path as Hydra has it, without the ending that it gives some."""
    return config_path.rstrip("/").removesuffix(".yaml")


def _sessions() -> list[str]:
    return [*catalog(), *SIMULATED_DAYS]


def _session(name: str) -> dict[str, Any]:
    """What `conf/session/NAME.yaml` would hold."""
    node = {"name": name, "folder": "${data_dir}"}
    if name in SIMULATED_DAYS:
        array = SIMULATED_ARRAY | {"day": SIMULATED_DAYS[name]}
        return {"_target_": "bci_decode.data.simulate.simulated_day"} | node | array
    return {"_target_": "bci_decode.data.catalog.downloaded_file", "session": name} | node
