"""The runs below a folder: the finished ones, grouped by protocol, and what there ought to be of others."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from bci_decode.config import flat
from bci_decode.data.catalog import catalog, monkeys
from bci_decode.errors import BciDecodeError
from bci_decode.runs.folder import FAILED, failure

SCORES = {"r2_x": "test_r2_x", "r2_y": "test_r2_y", "r2": "test_r2"}  # a session's score, a run's column
PROTOCOL = ("data.", "optimizer.", "scheduler.", "trainer.")  # settings that runs of one column share
FREE = ("trainer.device", "trainer.threads", "trainer.watch", "trainer.profile", "trainer.gemm")


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: its `metrics.json`, its `history.csv`, its `config.yaml` as {"data.lag": 0.0}."""

    folder: Path
    metrics: dict
    history: pd.DataFrame
    settings: dict[str, Any]

    @property
    def label(self) -> str:
        return " ".join(str(self.metrics[key]) for key in ("session", "model")) + f" seed {self.metrics['seed']}"

    @property
    def protocol(self) -> dict[str, Any]:
        shared = {key: value for key, value in self.settings.items() if key.startswith(PROTOCOL) and key not in FREE}
        return {"experiment": self.metrics["experiment"]} | shared

    @property
    def model(self) -> dict[str, Any]:
        return {key: value for key, value in self.settings.items() if key.startswith("model.")}

    @property
    def recording(self) -> str:
        """What the run is of: "recorded", a published session whole; "excerpt" of one; "simulated"; "own file"."""
        name = str(self.metrics["session"])
        if str(self.settings.get("session._target_")).startswith("bci_decode.data.simulate."):
            return "simulated"
        if name in catalog() and self.metrics["data"]["md5"] == catalog()[name].md5:
            return "recorded"
        return "excerpt" if name.startswith(tuple(catalog())) else "own file"

    def row(self) -> dict[str, Any]:
        """What a table has of this run.

        `plateau` is the target's variance on the test part, the loss of a decoder that knows but the mean;
        `half_plateau_epoch` the first epoch with a test loss below half of it, empty if there was none;
        `best_val_epoch` the one of the lowest validation loss, empty without validation; `honest_`: of the bins that
        nothing was chosen on, at the epoch that validation chose, and at the one that the test part chose.
        """
        about, protocol, history = self.metrics, self.metrics["protocol"], self.history
        test, plateau = about["scores"]["test"], float(about["target_variance"]["test"])
        has_val = "val" in about["target_variance"] and history["val_loss"].notna().any()
        start, stop = protocol["split_bins"]["test"]
        honest = about.get("honest") or {}
        return {
            **{key: about[key] for key in ("experiment", "session")},
            "recording": self.recording,
            "monkey": monkey_of(about["session"]),
            **{key: about[key] for key in ("model", "seed", "select_on", "best_epoch", "epochs")},
            **{name: _number(test[key]) for key, name in SCORES.items()},
            "test_loss": float(about["loss"]["test"]),
            "plateau": plateau,
            "half_plateau_epoch": half_plateau_epoch(history, plateau),
            "best_val_epoch": int(history.loc[history["val_loss"].idxmin(), "epoch"]) if has_val else None,
            "test_bins": stop - start,
            "honest_epoch": honest.get("epoch"),
            "honest_bins": honest["bins"][1] - honest["bins"][0] if honest else None,
            **{f"honest_{key}": _number(honest.get(key)) for key in SCORES},
            **{f"honest_{key}_at_test_choice": _number(honest.get("at_test_choice", {}).get(key)) for key in SCORES},
            **{
                key: protocol[key]
                for key in ("target", "unit", "source", "bin_width_s", "lag_s", "units", "units_used")
            },
            "seconds": float(about["seconds"]),
        }


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def half_plateau_epoch(history: pd.DataFrame, plateau: float) -> int | None:
    """The first epoch with a test loss below half of the plateau, the target's variance; None if there was none."""
    below = history.loc[history["test_loss"] < plateau / 2, "epoch"]
    return int(below.iloc[0]) if len(below) else None


@dataclass(frozen=True, eq=False)
class Group:
    """Runs of one protocol, which alone may share a column; `differs` tells several of one experiment apart."""

    runs: list[Run]
    differs: dict[str, Any]

    @property
    def name(self) -> str:
        differs = ", ".join(f"{key}={value}" for key, value in self.differs.items())
        return self.runs[0].metrics["experiment"] + f" ({differs})" * bool(differs)


@dataclass(frozen=True)
class Absent:
    """Runs without figures: folder and reason of the failed, folders of the unfinished, names of the missing.

    `again`: finished runs, which count, whose folder says that a later start of them failed.
    """

    failed: list[tuple[Path, str]]
    unfinished: list[Path]
    missing: list[str]
    again: list[tuple[Path, str]]
    damaged: list[Path]

    def lines(self) -> list[str]:
        lines = [f"failed: {path} ({reason})" for path, reason in self.failed]
        lines += [f"not finished: {path}" for path in self.unfinished]
        lines += [
            f"damaged: {path} (start it again, with overwrite=true if that does not mend it)" for path in self.damaged
        ]
        return lines + [f"missing: {name}" for name in self.missing]


def read_runs(folder: Path) -> tuple[list[Run], Absent]:
    """All finished runs below `folder`, and what there is, or ought to be, of others."""
    remedy = "train first; runs lie in outputs/<experiment>"
    if not folder.is_dir():
        raise BciDecodeError("no such folder", file=folder, remedy=remedy)
    marks = [path for name in ("config.yaml", "metrics.json", FAILED) for path in folder.rglob(name)]
    begun = sorted({path.parent for path in marks if not path.parent.name.startswith(".")})
    finished = [path for path in begun if (path / "metrics.json").exists()]
    others = [path for path in begun if path not in finished]
    failed = [(path, _reason(path)) for path in others if (path / FAILED).exists()]
    unfinished = [path for path in others if not (path / FAILED).exists()]
    again = [(path, _reason(path)) for path in finished if (path / FAILED).exists()]
    runs = {path: _read_run(path) for path in finished}
    damaged = [path for path, run in runs.items() if run is None]
    absent = Absent(failed, unfinished, _missing(begun), again, damaged)
    if len(damaged) == len(finished):
        there = "; ".join(["", *absent.lines()[:3]])
        raise BciDecodeError(f"holds no finished run{there}", file=folder, remedy=remedy)
    return [run for run in runs.values() if run is not None], absent


def _read_run(path: Path) -> Run | None:
    """The run in a folder; None where its files are damaged."""
    try:
        settings = flat(yaml.safe_load((path / "config.yaml").read_text()))
        run = Run(path, json.loads((path / "metrics.json").read_text()), pd.read_csv(path / "history.csv"), settings)
        run.row(), run.metrics["selection_rule"], run.metrics["data"]["md5"]  # all that a comparison takes is there
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return None
    return run


def _reason(folder: Path) -> str:
    return next(iter((failure(folder) or "").splitlines()), "no reason given")


def _missing(begun: list[Path]) -> list[str]:
    """Of each experiment's folder: every session with every model and seed that others there have, less those begun."""
    there: dict[Path, set[tuple[str, str, int]]] = {}
    for path in (path.resolve() for path in begun):
        seed = re.fullmatch(r"seed(\d+)", path.name)
        if seed and len(path.parts) > 4:
            there.setdefault(path.parents[2], set()).add((path.parents[1].name, path.parent.name, int(seed[1])))
    missing = []
    for experiment, runs in there.items():
        wanted = itertools.product(*(sorted(set(names)) for names in zip(*runs, strict=True)))
        missing += [f"{experiment.name}/{s}/{m}/seed{k}" for s, m, k in wanted if (s, m, k) not in runs]
    return missing


def monkey_of(session: str) -> str:
    """The monkey by the session name's prefix, as catalogued; else, simulated or local, the name itself."""
    prefix = session.split("_")[0]
    return prefix if prefix in monkeys() else session


def group_runs(runs: list[Run]) -> list[Group]:
    """The runs by protocol: experiment and every setting of data, optimiser, schedule and training."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(run.protocol, sort_keys=True, default=str), []).append(run)
    for members in groups.values():
        _refuse_mixtures(members)
    protocols = [members[0].protocol for members in groups.values()]
    return [
        Group(members, _differing(own, [other for other in protocols if other["experiment"] == own["experiment"]]))
        for members, own in zip(groups.values(), protocols, strict=True)
    ]


def _differing(own: dict[str, Any], others: list[dict[str, Any]]) -> dict[str, Any]:
    keys = dict.fromkeys(key for other in others for key in other)
    return {key: own.get(key) for key in keys if any(other.get(key) != own.get(key) for other in others)}


def _refuse_mixtures(runs: list[Run]) -> None:
    """Within a protocol a name means one thing: one run, one session's data, one model's settings."""
    _same(runs, lambda run: run.label, lambda run: run.folder, "is a second run of the name and protocol of")
    _same(
        runs,
        lambda run: run.metrics["session"],
        lambda run: run.metrics["data"]["md5"],
        "has a session of other data than",
    )
    _same(runs, lambda run: run.metrics["model"], lambda run: run.model, "has other model settings than")


def _same(runs: list[Run], name: Callable[[Run], str], meaning: Callable[[Run], Any], what: str) -> None:
    firsts: dict[str, Run] = {}
    for run in runs:
        first = firsts.setdefault(name(run), run)
        if meaning(run) != meaning(first):
            raise BciDecodeError(
                f"{what} {first.folder}", file=run.folder, remedy="compare a folder that holds but one"
            )
