"""Settings as a command line sets them, through all that is checked before a run begins."""

from __future__ import annotations

import copy
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
from bci_decode.runs.job import Job
from bci_decode.runs.messages import error_line

SENSELESS = ("-1", "nan", "inf", "1e308", "word", str(10**30))
VALUES = (*SENSELESS, "0", "0.5", "''", "null", "[1]", "{a: 1}", "true")
SIGNED = ("data.lag", "trajectory.start", "model.recurrent.update_bias")  # -1 has a meaning
SMALL = (
    "data.bin_width=0.05", "data.window.length=8", "data.window.burn_in=2",
    "data.window.stride=8", "data.split.gap=0.1", "trainer.epochs=1",
)  # fmt: skip
PARTS = ("model", "optimizer", "scheduler")


def files(group: str) -> list[Path]:
    return sorted((CONF / group).glob("*.yaml"))


def bases() -> dict[str, tuple[str, ...]]:
    """Choices whose keys, together, are all keys that there are, with words that make them small.

    All keys but those of `PARTS` belong to the last one.
    """
    found = {}
    for path in files("model"):
        recurrent = "recurrent" in path.read_text(encoding="utf-8")
        found[f"model={path.stem}"] = ("model.recurrent.hidden_size=6",) * recurrent
    gru = ("model=gru", *found["model=gru"])
    for group in PARTS[1:]:
        found |= {f"{group}={path.stem}": gru for path in files(group)}
    found["data.split=chained"] = (*gru, "data.split.cut=0")
    return found


@cache
def composed(base: str) -> DictConfig:
    return compose(base, *SMALL, *bases()[base])


def numeric_keys(base: str) -> list[str]:
    """The keys of a choice whose value is a number, or may be one."""
    config = composed(base)
    part = base.partition("=")[0]
    values = flatten(plain(config))
    if part in PARTS:
        own = {key for key in values if key.startswith(f"{part}.")}
    else:
        own = {key for key in values if not key.startswith(tuple(f"{one}." for one in PARTS))}
    return sorted(key for key in own if _may_be_a_number(config, key, values[key]))


def _may_be_a_number(config: DictConfig, key: str, value: Any) -> bool:
    if isinstance(value, (str, bool, dict)):
        return False
    if isinstance(value, list):
        return all(isinstance(one, (int, float)) for one in value)
    group, _, name = key.rpartition(".")
    node: Any = OmegaConf.select(config, group)._get_node(name)
    return value is not None or type(node).__name__ != "StringNode"


def all_cases() -> Iterator[tuple[str, str, str]]:
    """Every numeric key with every value."""
    for base in bases():
        for key in numeric_keys(base):
            for value in VALUES:
                yield base, key, value


class Checks:
    """All checks of a run, up to "all settings are valid", on a short simulated session."""

    def __init__(self, folder: Path):
        self.folder, self.working = folder, folder / "run.running"
        self.working.mkdir()
        self.file = simulated_session(folder, seed=0, minutes=0.6, channels=4)
        self.session = read_session(self.file)

    def refusal(self, base: str, key: str, value: str) -> str | None:
        """The line that refuses a setting, or None where an epoch is trained with it."""
        config = copy.deepcopy(composed(base))
        try:
            override = OverridesParser.create().parse_override(f"{key}={value}")
            OmegaConf.update(config, key, override.value())
            if key.startswith("session."):
                config.session.folder = str(self.folder)
                session_file(config)
            self.train(config)
        except (BciDecodeError, HydraException, OmegaConfBaseException) as mistake:
            return error_line(mistake)
        return None

    def train(self, config: DictConfig) -> None:
        """What a run does, without its folder and its report."""
        from bci_decode.data.binning import bin_session
        from bci_decode.data.dataset import prepare
        from bci_decode.runs.build import build_decoder
        from bci_decode.training.surroundings import torch_state_kept

        typed = typed_config(config)
        keys = typed.data
        binned = bin_session(self.session, **keys.binning_kwargs(), grids=keys.window.grids)
        data = prepare(binned, keys)
        folder = self.working.with_suffix("")
        job = Job(config, typed, plain(config), folder, self.file, (), False)
        with torch_state_kept():
            learn = job._training(build_decoder(config, data), data, "md5")
            learn(lambda row: None)
        for file in self.working.iterdir():
            file.unlink()
