"""Tables and figure of the study of many days, from a row for each decoder and day."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from bci_decode.realtime.recalibration.study_tables import standard_error
from bci_decode.style import save_figure

MATCHED, READ_IN, ALL_WEIGHTS = (
    "calibrated: scaling alone",
    "calibrated: read-in",
    "calibrated: read-in, then all",
)
STAGE_NAMES = (MATCHED, READ_IN, ALL_WEIGHTS)
RECALIBRATED, SCRATCH, BEFORE = "recalibrated", "from scratch", "latest day's decoder"
RELABELED = ", relabeled"
JOINT, ALONE = "of all days", "of the day alone"
LOOKS: dict[str, dict[str, Any]] = {
    ALL_WEIGHTS: {"color": "#1a3a9c", "linestyle": "-", "marker": "o"},
    READ_IN: {"color": "#5b8fd9", "linestyle": "-", "marker": "D"},
    MATCHED: {"color": "#7a5aa6", "linestyle": ":", "marker": "v"},
    RECALIBRATED: {"color": "#2c7a4b", "linestyle": "-.", "marker": "^"},
    SCRATCH: {"color": "#b5460f", "linestyle": "--", "marker": "s"},
    BEFORE: {"color": "0.4", "linestyle": ":"},
}
Keys = list[str]


def _mean(table: pd.DataFrame, keys: Keys) -> pd.DataFrame:
    """Mean R2 and its standard error over the seeds, each the mean of its days."""
    rows = []
    for key, group in table.groupby(keys, sort=False):
        values = group.groupby("seed")["r2"].mean()
        rows.append((*key, values.mean(), standard_error(values), len(values)))
    return pd.DataFrame(rows, columns=[*keys, "R2", "SE", "n"])


def _cell(mean: float, error: float) -> str:
    return f"{mean:.3f}" + f" ± {error:.3f}" * bool(error > 0)


def _wide(found: pd.DataFrame, rows: Keys, column: str) -> pd.DataFrame:
    cells = found.assign(cell=[_cell(row.R2, row.SE) for row in found.itertuples()])
    wide = cells.set_index([*rows, column])["cell"].unstack(sort=False).fillna("")
    return wide.reset_index().rename_axis(columns=None)


def trained_table(table: pd.DataFrame) -> pd.DataFrame:
    """Each trained day's own test part: the decoder of all days beside that of the day alone."""
    own = table[table["decoder"].isin((JOINT, ALONE))]
    own = own[~own["recording"].str.endswith(RELABELED)]  # its trained days are the excerpt's
    days = _mean(own, ["recording", "day", "decoder"])
    means = _mean(own, ["recording", "decoder"]).assign(day="mean")
    return _wide(pd.concat([days, means]), ["recording", "day"], "decoder")


def curve(table: pd.DataFrame) -> pd.DataFrame:
    """R2 of the new days by recording, decoder and seconds: mean of the days, SE over seeds."""
    new = table[~table["decoder"].isin((JOINT, ALONE))]
    return _mean(new, ["recording", "decoder", "seconds"])


def days_table(found: pd.DataFrame) -> pd.DataFrame:
    """The curve as the document has it: a row for each decoder, a column for the seconds."""
    columns = found.assign(
        seconds=[f"{s:g} s" if s else "0 s" for s in found["seconds"]],
    ).sort_values("seconds", key=lambda column: column.str[:-2].astype(float), kind="stable")
    wide = _wide(columns, ["recording", "decoder"], "seconds")
    kinds, decoders = list(found["recording"].unique()), list(LOOKS)
    names = wide[["recording", "decoder"]].to_numpy().tolist()
    key = [(kinds.index(kind), decoders.index(decoder)) for kind, decoder in names]
    return wide.iloc[sorted(range(len(key)), key=key.__getitem__)].reset_index(drop=True)


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """R2 of the calibrated decoder minus that of others with the same seconds, seed by seed."""
    rows = []
    for key, group in table[table["seconds"] > 0].groupby(["recording", "seconds"], sort=False):
        wide = group.pivot_table(index=["seed", "day"], columns="decoder", values="r2")
        for other in (MATCHED, READ_IN, RECALIBRATED, SCRATCH):
            gain = wide[ALL_WEIGHTS] - wide[other]
            values = gain.groupby("seed").mean()
            wins = f"{int((gain > 0).sum())} of {len(gain)}"
            rows.append((*key, other, _cell(values.mean(), standard_error(values)), wins))
    return pd.DataFrame(
        rows, columns=["recording", "seconds", "compared with", "gain", "better in"]
    )


def draw(found: pd.DataFrame, path: Path) -> None:
    """R2 against the seconds of calibration, a panel for each recording."""
    import matplotlib.pyplot as plt

    kinds = list(found["recording"].unique())
    figure = plt.figure(figsize=(4.6 * len(kinds), 4), layout="constrained")
    panels = figure.subplots(1, len(kinds), squeeze=False)
    for axes, kind in zip(panels[0], kinds, strict=True):
        own = found[found["recording"] == kind]
        for decoder, look in LOOKS.items():
            rows = own[own["decoder"] == decoder]
            if decoder == BEFORE:
                axes.axhline(rows["R2"].iloc[0], label=decoder, **look)
            else:
                style = look | {"capsize": 3, "label": decoder}
                axes.errorbar(rows["seconds"], rows["R2"], rows["SE"].fillna(0.0), **style)
        axes.set_title(kind)
        ticks = sorted(own.loc[own["seconds"] > 0, "seconds"].unique())
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    figure.supxlabel("seconds of the new day that are learned from", fontsize="medium")
    panels[0, 0].set_ylabel("R² of the end of the new day")
    panels[0, -1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(figure, path)
