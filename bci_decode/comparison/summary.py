"""A comparison of runs as text: `summary.md`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from bci_decode.comparison.finished_runs import SCORES as SCORE_COLUMNS
from bci_decode.comparison.finished_runs import IncompleteRuns
from bci_decode.comparison.groups import ProtocolGroup, missing_runs
from bci_decode.comparison.hyperparameters import hyperparameter_tables
from bci_decode.comparison.intervals import Resampled, range_text
from bci_decode.comparison.pairs import (
    MIN_PAIRS,
    model_pairs,
    paired_scores,
    paired_tests,
    unmatched_runs,
)
from bci_decode.comparison.tables import (
    ALL,
    MAX_LISTED,
    epoch_table,
    holdout_table,
    loss_table,
    markdown,
    partial_seeds,
    score_table,
    session_table,
)
from bci_decode.data.catalog import monkeys
from bci_decode.evaluation.intervals import interval
from bci_decode.style import model_label, model_order

SCORE_LABELS = {"r2": "mean of x and y", "r2_x": "x", "r2_y": "y"}
COLUMNS = [
    "experiment", "session", "model", "seed", "cut", "select_on", "best_epoch", "epochs", "test_r2",
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
        text = {key: ["" if one is None else str(one) for one in table[key]] for key in keys}
        shown = _labeled(table).assign(**text)
        if not any(table["95 % interval"]):
            shown = shown.drop(columns="95 % interval")
        lines += [
            f"## Test R² by setting: {name}\n",
            "Mean over sessions; SE: standard error over seeds (of their means over the cuts of a "
            "chained split), empty with one seed; 95 % interval: bootstrap of 2 s blocks.\n",
            markdown(shown),
        ]
    return lines


def _part(group: ProtocolGroup, baseline: str, published: Published) -> str:
    resampled = Resampled(group)
    table = resampled.table
    sessions = session_table(table)
    lines = [f"## {group.name}\n", _protocol(group), *_scores(resampled, sessions)]
    lines += [*_holdout(table), *_tests(resampled, baseline), *_epochs(table)]
    if published.text:
        lines.append(published.text)
    if sessions["session"].nunique() > 1:
        lines += ["### Sessions, mean over seeds\n", _by_session(sessions, published.sessions)]
    lines += _losses(group, published.losses)
    if len(group.runs) <= MAX_LISTED:
        columns = [key for key in COLUMNS if key != "cut" or table["cut"].notna().any()]
        lines += ["### Test scores at the best epoch\n", markdown(table[columns])]
    else:
        lines.append(f"The {len(group.runs)} runs one by one: `sessions.csv`.\n")
    return "\n".join(lines)


def _protocol(group: ProtocolGroup) -> str:
    # a model in closed form has no epoch to select
    run = next((run for run in group.runs if not run.closed_form), group.runs[0])
    about, settings = run.metrics, run.settings
    protocol = about["protocol"]
    counted = protocol.get("count_window_s")
    counts = f" with the counts of {1000 * counted:g} ms" if counted else ""
    return (
        f"Protocol: {protocol['target']} in {protocol['unit']} of {protocol['source']}; bins of "
        f"{1000 * protocol['bin_width_s']:g} ms{counts}, lag {protocol['lag_s']:g} s"
        f"{_waits(protocol)}; units: {protocol['units']}; {_split(settings)}; "
        f"up to {settings.get('trainer.epochs')} epochs, "
        f"{_selected(about)}. Recordings: {group.recording}.\n"
    )


def _waits(protocol: dict[str, Any]) -> str:
    """What makes the decoded movement late: a delay, and a filter of the outputs."""
    delay, low_pass = protocol.get("delay_s"), protocol.get("low_pass_hz")
    late = f", decoded {delay:g} s late, from later spikes too" if delay else ""
    return late + (f", low-pass at {low_pass:g} Hz" if low_pass else "")


def _selected(about: dict[str, Any]) -> str:
    rule = str(about["selection_rule"])
    return rule.removeprefix("none: ") if rule.startswith("none") else f"the best one by {rule}"


def _split(settings: dict[str, Any]) -> str:
    first, share, cuts = (
        settings.get(f"data.split.{key}") for key in ("first_bins", "val", "cuts")
    )
    if cuts:
        return (
            f"forward-chained cross-validation: {cuts} cuts, each trained on all bins before a "
            f"test block of {settings.get('data.split.block')} of the session, validation part: "
            + (f"the last {share} of those bins" if share else "none")
        )
    training = f"first {first} bins" if first else f"first {settings.get('data.split.train')}"
    validation = f"{share} of {'them' if first else 'it'}" if share else "none of its own"
    reaches = settings.get("data.split.by") == "reaches"
    return (
        f"training part: {training} of {'the reaches of ' * reaches}a session, validation part: "
        f"{validation}, test part: the rest"
    )


def _scores(resampled: Resampled, sessions: pd.DataFrame) -> list[str]:
    table = resampled.table
    chained = bool(table["cut"].notna().any())
    note = (
        f"Mean over {'cuts, then over seeds,' if chained else 'seeds'} first; weights: test bins."
    )
    scored = score_table(sessions)
    if scored["SE over seeds"].isna().all():
        scored = scored.drop(columns="SE over seeds")
    else:
        note += (
            f" SE over seeds: of the plain mean{', each seed its mean over cuts' * chained}; empty "
            "where a session has one seed."
        )
    scored, more = _with_certainty(scored, resampled, sessions)
    note += more
    if partial := partial_seeds(table):
        note += f" Seeds that lack a cut, and are in no mean: {', '.join(partial)}."
    table = _labeled(scored)
    text = ["### Test R² over sessions\n", note + "\n", markdown(table)]
    without = sessions[sessions[["r2", "r2_x", "r2_y"]].isna().any(axis=1)]
    if len(without):
        names = ", ".join(f"{row.session} {row.model}" for row in without.itertuples())
        text.append(f"R² is no number, and in no mean, for: {names}.\n")
    if monkeys() & set(table["monkey"]) and not set(sessions["monkey"]) <= monkeys():
        text.append("Sessions not named after a cataloged monkey count only under `all`.\n")
    return text


def _with_certainty(
    scored: pd.DataFrame, resampled: Resampled, sessions: pd.DataFrame
) -> tuple[pd.DataFrame, str]:
    """A table of scores with intervals and the level of chance, and what they are, if known."""
    ranges, chance = [], []
    for row in scored.itertuples():
        named = sessions["monkey"] == row.monkey if row.monkey != ALL else sessions["seeds"] > 0
        its = sessions[named & (sessions["model"] == row.model) & sessions[row.score].notna()]
        ranges.append(
            range_text(resampled.mean_interval(row.model, list(its["session"]), row.score))
        )
        chance.append(resampled.chance(row.model, row.score) if row.monkey == ALL else float("nan"))
    if not any(ranges) and np.isnan(chance).all():
        return scored, ""
    note = (
        " The 95 % interval is of the plain mean: a bootstrap of 2 s blocks of the test parts, "
        "which knows nothing of other seeds or sessions. By chance: mean R² against 20 targets "
        "shifted in time."
    )
    return scored.assign(**{"95 % interval": ranges, "by chance": chance}), note


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


def _tests(resampled: Resampled, baseline: str) -> list[str]:
    table = resampled.table
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
    ends = [
        resampled.gain_interval(row.model, row.baseline, row.score) for row in tests.itertuples()
    ]
    by_session = _gains(resampled, pairs)
    if any(map(range_text, ends)):
        place = list(shown.columns).index("mean gain") + 1
        shown = shown.copy()
        shown.insert(place, "95 % interval of the mean", list(map(range_text, ends)))
        note += (
            " The interval is of the mean gain over these sessions: a bootstrap of 2 s blocks that "
            "draws the same blocks for both models."
        )
    return [*text, markdown(_labeled(shown)), note + "\n", *by_session]


def _gains(resampled: Resampled, pairs: list[tuple[str, str]]) -> list[str]:
    """The gain of each model in each session, mean of x and y, with its interval."""
    rows = []
    for model, base in pairs:
        draws = resampled.gains(model, base)
        scores = paired_scores(resampled.table, "r2", model, base).reset_index()
        for row in scores[scores["session"].isin(list(draws))].itertuples():
            place = list(SCORE_COLUMNS).index("r2")
            ends = range_text(interval(draws[row.session][:, place]))
            about = {"session": row.session, "model": model, "baseline": base}
            rows.append(about | {"gain": row.model - row.base, "95 % interval": ends})
    if not rows:
        return []
    return ["Gain in R², mean of x and y, by session:\n", markdown(_labeled(pd.DataFrame(rows)))]


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
