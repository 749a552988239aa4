"""Settings as a command line sets them, through all checks that come before a run begins."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from composing import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bci_decode.config import flatten
from bci_decode.data.session import read_session
from bci_decode.data.simulate import simulated_session
from bci_decode.errors import BciDecodeError
from bci_decode.runs.build import session_file
from bci_decode.runs.compose import CONF, plain, typed_config
from bci_decode.runs.messages import error_line
from bci_decode.runs.run import _Job

SENSELESS = ("-1", "nan", "inf", "1e308", "word", str(10**30))
VALUES = (*SENSELESS, "0", "0.5", "''", "null", "[1]", "{a: 1}", "true")
SMALL = ("data.bin_width=0.05", "data.window.length=8", "data.window.burn_in=2",
         "data.window.stride=8", "data.split.gap=0.1", "trainer.epochs=1")  # fmt: skip
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
GROUPS = ("session", "model", "optimizer", "scheduler")


def bases() -> dict[str, tuple[str, ...]]:
    """Command lines whose keys, together, are all keys that there are."""
    small = {
        key: ("model.recurrent.hidden_size=6",)
        for key in MODELS
        if "recurrent" in (CONF / "model" / f"{key}.yaml").read_text()
    }
    found = {f"model={name}": (*SMALL, *small.get(name, ())) for name in MODELS}
    gru = ("model=gru", *SMALL, *small["gru"])
    for group in ("optimizer", "scheduler"):
        for path in sorted((CONF / group).glob("*.yaml")):
            found[f"{group}={path.stem}"] = gru
    found["data.split=chained"] = (*gru, "data.split.cut=0")
    return found


@cache
def composed(base: str) -> DictConfig:
    return compose(base, *bases()[base])


def numeric_keys(config: DictConfig) -> list[str]:
    """The keys of a configuration whose value is a number, or may be one."""
    return sorted(
        key
        for key, value in flatten(plain(config)).items()
        if not isinstance(value, (str, bool)) and _may_be_a_number(config, key, value)
    )


def _may_be_a_number(config: DictConfig, key: str, value: Any) -> bool:
    if isinstance(value, dict) or value == {}:
        return False
    if isinstance(value, list):
        return all(isinstance(one, (int, float)) for one in value)
    if value is not None:
        return True
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent)._get_node(name)
    return type(node).__name__ in ("FloatNode", "IntegerNode", "AnyNode")


def group_of(key: str) -> str:
    return key.partition(".")[0]


def cases(base: str) -> Iterator[tuple[str, str]]:
    """Every numeric key that this base is for, with every value."""
    group = base.partition("=")[0].partition(".")[0]
    own = (group,) if group in GROUPS else None
    for key in numeric_keys(composed(base)):
        if own is None and group_of(key) in GROUPS[1:]:
            continue
        if own is not None and group_of(key) not in own:
            continue
        for value in VALUES:
            yield key, value


class Checks:
    """All checks of a run, up to "all settings are valid", on a short simulated session."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.file = simulated_session(folder, seed=0, minutes=0.6, channels=4)
        self.session = read_session(self.file)

    def refusal(self, base: str, key: str, value: str, train: bool = True) -> str | None:
        """The line that refuses a setting, or None where a run of one epoch takes it."""
        try:
            config = copy.deepcopy(composed(base))
            override = OverridesParser.create().parse_override(f"{key}={value}")
            OmegaConf.update(config, key, override.value(), force_add=False)
            self.check(config, train, new_session=key.startswith("session."))
        except (BciDecodeError, HydraException, OmegaConfBaseException) as mistake:
            return error_line(mistake)
        return None

    def check(self, config: DictConfig, train: bool, new_session: bool) -> None:
        import torch

        from bci_decode.data.binning import bin_session
        from bci_decode.data.dataset import prepare
        from bci_decode.runs.build import build_decoder
        from bci_decode.training.surroundings import torch_state_kept

        typed = typed_config(config)
        settings = plain(config)
        if new_session:
            config.session.folder = str(self.folder)
            session_file(config)
        keys = typed.data
        binned = bin_session(self.session, **keys.binning_kwargs(), grids=keys.window.grids)
        data = prepare(binned, keys)
        job = _Job(config, typed, settings, self.folder / "run", self.file, (), False)
        job.working = self.folder / "run.running"
        job.working.mkdir(exist_ok=True)
        for file in job.working.iterdir():
            file.unlink()
        with torch_state_kept(), warnings.catch_warnings():
            warnings.simplefilter("error")
            decoder = build_decoder(config, data)
            learn = job._training(decoder, data, "md5")
            if train:
                learn(lambda row: None)
        assert torch.get_num_threads() >= 1
