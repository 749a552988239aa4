"""A comparison of runs as text: `summary.md`, with the published figures, each marked with its own protocol."""

from __future__ import annotations

import pandas as pd

from bci_decode.comparison.finished_runs import Absent, Group
from bci_decode.comparison.tables import (
    FEW,
    FEWEST,
    epoch_table,
    markdown,
    matched,
    paired_tests,
    reference,
    run_table,
    score_table,
    session_table,
)
from bci_decode.data.catalog import catalog
from bci_decode.studies.source_study import (
    DECODERS,
    ablation_table,
    ablation_text,
    honest_text,
    losses_text,
    of_study,
)

NAMES = DECODERS | {"r2": "mean of x and y", "r2_x": "x", "r2_y": "y"}
COLUMNS = ["experiment", "session", "model", "seed", "select_on", "best_epoch", "epochs", "test_r2", "test_r2_x",
           "test_r2_y", "test_loss", "plateau", "half_plateau_epoch", "seconds"]  # fmt: skip


def summary(groups: list[Group], absent: Absent) -> str:
    """The whole text: what has no figures first, then a part for each group, last the source study's own table."""
    count = sum(len(group.runs) for group in groups)
    lines = ["# Comparison of runs", ""]
    lines += [
        f"Runs: {count} finished, {len(absent.failed)} failed, {len(absent.unfinished)} not finished, {len(absent.damaged)} damaged, "
        f"{len(absent.missing)} missing (a session, model and seed that others there have, never begun)."
    ]
    if absent.lines():
        lines += ["", "In no figure and no table:", "", *(f"- {line}" for line in absent.lines())]
    if absent.again:
        told = (f"- {path} ({reason})" for path, reason in absent.again)
        lines += ["", "Finished, and shown as they were before a later start failed:", "", *told]
    if len(groups) > 1:
        lines += ["", f"{len(groups)} protocols, each in a part of its own: their figures are not comparable."]
    parts = "".join(f"\n{_part(group)}" for group in groups)
    study = ablation_text(ablation_table(groups)) if of_study(groups) else ""
    return "\n".join(lines) + "\n" + parts + study


def _part(group: Group) -> str:
    table = run_table(group.runs)
    sessions = session_table(table)
    parts = [f"## {group.name}\n", _protocol(group), *_scores(sessions), *honest_text(table), *_tests(table)]
    if {"gru-bidirectional", "lngru-bidirectional"} <= set(table["model"]):
        parts += _tests(table, "gru-bidirectional", "lngru-bidirectional")
    parts += _epochs(table)
    parts += _published(table.iloc[0])
    if sessions["session"].nunique() > 1:
        parts += ["### Sessions, mean over seeds\n", _side_by_side(sessions, table.iloc[0])]
    parts += losses_text(group)
    if len(group.runs) <= FEW:
        parts += ["### Test scores at the best epoch\n", markdown(table[COLUMNS])]
    else:
        parts.append(f"The {len(group.runs)} runs one by one: `sessions.csv`.\n")
    return "\n".join(parts)


def _protocol(group: Group) -> str:
    about, settings = group.runs[0].metrics, group.runs[0].settings
    protocol = about["protocol"]
    first, share = settings.get("data.split.first_bins"), settings.get("data.split.val")
    learned = f"first {first} bins" if first else f"first {settings.get('data.split.train')} of a session"
    held = (
        f", {share} of {'them' if first else 'it'} for validation"
        if share
        else ", no validation part" + " of its own" * bool(settings.get("data.split.val_of_rest"))
    )
    return (
        f"Protocol of these runs: {protocol['target']} in {protocol['unit']} of {protocol['source']}; bins of "
        f"{1000 * protocol['bin_width_s']:g} ms, lag {protocol['lag_s']:g} s; units: {protocol['units']}; "
        f"{learned} to train on{held}, test on what follows; up to {settings.get('trainer.epochs')} epochs, "
        f"chosen by: {about['selection_rule']}.\n"
    )


def _scores(sessions: pd.DataFrame) -> list[str]:
    table = score_table(sessions).replace({"model": NAMES, "score": NAMES})
    text = ["### Test R² over sessions\n", "Mean over seeds first; weights: test bins.\n", markdown(table)]
    without = sessions[sessions[["r2", "r2_x", "r2_y"]].isna().any(axis=1)]
    if len(without):
        names = ", ".join(f"{row.session} {row.model}" for row in without.itertuples())
        text.append(f"R² is no number, and in no mean, for: {names}.\n")
    if not set(sessions["session"]) <= set(catalog()):
        text.append("Sessions whose names begin with no monkey of the catalogue count under `all` only.\n")
    return text


def _tests(runs: pd.DataFrame, first: str = "gru", second: str = "lngru") -> list[str]:
    runs = runs[runs["model"].isin((first, second))]
    table = paired_tests(runs, first, second)
    alone = len(runs) - len(matched(runs, first, second))
    paired = int(table["paired sessions"].max())
    text = [f"### {NAMES[second]} less {NAMES[first]}, session by session\n"]
    if paired and alone:
        text.append(f"Left out of the pairs: {alone} runs of a seed that the other model has not run there.\n")
    if not paired:
        return [*text, "No session has both a GRU and an LN-GRU run: nothing to pair.\n"]
    if table["sign test p"].isna().all():
        why = f"they want at least {FEWEST}" if paired < FEWEST else "no session differs"
        table = table.drop(columns=["sign test p", "Wilcoxon p"])
        note = f"No sign test and no Wilcoxon test with {paired} paired session{'s' * (paired > 1)}: {why}.\n"
    else:
        note = "Two-sided; sessions without a difference are left out of the tests.\n"
    return [*text, markdown(table.replace({"score": NAMES})), note]


def _epochs(table: pd.DataFrame) -> list[str]:
    epochs = epoch_table(table)
    note = "Half the plateau: first epoch with a test loss below half the target's variance; empty: half of the runs or more never."
    if epochs["best validation loss"].isna().all():
        epochs = epochs.drop(columns="best validation loss")
        note += " No validation part, so no best validation loss."
    return ["### Median epochs over runs\n", markdown(epochs.replace({"model": NAMES})), note + "\n"]


def _published(row: pd.Series) -> list[str]:
    """The published means of the same target: a table of their own, for their protocol is not that of the runs."""
    known = reference()
    means = known[known["session"].isna() & (known["target"] == row["target"])]
    table = means[["decoder", "r2_x", "sd_x", "r2_y", "sd_y", "source", "protocol"]]
    table = table.rename(columns={"r2_x": "R² x", "sd_x": "SD x", "r2_y": "R² y", "sd_y": "SD y"})
    text = [f"### Published: R² of {row['target']} over the 47 recorded sessions\n"]
    text.append("Of other protocols, as marked, so in a table apart from the runs.\n")
    text.append(markdown(table))
    study = known[known["best_epoch"].notna() & (known["target"] == row["target"])]
    if len(study):
        median = study.groupby("decoder")["best_epoch"].median()
        told = ", ".join(f"{decoder} {epoch:g}" for decoder, epoch in median.items())
        text.append(f"Best epoch, median of the 47 sessions: {told} (Wu 2021; {study['protocol'].iloc[0]}).\n")
    return text


def _side_by_side(sessions: pd.DataFrame, first: pd.Series) -> str:
    """A row for each session: R2 of every model and, for velocity, what is published of that very session."""
    wide = sessions.pivot(index=["session", "test_bins"], columns="model", values=["r2_x", "r2_y"])
    models = sorted(set(sessions["model"]))
    wide = wide[[(score, model) for model in models for score in ("r2_x", "r2_y")]]
    wide.columns = [f"{NAMES.get(model, model)} R² {NAMES[score]}" for score, model in wide.columns]
    wide = wide.reset_index("test_bins").rename(columns={"test_bins": "test bins"})
    known = reference()
    known = known[known["session"].isin(wide.index) & (known["target"] == first["target"])].set_index("session")
    refh, study = known[known["decoder"] == "rEFH"], known[known["source"] == "Wu 2021"]
    if len(known):
        for axis in "xy":
            wide[f"rEFH R² {axis} (Makin 2018: 64 ms)"] = refh[f"r2_{axis}"]
        for name in ("GRU", "LN-GRU"):
            epochs = study[study["decoder"] == name]["best_epoch"]
            wide[f"{name} best epoch (Wu 2021: 64 ms, by TEST R²)"] = epochs
    return markdown(wide, index=True)
