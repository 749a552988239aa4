"""Published scores of the protocols on six sessions, in a table of their own beside the runs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

from bci_decode.comparison.groups import ProtocolGroup
from bci_decode.comparison.summary import Published
from bci_decode.comparison.tables import markdown
from bci_decode.studies import published as source_study
from bci_decode.studies.source_study import differences

# experiments in `conf/experiment/`, and how its runs are not what was published
PROTOCOLS = {
    "neurobench": "model and training are this project's",
    "aegru": "these runs are not pruned, and have no fixed-point weights and no last epochs on "
    "training and validation part, as AEGRU pruned has",
}
COMMON = (
    "no window crosses a border between two parts, as it does in NeuroBench, a reach begins 4 ms "
    "later, and the lowest validation loss selects the epoch"
)


@cache
def peers() -> pd.DataFrame:
    """`peers.csv`: published R2, mean of x and y; a row without a session is the mean over six."""
    return pd.read_csv(Path(__file__).with_name("peers.csv"))


def peer_sessions() -> list[str]:
    """The six sessions, in the order of the published table."""
    return list(peers()["session"].dropna().unique())


def published(group: ProtocolGroup) -> Published:
    """What is published of a group: its peers, or what the source study knows of it."""
    if group.experiment not in PROTOCOLS:
        return source_study.published(group)
    return Published(peers_text(group) if group.target == "velocity" else "")


def peers_text(group: ProtocolGroup) -> str:
    """The published table of the six sessions, and in what the runs differ from its protocol."""
    known = peers()
    wide = known.pivot(index="decoder", columns="session", values="r2")[peer_sessions()]
    means = known[known["session"].isna()].set_index("decoder")
    table = means[["r2", "sd"]].join(wide).join(means[["differs", "source"]])
    table = table.rename(columns={"r2": "mean R²", "sd": "SD"}).reset_index()
    changed = {run.model: differences(run, group.experiment) for run in group.runs}
    lines = [
        "### Published, same sessions and split\n",
        "R² of cursor velocity, mean of x and y, of the last quarter of the reaches; mean over six "
        "sessions. Do not put these figures and those of the runs into one column: "
        f"{PROTOCOLS[group.experiment]}; {COMMON}.\n",
        *(f"Of this experiment, {m} runs change: {text}.\n" for m, text in changed.items() if text),
        *_other_recordings(group),
        markdown(table),
    ]
    return "\n".join(lines)


def _other_recordings(group: ProtocolGroup) -> list[str]:
    sessions = {run.metrics["session"] for run in group.runs}
    if group.recording == "recorded" and sessions <= set(peer_sessions()):
        missing = [name for name in peer_sessions() if name not in sessions]
        lack = f"Of the six sessions these runs have not: {', '.join(missing)}.\n"
        return [lack] if missing else []
    return ["**These runs are of other recordings: their scores say nothing about these.**\n"]
