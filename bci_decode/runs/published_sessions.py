"""The published sessions as choices of `session=`, for Hydra.

They are 47 configurations that differ in a name. As entries of Hydra's `ConfigStore` they would all
be made at every start, and Hydra copies its store with all of them for each group that `--help`
lists. A `ConfigSource`, Hydra's interface for configurations that are no files, makes the chosen
one alone.
"""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from bci_decode.data.catalog import catalog

GROUP = "session"


class PublishedSessions(ConfigSource):
    """`catalog://`, a folder `session` with a configuration for each session of the catalog."""

    @staticmethod
    def scheme() -> str:
        return "catalog"

    def load_config(self, config_path: str) -> ConfigResult:
        name = _session(config_path)
        if name is None:
            raise ConfigLoadError(f"Config not found : {config_path}")
        values = {
            "_target_": "bci_decode.data.catalog.downloaded_file",
            "name": name,
            "session": name,
            "folder": "${data_dir}",
        }
        header: dict[str, str | None] = {"package": None}
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(values), header)

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path.rstrip("/") in ("", GROUP)

    def is_config(self, config_path: str) -> bool:
        return _session(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        inside = config_path.rstrip("/") == GROUP
        kind, names = (ObjectType.CONFIG, catalog()) if inside else (ObjectType.GROUP, [GROUP])
        return sorted(names) if results_filter in (None, kind) else []


class _AfterTheFiles(SearchPathPlugin):
    """Hydra looks into the catalog where no file of `conf/` has the name."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("bci_decode", f"{PublishedSessions.scheme()}://")


def register_published_sessions() -> None:
    """Let Hydra find the published sessions in this process."""
    for plugin in (PublishedSessions, _AfterTheFiles):
        Plugins.instance().register(plugin)


def _session(config_path: str) -> str | None:
    """The session that a path as Hydra has it names, if it is published."""
    group, _, name = config_path.removesuffix(".yaml").rpartition("/")
    return name if group == GROUP and name in catalog() else None
