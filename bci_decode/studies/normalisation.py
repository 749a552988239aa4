"""Which normalization of a GRU, and where: tables and a figure over the runs of two recipes.

The runs are those of `experiment=normalisation` (the modern recipe) and
`experiment=normalisation_source` (the source study's). A form is a norm at a place.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bci_decode.comparison.finished_runs import Run, first_epoch_below, read_runs
from bci_decode.config import flatten
from bci_decode.errors import BciDecodeError
from bci_decode.files import made_folder
from bci_decode.runs.compose import resolved_config
from bci_decode.runs.folder import working_folder
from bci_decode.runs.reading import read_settings
from bci_decode.studies.tables import append_table, save_table
from bci_decode.style import OTHER_COLORS, save_figure

MODERN, SOURCE = "normalisation", "normalisation_source"
NORM, PLACE = "model.recurrent.norm", "model.recurrent.place"
STRESS = ("optimizer.lr", "trainer.batch_size", "trainer.epochs")
DIVERGED = "loss became"  # of the line that a run ends with
DIVERGED_LOSS = 1.1  # of the target's variance, on which an untrained decoder sits
PLAIN = ("none", "outputs")
OFF = 0.9  # of the plateau, the target's variance: below it a decoder has begun to learn
PLACE_MARKS = {
    "input": ">", "recurrent": "<", "apart": "o", "sum": "s", "sum2": "D", "state": "^",
    "outputs": "v",
}  # fmt: skip


def normalisation(folders: Iterable[Path], output: Path) -> str:
    """Write the tables and the figure of all runs below some folders; returns the tables."""
    runs, incomplete = read_runs(*folders)
    table = run_table(runs, [folder for folder, reason in incomplete.failed if DIVERGED in reason])
    if table.empty or table["stressed"].all():
        raise BciDecodeError(
            f"no run of experiment={MODERN} or {SOURCE} with the recipe's own settings",
            file=", ".join(map(str, folders)),
            remedy=f"train with -m experiment={MODERN}",
        )
    made_folder(output)
    forms = form_table(table)
    forms.to_csv(output / "forms.csv", index=False)
    texts = [append_table(output, "forms", shown(forms))]
    stress = stress_table(table)
    if len(stress):
        texts.append(save_table(output, "stress", stress))
    if {"R² modern", "off the plateau"} <= set(forms):
        draw_forms(output / "forms.png", forms)
    return "\n".join(texts)


@cache
def recipe(experiment: str) -> dict[str, Any]:
    """The settings of an experiment as it is in `conf/`, {"optimizer.lr": 0.01}."""
    return flatten(resolved_config(f"experiment={experiment}"))


def run_table(runs: list[Run], diverged: list[Path]) -> pd.DataFrame:
    """A row for each run of the two recipes, and for each that ended as its loss was not finite.

    `stressed` are runs with other learning rates, batch sizes or epochs than the recipe's.
    """
    rows = [
        _about(run.metrics["experiment"], run.metrics["session"], run.metrics["seed"], run.settings)
        | {
            "cut": run.settings.get("data.split.cut"),
            "r2": run.metrics["scores"]["test"]["r2"],
            "off": _first_below(run, OFF),
            "half": _first_below(run, 0.5),
            "seconds": float(run.history["seconds"].iloc[1:].median()),
            "diverged": not run.history["train_loss"].iloc[-1]
            < DIVERGED_LOSS * run.metrics["target_variance"]["train"],
        }
        for run in runs
        if run.metrics["experiment"] in (MODERN, SOURCE)
    ]
    for folder in diverged:
        settings = read_settings(working_folder(folder))
        experiment = settings["names.experiment"]
        if experiment in (MODERN, SOURCE):
            about = _about(experiment, settings["session.name"], settings["seed"], {})
            rows.append(about | _about_settings(experiment, settings) | {"diverged": True})
    return pd.DataFrame(rows)


def _first_below(run: Run, share: float) -> float:
    """The first epoch whose test loss is below a share of the plateau; infinite if none is."""
    epoch = first_epoch_below(run.history, share * run.plateau)
    return np.inf if epoch is None else float(epoch)


def _about(experiment: str, session: str, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    about = {"experiment": experiment, "session": session, "seed": seed}
    return about | (_about_settings(experiment, settings) if settings else {})


def _about_settings(experiment: str, settings: dict[str, Any]) -> dict[str, Any]:
    own = recipe(experiment)
    changed = {key: settings[key] for key in STRESS if settings[key] != own[key]}
    return {
        "norm": settings[NORM],
        "place": settings[PLACE],
        "stressed": bool(changed),
        "lr": round(settings["optimizer.lr"] / own["optimizer.lr"], 3),
        "batch": settings["trainer.batch_size"],
        "epochs": settings["trainer.epochs"],
    }


def form_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each form: R2 and its SE over seeds by recipe, the difference to no norm, the fall.

    A seed's score is the mean over its cuts, and seeds that diverged are in no mean. The difference
    is paired by seed. "Off the plateau" and "half the plateau" are the first epochs with a test
    loss below .9 and .5 of it, medians over the seeds of the source study's recipe, infinite where
    half of them never are below. Sessions have rows of their own.
    """
    table = table[~table["stressed"]]
    parts = [_forms(session, part) for session, part in table.groupby("session", sort=False)]
    return pd.concat(parts, ignore_index=True)


def _forms(session: str, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of one session."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for experiment, label in ((MODERN, "modern"), (SOURCE, "source")):
        of_recipe = table[table["experiment"] == experiment]
        if of_recipe.empty:
            continue
        plain = _by_seed(of_recipe, PLAIN)
        for form, runs in of_recipe.groupby(["norm", "place"], sort=False):
            seeds = _by_seed(of_recipe, form)
            gains = (seeds - plain).dropna()
            about = {"session": session, "norm": form[0], "place": form[1]}
            row = rows.setdefault(form, about)
            row |= {
                f"seeds {label}": seeds.count(),
                f"diverged {label}": int(runs["diverged"].sum()),
                f"R² {label}": seeds.mean(),
                f"SE {label}": seeds.sem(),
                f"gain {label}": gains.mean() if form != PLAIN else np.nan,
                f"SE of gain {label}": gains.sem() if form != PLAIN else np.nan,
                f"s per epoch {label}": runs["seconds"].median(),
            }
            if experiment == SOURCE:
                row["off the plateau"] = runs["off"].median()
                row["half the plateau"] = runs["half"].median()
                row["last epoch"] = int(runs["epochs"].max())
    return pd.DataFrame(list(rows.values()))


def shown(forms: pd.DataFrame) -> pd.DataFrame:
    """The same for readers: fewer columns, and each mean with its SE in one."""
    table = forms[["norm", "place"]].copy()
    if forms["session"].nunique() > 1:
        table.insert(0, "session", forms["session"])
    for label in ("modern", "source"):
        if f"R² {label}" not in forms:
            continue
        table[f"seeds {label}"] = forms[f"seeds {label}"].fillna(0).astype(int)
        table[f"R² {label} ± SE"] = _with_error(forms, f"R² {label}", f"SE {label}")
        if label == "modern":
            table["gain ± SE"] = _with_error(forms, "gain modern", "SE of gain modern")
        table[f"s per epoch {label}"] = forms[f"s per epoch {label}"]
        if forms[f"diverged {label}"].any():
            table[f"diverged {label}"] = forms[f"diverged {label}"]
    epochs = [name for name in ("off the plateau", "half the plateau") if name in forms]
    return table.join(forms[epochs])


def _with_error(forms: pd.DataFrame, mean: str, error: str) -> list[str]:
    pairs = forms[[mean, error]].itertuples(index=False)
    return [
        "" if np.isnan(value) else f"{value:.3f}" + ("" if np.isnan(se) else f" ± {se:.3f}")
        for value, se in pairs
    ]


def _by_seed(table: pd.DataFrame, form: tuple[str, str]) -> pd.Series:
    chosen = table[(table["norm"] == form[0]) & (table["place"] == form[1])]
    return chosen.groupby("seed")["r2"].mean()


def stress_table(table: pd.DataFrame) -> pd.DataFrame:
    """The share of runs that diverge, and R2 of the others, by recipe, learning rate and batch.

    A run diverges if its loss is no number or if it ends above the target's variance.
    """
    stressed = table[table["stressed"]]
    if stressed.empty:
        return stressed
    keys = ["session", "experiment", "norm", "place", "lr", "batch", "epochs"]
    by = stressed.groupby(keys, sort=False)
    shares = by.agg(runs=("seed", "size"), diverged=("diverged", "mean"))
    shares["R² of the others"] = stressed[~stressed["diverged"]].groupby(keys)["r2"].mean()
    table = shares.reset_index()
    return table if table["session"].nunique() > 1 else table.drop(columns="session")


def draw_forms(path: Path, forms: pd.DataFrame) -> None:
    """R2 under the modern recipe against the early fall under the source study's."""
    shown = forms.dropna(subset=["R² modern", "off the plateau"])
    shown = shown[shown["session"] == shown["session"].iloc[0]]
    never = shown["last epoch"].max() + 1.0
    figure = Figure(figsize=(8.5, 5.2), layout="constrained")
    axes: Axes = figure.subplots()
    first = ("none", "layer")  # in the darkest colors
    norms = [*first, *(norm for norm in dict.fromkeys(shown["norm"]) if norm not in first)]
    colors = dict(zip(norms, ("black", "#1a3a9c", *OTHER_COLORS), strict=False))
    for row in shown.to_dict("records"):
        x = min(row["off the plateau"], never)
        look = {"color": colors[row["norm"]], "marker": PLACE_MARKS[row["place"]]}
        axes.errorbar(x, row["R² modern"], row["SE modern"], capsize=2, linewidth=0.8, **look)
    for norm in (norm for norm in norms if norm in set(shown["norm"])):
        axes.plot([], [], "o", color=colors[norm], label=norm.replace("_", " "))
    for place in dict.fromkeys(shown["place"]):
        look = {"color": "black", "markerfacecolor": "white"}
        axes.plot([], [], PLACE_MARKS[place], label=f"at {place}", **look)
    axes.axvline(never - 0.5, color="0.8", linewidth=0.8)
    ticks = [tick for tick in range(0, int(never), 2)]
    axes.set_xticks([*ticks, never], [*map(str, ticks), "later"])
    axes.set(
        xlabel="first epoch off the plateau, the source study's recipe (median over seeds)",
        ylabel="R², the modern recipe (mean ± SE over seeds)",
        title=f"{shown['session'].iloc[0]}; up: decodes better, left: falls early",
    )
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    save_figure(figure, path)
