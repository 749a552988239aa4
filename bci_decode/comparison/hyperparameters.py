"""R2 against the hyper-parameters in which runs differ."""

from __future__ import annotations

from typing import Any

import pandas as pd

from bci_decode.comparison.finished_runs import Run
from bci_decode.comparison.groups import ProtocolGroup, differing_keys
from bci_decode.comparison.intervals import Resampled, range_text
from bci_decode.comparison.tables import mean_error, run_table, session_table
from bci_decode.errors import BciDecodeError


def hyperparameter_tables(
    groups: list[ProtocolGroup], by: str | None = None
) -> dict[str, pd.DataFrame]:
    """Mean test R2 by setting and model, a table for each experiment, recording kind and target.

    A table has a column for every setting in which its runs differ, so that nothing is averaged
    over settings. `by` names the first column; without it, tables without a difference are left
    out.
    """
    families: dict[str, list[ProtocolGroup]] = {}
    for group in groups:
        name = f"{group.experiment}, {group.recording}, {group.target}"
        families.setdefault(name, []).append(group)
    keys = {name: differing_keys(map(_settings, family)) for name, family in families.items()}
    if by is not None:
        _check_key(by, groups, keys)
        keys = {name: [by, *(key for key in own if key != by)] for name, own in keys.items()}
    return {name: _table(families[name], own) for name, own in keys.items() if own}


def _settings(group: ProtocolGroup) -> dict[str, Any]:
    """The settings that may differ between groups: the protocol's and the group's own."""
    return group.runs[0].protocol | group.differs


def _check_key(by: str, groups: list[ProtocolGroup], keys: dict[str, list[str]]) -> None:
    if not any(by in run.settings for group in groups for run in group.runs):
        known = ", ".join(dict.fromkeys(key for own in keys.values() for key in own))
        remedy = f"runs differ in {known}" if known else "runs differ in no setting"
        raise BciDecodeError(f"no run has the setting {by}", field="--by", remedy=remedy)


def _table(family: list[ProtocolGroup], keys: list[str]) -> pd.DataFrame:
    rows = [
        {key: runs[0].settings.get(key) for key in keys} | {"model": model} | _scores(group, runs)
        for group in family
        for model in group.models
        for runs in [group.of_model(model)]
    ]
    rows.sort(key=lambda row: [_rank(row[key]) for key in keys])
    # as they are: a whole number stays one beside a model that has no such setting
    values = {key: pd.Series([row[key] for row in rows], dtype=object) for key in keys}
    return pd.DataFrame(rows).assign(**values)


def _rank(value: Any) -> tuple[bool, float, str]:
    """Numbers by size before words by name."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return not number, float(value) if number else 0.0, str(value)


def _scores(group: ProtocolGroup, runs: list[Run]) -> dict[str, Any]:
    """Mean of R2 over sessions, its standard error over seeds and its 95 % interval."""
    sessions = session_table(run_table(runs))
    resampled = Resampled(ProtocolGroup(runs, group.differs))
    ends = resampled.mean_interval(runs[0].model, list(sessions["session"]), "r2")
    return {
        "sessions": len(sessions),
        "runs": len(runs),
        "mean R²": sessions["r2"].mean(),
        "SE over seeds": mean_error(sessions["se_r2"]),
        "95 % interval": range_text(ends),
    }
