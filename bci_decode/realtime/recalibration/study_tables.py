"""Tables and figure of the study of recalibration, from a row for each decoder and pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bci_decode.style import save_figure

SECONDS = (30, 60, 120)
BEFORE, AFTER, SCRATCH, WIENER, WHOLE = (
    "before",
    "recalibrated",
    "from scratch",
    "Wiener filter from scratch",
    "whole session",
)
LOOKS: dict[str, dict[str, Any]] = {
    AFTER: {"color": "#1a3a9c", "linestyle": "-", "marker": "o"},
    SCRATCH: {"color": "#b5460f", "linestyle": "--", "marker": "s"},
    WIENER: {"color": "#8a8a8a", "linestyle": "-.", "marker": "^"},
    BEFORE: {"color": "0.4", "linestyle": ":"},
    WHOLE: {"color": "black", "linestyle": (0, (5, 1, 1, 1))},
}


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean R2 and its standard error by recording, decoder and seconds.

    Over the pairs, each the mean of its seeds; with one pair, over its seeds.
    """
    keys = ["recording", "decoder", "seconds"]
    rows = []
    for key, group in table.groupby(keys, sort=False):
        values = group.groupby("pair")["r2"].mean()
        values = values if len(values) > 1 else group["r2"]
        rows.append((*key, values.mean(), standard_error(values), len(values)))
    return pd.DataFrame(rows, columns=[*keys, "R2", "SE", "n"])


def shown(found: pd.DataFrame) -> pd.DataFrame:
    """The summary as the document has it: a row for each decoder, a column for each recording."""
    cells = found.assign(
        cell=[
            f"{row.R2:.3f}" + f" ± {row.SE:.3f}" * bool(row.SE > 0) for row in found.itertuples()
        ],
        seconds=[
            "" if decoder in (BEFORE, WHOLE) else f"{seconds:g}"
            for decoder, seconds in zip(found["decoder"], found["seconds"], strict=True)
        ],
    )
    rows = cells.set_index(["decoder", "seconds", "recording"])["cell"].unstack(sort=False)
    return rows.reset_index().rename_axis(columns=None)


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """R2 of recalibration minus that of the others of the same seconds: see `summary` for SE."""
    rows = []
    few = table[table["seconds"].isin(SECONDS)]
    for key, group in few.groupby(["recording", "seconds"], sort=False):
        wide = group.pivot_table(index=["pair", "seed"], columns="decoder", values="r2")
        for other in (SCRATCH, WIENER):
            gain = wide[AFTER] - wide[other]
            values = gain.groupby("pair").mean()
            values = values if len(values) > 1 else gain
            wins = f"{int((values > 0).sum())} of {len(values)}"
            rows.append((*key, other, values.mean(), standard_error(values), wins))
    columns = ["recording", "seconds", "compared with", "gain in R2", "SE", "better in"]
    return pd.DataFrame(rows, columns=columns)


def standard_error(values: pd.Series) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan


def draw(found: pd.DataFrame, path: Path) -> None:
    """R2 against seconds, a panel for each recording; without seconds, a horizontal line."""
    import matplotlib.pyplot as plt

    kinds = list(found["recording"].unique())
    figure = plt.figure(figsize=(4.6 * len(kinds), 4), layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)
    for axes, kind in zip(panels[0], kinds, strict=True):
        own = found[found["recording"] == kind]
        for decoder, look in LOOKS.items():
            rows = own[own["decoder"] == decoder]
            if decoder in (BEFORE, WHOLE):
                axes.axhline(rows["R2"].iloc[0], label=decoder, **look)
            else:
                style = look | {"capsize": 3, "label": decoder}
                axes.errorbar(rows["seconds"], rows["R2"], rows["SE"], **style)
        axes.set_title(kind)
        axes.set_xticks(SECONDS)
    figure.supxlabel("seconds of the new day that are learned from", fontsize="medium")
    panels[0, 0].set_ylabel("R² of the end of the new day")
    panels[0, -1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(figure, path)
