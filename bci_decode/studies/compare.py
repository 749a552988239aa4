"""Compare runs with each other and with what is published: all files of `bci-decode compare`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bci_decode.comparison.figures import draw_losses, draw_scatter
from bci_decode.comparison.finished_runs import read_runs
from bci_decode.comparison.groups import group_runs
from bci_decode.comparison.pairs import chosen_baseline
from bci_decode.comparison.summary import summary
from bci_decode.comparison.tables import sessions_csv
from bci_decode.errors import BciDecodeError
from bci_decode.files import made_folder, written_whole
from bci_decode.studies.peers import published
from bci_decode.studies.published import means_text, source_study_groups
from bci_decode.studies.source_study import ablation_table, ablation_text
from bci_decode.style import FORMATS


def compare_runs(
    folders: Sequence[Path],
    output: Path | None = None,
    baseline: str | None = None,
    by: str | None = None,
    figures: str = "png",
) -> str:
    """Write figures and tables of all runs below the folders; returns the summary.

    `output` is by default the folder, or the one that all folders are in. `baseline` is the model
    that others are compared with, `by` the first key of the table of R2 by setting, `figures` one
    or several formats, as "png,pdf".
    """
    formats = figures.split(",")
    if unknown := set(formats) - set(FORMATS):
        remedy = f"choose among {', '.join(FORMATS)}"
        raise BciDecodeError(f"is {', '.join(unknown)}", field="--figures", remedy=remedy)
    runs, incomplete = read_runs(*folders)
    groups = group_runs(runs)
    baseline = chosen_baseline(groups, baseline)
    tables = {"sessions.csv": sessions_csv(groups)}
    appendix = [means_text(target) for target in dict.fromkeys(group.target for group in groups)]
    if source_study_groups(groups):
        ablation = ablation_table(groups)
        tables["ablation.csv"] = ablation.to_csv(index=False)
        appendix.append(ablation_text(ablation))
    known = [published(group) for group in groups]
    text = summary(groups, incomplete, baseline, by, known, "\n".join(appendix))
    tables["summary.md"] = text
    output = made_folder(output or _common_folder(folders), "choose another --output")
    drawn = []
    for kind in formats:
        draw_losses(groups, output / f"comparison.{kind}")
        draw_scatter(groups, output / f"r2_scatter.{kind}", baseline)
        drawn += [f"comparison.{kind}", f"r2_scatter.{kind}"]
    for name, content in tables.items():
        with written_whole(output / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    *first, last = [*drawn, *tables]
    return f"{text}\nwrote {', '.join(first)} and {last} to {output}"


def _common_folder(folders: Sequence[Path]) -> Path:
    if len(folders) == 1:
        return folders[0]
    return Path(os.path.commonpath([folder.resolve() for folder in folders]))
