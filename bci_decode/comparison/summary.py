"""A comparison of runs as text: `summary.md`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from bci_decode.comparison.finished_runs import IncompleteRuns
from bci_decode.comparison.groups import ProtocolGroup, missing_runs
from bci_decode.comparison.hyperparameters import hyperparameter_tables
from bci_decode.comparison.pairs import MIN_PAIRS, model_pairs, paired_tests, unmatched_runs
from bci_decode.comparison.tables import (
    MAX_LISTED,
    epoch_table,
    holdout_table,
    loss_table,
    markdown,
    run_table,
    score_table,
    session_table,
)
from bci_decode.data.catalog import monkeys
from bci_decode.style import model_label, model_order

SCORE_LABELS = {"r2": "mean of x and y", "r2_x": "x", "r2_y": "y"}
COLUMNS = [
    "experiment", "session", "model", "seed", "select_on", "best_epoch", "epochs", "test_r2",
    "test_r2_x", "test_r2_y", "test_loss", "plateau", "half_plateau_epoch", "seconds",
]  # fmt: skip


@dataclass(frozen=True)
class Published:
    """What a study knows about a group: text, columns by session, and test losses by epoch."""

    text: str = ""
    sessions: pd.DataFrame = field(default_factory=pd.DataFrame)
    losses: pd.DataFrame = field(default_factory=pd.DataFrame)


def summary(
    groups: list[ProtocolGroup],
    incomplete: IncompleteRuns,
    baseline: str,
    by: str | None = None,
    published: Sequence[Published] = (),
    appendix: str = "",
) -> str:
    """The whole text: incomplete runs, R2 by setting, a part for each group, and the appendix.

    `published` has what a study knows about each of the groups, in their order.
    """
    known = published or [Published()] * len(groups)
    parts = [_part(group, baseline, one) for group, one in zip(groups, known, strict=True)]
    lines = [
        "# Comparison of runs\n",
        *_incomplete(groups, incomplete),
        *_by_setting(groups, by),
        *parts,
        appendix,
    ]
    return "\n".join(lines)


def _incomplete(groups: list[ProtocolGroup], incomplete: IncompleteRuns) -> list[str]:
    missing = missing_runs(groups, incomplete)
    lines = [
        f"Runs: {sum(len(group.runs) for group in groups)} finished, {len(incomplete.failed)} "
        f"failed, {len(incomplete.unfinished)} not finished, {len(incomplete.damaged)} damaged, "
        f"{len(missing)} missing (another model has a run of that session and seed).\n"
    ]
    without = [*incomplete.lines(), *(f"missing: {name}" for name in missing[:MAX_LISTED])]
    if len(missing) > MAX_LISTED:
        without.append(f"missing: {len(missing) - MAX_LISTED} more")
    if without:
        lines += ["In no figure and no table:\n", *(f"- {line}" for line in without), ""]
    if incomplete.failed_restarts:
        restarts = [f"- {path} ({reason})" for path, reason in incomplete.failed_restarts]
        lines += ["Finished, and shown as before a later start:\n", *restarts, ""]
    if len(groups) > 1:
        what = "kinds of runs (protocol and recordings), each in its own part"
        lines.append(f"{len(groups)} {what}: do not compare scores across parts.\n")
    return lines


def _by_setting(groups: list[ProtocolGroup], by: str | None) -> list[str]:
    lines = []
    for name, table in hyperparameter_tables(groups, by).items():
        keys = [key for key in table if "." in key]  # three decimals would not do for them
        shown = _labeled(table).astype(dict.fromkeys(keys, str))
        lines += [
            f"## Test R² by setting: {name}\n",
            "Mean over sessions; SE: standard error over seeds, empty with one seed.\n",
            markdown(shown),
        ]
    return lines


def _part(group: ProtocolGroup, baseline: str, published: Published) -> str:
    table = run_table(group.runs)
    sessions = session_table(table)
    lines = [f"## {group.name}\n", _protocol(group), *_scores(sessions), *_holdout(table)]
    lines += [*_tests(table, baseline), *_epochs(table)]
    if published.text:
        lines.append(published.text)
    if sessions["session"].nunique() > 1:
        lines += ["### Sessions, mean over seeds\n", _by_session(sessions, published.sessions)]
    lines += _losses(group, published.losses)
    if len(group.runs) <= MAX_LISTED:
        lines += ["### Test scores at the best epoch\n", markdown(table[COLUMNS])]
    else:
        lines.append(f"The {len(group.runs)} runs one by one: `sessions.csv`.\n")
    return "\n".join(lines)


def _protocol(group: ProtocolGroup) -> str:
    about, settings = group.runs[0].metrics, group.runs[0].settings
    protocol = about["protocol"]
    first, share = settings.get("data.split.first_bins"), settings.get("data.split.val")
    training = f"first {first} bins" if first else f"first {settings.get('data.split.train')}"
    whole = "the reaches of a session" if protocol.get("split_by") == "reaches" else "a session"
    counted = protocol.get("count_window_s")
    counts = f" with the counts of {1000 * counted:g} ms" if counted else ""
    validation = f"{share} of {'them' if first else 'it'}" if share else "none of its own"
    return (
        f"Protocol: {protocol['target']} in {protocol['unit']} of {protocol['source']}; bins of "
        f"{1000 * protocol['bin_width_s']:g} ms{counts}, lag {protocol['lag_s']:g} s; units: "
        f"{protocol['units']}; training part: {training} of {whole}, validation part: "
        f"{validation}, test part: the rest; up to {settings.get('trainer.epochs')} epochs, the "
        f"best one by {about['selection_rule']}. Recordings: {group.recording}.\n"
    )


def _scores(sessions: pd.DataFrame) -> list[str]:
    table = _labeled(score_table(sessions))
    text = ["### Test R² over sessions\n", "Mean over seeds first; weights: test bins.\n"]
    text.append(markdown(table))
    without = sessions[sessions[["r2", "r2_x", "r2_y"]].isna().any(axis=1)]
    if len(without):
        names = ", ".join(f"{row.session} {row.model}" for row in without.itertuples())
        text.append(f"R² is no number, and in no mean, for: {names}.\n")
    if monkeys() & set(table["monkey"]) and not set(sessions["monkey"]) <= monkeys():
        text.append("Sessions not named after a cataloged monkey count only under `all`.\n")
    return text


def _labeled(table: pd.DataFrame) -> pd.DataFrame:
    """The same with labels of models and scores."""
    labels = {name: table[name].map(model_label) for name in ("model", "baseline") if name in table}
    scores = {"score": table["score"].map(SCORE_LABELS)} if "score" in table else {}
    return table.assign(**labels, **scores)


def _holdout(table: pd.DataFrame) -> list[str]:
    holdout = holdout_table(table)
    if len(holdout) == 0:
        return []
    return [
        "### Holdout R²: the epoch and the score come from different test bins\n",
        "The lowest loss on the beginning of the test part selects the epoch; the score is that of "
        "the rest. Do not compare it with scores of the whole test part. Beside it, for the same "
        "bins, the R² at the epoch that the whole TEST part selected. Mean over sessions; weights: "
        "the scored bins.\n",
        markdown(_labeled(holdout)),
    ]


def _tests(table: pd.DataFrame, baseline: str) -> list[str]:
    label = model_label(baseline)
    text = [f"### Gain in test R² over {label}, session by session\n"]
    pairs = model_pairs(model_order(table["model"]), baseline)
    tests = paired_tests(table, pairs)
    if len(tests) == 0:
        return [*text, f"No session has both a {label} and another model: nothing to pair.\n"]
    untested = tests["sign test p"].isna().all()
    shown = tests.drop(columns=["sign test p", "Wilcoxon p"]) if untested else tests
    note = (
        f"Two-sided tests, without sessions that do not differ; none with fewer than {MIN_PAIRS} "
        "paired sessions, or if no session differs."
    )
    if tests["model"].nunique() > 1:
        note += " Each model is tested on its own: p is not corrected for their number."
    if unmatched := unmatched_runs(table, pairs):
        note += f" Left out of the pairs: {unmatched} runs whose seed the other model lacks."
    return [*text, markdown(_labeled(shown)), note + "\n"]


def _epochs(table: pd.DataFrame) -> list[str]:
    epochs = epoch_table(table)
    if len(epochs) == 0:
        return []
    note = (
        "The plateau is the variance of the target on the test part. Half the plateau: first epoch "
        "with a test loss below half of it; empty if half of the runs or more never are."
    )
    if epochs["best validation loss"].isna().all():
        epochs = epochs.drop(columns="best validation loss")
        note += " No validation part, so no best validation loss."
    return ["### Median epochs over runs\n", markdown(_labeled(epochs)), note + "\n"]


def _by_session(sessions: pd.DataFrame, published: pd.DataFrame) -> str:
    """A row for each session: R2 of every model, then the published columns."""
    scores = ["r2_x", "r2_y"]
    wide = sessions.pivot(index=["session", "test_bins"], columns="model", values=scores)
    wide = wide.sort_index(axis=1)[
        [(score, model) for model in model_order(sessions["model"]) for score in scores]
    ]
    wide.columns = [f"{model_label(model)} R² {SCORE_LABELS[name]}" for name, model in wide.columns]
    wide = wide.reset_index("test_bins").rename(columns={"test_bins": "test bins"})
    return markdown(wide.join(published) if len(published) else wide, index=True)


def _losses(group: ProtocolGroup, published: pd.DataFrame) -> list[str]:
    table = loss_table(group)
    if len(published):
        table = table.join(published, how="outer")
    note = (
        "Of a run, only the leading digits repeat elsewhere: training amplifies differences in "
        "rounding between processors and precisions.\n"
    )
    return ["### Test loss by epoch\n", markdown(table, index=True), note]
