"""Runs of one protocol, which alone may share a table, and what separates several groups."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bci_decode.comparison.finished_runs import IncompleteRuns, Run
from bci_decode.errors import BciDecodeError
from bci_decode.runs.folder import model_folder
from bci_decode.style import BIDIRECTIONAL, model_order


@dataclass(frozen=True, eq=False)
class ProtocolGroup:
    """Runs of one protocol and kind of recording.

    `differs`: settings that tell it from other groups of the same experiment.
    """

    runs: list[Run]
    differs: dict[str, Any]

    @property
    def experiment(self) -> str:
        return self.runs[0].metrics["experiment"]

    @property
    def recording(self) -> str:
        return self.runs[0].recording

    @property
    def target(self) -> str:
        return self.runs[0].metrics["protocol"]["target"]

    @property
    def models(self) -> list[str]:
        return model_order(run.model for run in self.runs)

    @property
    def name(self) -> str:
        """What tells groups apart: "default, simulated (data.lag=0.1)"."""
        kind = f", {self.recording}" * ("recording" in self.differs)
        settings = {key: value for key, value in self.differs.items() if key != "recording"}
        differs = ", ".join(f"{key}={value}" for key, value in settings.items())
        return self.experiment + kind + f" ({differs})" * bool(differs)

    def of_model(self, model: str) -> list[Run]:
        return [run for run in self.runs if run.model == model]


def group_runs(runs: list[Run]) -> list[ProtocolGroup]:
    """Group runs by protocol and, where runs of one model differ in its settings, by those too."""
    protocols = _split(runs, lambda run: run.protocol)
    groups = []
    for members in protocols:
        own = members[0].protocol
        others = (group[0].protocol for group in protocols)
        keys = differing_keys(other for other in others if other["experiment"] == own["experiment"])
        differs = {key: own.get(key) for key in keys}
        groups += [ProtocolGroup(part, differs | variant) for part, variant in _variants(members)]
    for group in groups:
        _check_consistent(group.runs)
    return groups


def _split(runs: list[Run], key: Callable[[Run], dict[str, Any]]) -> list[list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(key(run), sort_keys=True, default=str), []).append(run)
    return list(groups.values())


def _variants(runs: list[Run]) -> list[tuple[list[Run], dict[str, Any]]]:
    """Split runs by the settings in which runs of one and the same model differ, and those."""
    found = (
        differing_keys(run.model_settings for run in runs if run.model == model)
        for model in {run.model for run in runs}
    )
    keys = sorted({key for keys in found for key in keys})

    def values(run: Run) -> dict[str, Any]:
        return {key: run.settings.get(key) for key in keys}

    return [(part, values(part[0])) for part in _split(runs, values)]


def differing_keys(settings: Iterable[dict[str, Any]]) -> list[str]:
    """The keys that do not have the same value in all; a key that is absent has the value None."""
    settings = list(settings)
    keys = dict.fromkeys(key for one in settings for key in one)
    return [key for key in keys if any(one.get(key) != settings[0].get(key) for one in settings)]


def _check_consistent(runs: list[Run]) -> None:
    """Within a group a name means one thing: one run, and one session's data."""
    second_run = "is a second run of the name and protocol of"
    _require_equal(runs, lambda run: run.label, lambda run: run.folder, second_run)
    _require_equal(
        runs,
        lambda run: run.metrics["session"],
        lambda run: run.metrics["data"]["md5"],
        "has a session of other data than",
    )


def _require_equal(
    runs: list[Run], name: Callable[[Run], str], meaning: Callable[[Run], Any], problem: str
) -> None:
    firsts: dict[str, Run] = {}
    for run in runs:
        first = firsts.setdefault(name(run), run)
        if meaning(run) != meaning(first):
            remedy = "compare folders that hold only one of them"
            raise BciDecodeError(f"{problem} {first.folder}", file=run.folder, remedy=remedy)


def missing_runs(groups: list[ProtocolGroup], incomplete: IncompleteRuns) -> list[str]:
    """Runs that were never started, of a session, seed and cut that another model of a group has.

    Decoders of one direction and of both are separate here: neither demands runs of the other.
    """
    started = {folder.resolve() for folder in incomplete.folders}
    return [
        str(folder)
        for group in groups
        for model in group.models
        for folder in _expected_folders(group, model)
        if folder.resolve() not in started
    ]


def _expected_folders(group: ProtocolGroup, model: str) -> list[Path]:
    """Folders of a model's runs of all (session, seed, cut) that only other models have."""
    own = group.of_model(model)
    done = {_place(run) for run in own}
    peers = [run for run in group.runs if _both_directions(run.model) == _both_directions(model)]
    wanted = {_place(run): run.folder for run in peers if _place(run) not in done}
    name = model_folder(own[0].folder).name
    models = ((path, model_folder(path)) for path in wanted.values())
    return [model.with_name(name) / path.relative_to(model) for path, model in models]


def _place(run: Run) -> tuple[str, int, int | None]:
    return run.metrics["session"], run.metrics["seed"], run.cut


def _both_directions(model: str) -> bool:
    return model.endswith(BIDIRECTIONAL)
