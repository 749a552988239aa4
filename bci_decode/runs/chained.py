"""A chained split: a run for each cut, and one table of their scores.

Forward-chained cross-validation trains on all bins before a block and scores that block, for
`data.split.cuts` blocks at the session's end: see `data.split.chained_block`.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bci_decode.config import SplitConfig
from bci_decode.files import written_whole
from bci_decode.runs.folder import run_folder
from bci_decode.runs.reading import read_report

log = logging.getLogger(__name__)
TABLE = ("chained.csv", "chained.json")


def cut_configs(config: DictConfig, folder: Path | None = None) -> dict[Path, DictConfig]:
    """The run folders of a configuration, each with its configuration.

    There is one, or one for each cut of a chained split without `data.split.cut`. `folder` replaces
    the folder that the configuration names. Raises `BciDecodeError` where the split has a value out
    of range, which may name no cut at all.
    """
    split = OmegaConf.to_object(
        OmegaConf.merge(OmegaConf.structured(SplitConfig), config.data.split)
    )
    assert isinstance(split, SplitConfig)
    whole = folder or run_folder(config)
    if split.cuts is None or split.cut is not None:
        return {whole: config}
    configs = {}
    for cut in range(split.cuts):
        one = config.copy()
        one.data.split.cut = cut
        configs[whole / f"cut{cut}"] = one
    return configs


def run_cuts(
    config: DictConfig,
    run_one: Callable[[DictConfig, Path], bool],
    folder: Path | None = None,
) -> Path:
    """Call `run_one(config, folder)` for every run of a configuration, one after another.

    It returns whether the run is finished. Returns the folder of the run. With several cuts it is
    the one that holds their folders; the table of their scores is then printed, and written there
    as `chained.csv` and `chained.json`, if all of them are finished.
    """
    configs = cut_configs(config, folder)
    finished = [run_one(cut_config, one) for one, cut_config in configs.items()]
    if config.data.split.cuts is None or config.data.split.cut is not None:
        return next(iter(configs))
    whole = next(iter(configs)).parent
    if all(finished):  # in a sweep some may have failed
        rows = chained_table(list(configs))
        _write(whole, rows)
        log.info("%s", table_text(whole, rows))
    return whole


def chained_table(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """A row for each finished cut, then mean and SE over the cuts.

    The SE is the sample SD over the root of the number of cuts, empty with one. The cuts share
    training bins, so it understates the uncertainty about another recording.
    """
    rows = [_row(folder) for folder in folders]
    scores = [name for name in rows[0] if name.startswith("r2")]
    columns = {name: [float(row[name]) for row in rows] for name in scores}
    mean = {name: sum(values) / len(values) for name, values in columns.items()}
    error = {name: _standard_error(values) for name, values in columns.items()}
    return [*rows, {"cut": "mean"} | mean, {"cut": "SE"} | error]


def _row(folder: Path) -> dict[str, Any]:
    report = read_report(folder)
    bins = report["protocol"]["split_bins"]
    scores = {
        name: math.nan if value is None else value
        for name, value in report["scores"]["test"].items()
        if name == "r2" or name.startswith("r2_")
    }
    cut = int(folder.name.removeprefix("cut"))
    train, test = (bins[part][1] - bins[part][0] for part in ("train", "test"))
    about = {"cut": cut, "train_bins": train, "test_bins": test, "epoch": report["best_epoch"]}
    return about | scores


def _standard_error(values: list[float]) -> float:
    if len(values) < 2:
        return math.nan
    return statistics.stdev(values) / math.sqrt(len(values))


def table_text(folder: Path, rows: list[dict[str, Any]]) -> str:
    """The table as aligned lines, with the folder that it is of."""
    names = list(rows[0])
    lines = [f"{folder}: test R2 of {len(rows) - 2} cuts"]
    lines.append("".join(f"{name:>12}" for name in names))
    for row in rows:
        lines.append("".join(f"{_cell(row.get(name, '')):>12}" for name in names))
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4f}"
    return str(value)


def _write(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Both files of the table; a score that is no number is empty in one and null in the other."""
    known = [{name: _number(value) for name, value in row.items()} for row in rows]
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(known)
    *cuts, mean, error = known
    for summary in (mean, error):
        summary.pop("cut")
    content = json.dumps({"cuts": cuts, "mean": mean, "se": error}, indent=2)
    for name, text in zip(TABLE, (table.getvalue(), f"{content}\n"), strict=True):
        path = folder / name
        if not path.is_file() or path.read_bytes() != text.encode():  # else it may be read-only
            with written_whole(path) as temporary:
                temporary.write_text(text, newline="\n", encoding="utf-8")


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
