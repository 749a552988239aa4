"""A random search over settings, which never looks at the test part of a single split.

A trial is scored by the validation part or, with a chained split, by the mean over the cuts'
blocks: cross-validation inside the recording that is given. Keep the data of the final score, such
as the end of the recording, out of that file. Trial n depends only on the seed and n, so that a
search resumes and can be made longer.
"""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bci_decode.errors import BciDecodeError
from bci_decode.files import written_whole
from bci_decode.runs.chained import chained_table, cut_configs
from bci_decode.runs.compose import CONF, compose_config
from bci_decode.runs.messages import error_line

log = logging.getLogger(__name__)
KINDS = ("uniform", "log")


def search(
    name: str | Path,
    trials: int,
    output: str | Path,
    words: Sequence[str] = (),
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Train `trials` draws of a space and keep `trials.csv` in `output`; returns its rows.

    `name` is a yaml file, or one of `conf/search/`; `words` are added to those of the file. A trial
    that fails has no score and its reason. Finished trials are not repeated.
    """
    space, fixed = read_space(name)
    output = Path(output)
    rows: list[dict[str, Any]] = []
    earlier = _earlier(output / "trials.csv")
    for number in range(trials):
        values = draw(space, seed, number)
        text = {key: str(value) for key, value in values.items()}
        known = earlier.get(number)
        if known is not None and any(known.get(key) != text[key] for key in text):
            raise BciDecodeError(
                f"trial {number} has other settings than this search",
                file=output / "trials.csv",
                remedy="choose another --output for another space or seed",
            )
        if known is not None and known["score"]:
            rows.append({"trial": number, "score": float(known["score"]), "failure": ""} | text)
            continue
        setting = [f"{key}={value}" for key, value in values.items()]
        given = [*fixed, *words, *setting, f"output_dir='{output / f'trial{number}'}'"]
        score, reason = _trial(given)
        rows.append({"trial": number, "score": score, "failure": reason} | text)
        log.info("trial %d: %s, %s", number, reason or f"score {score:.4f}", " ".join(setting))
        _write(output / "trials.csv", rows)
    return rows


def read_space(name: str | Path) -> tuple[dict[str, Any], list[str]]:
    """The space and the words of a search file; anything else in it is refused."""
    path = Path(name) if str(name).endswith(".yaml") else CONF / "search" / f"{name}.yaml"
    known = ", ".join(sorted(file.stem for file in (CONF / "search").glob("*.yaml")))
    if not path.is_file():
        raise BciDecodeError("no such search", file=path, remedy=f"choose {known}, or a yaml file")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise BciDecodeError("is no yaml", file=path, remedy="correct it") from error
    if not isinstance(content, dict) or not isinstance(content.get("space"), dict):
        raise BciDecodeError("has no space", file=path, remedy="see conf/search/gru.yaml")
    for key, choice in content["space"].items():
        _check_choice(path, key, choice)
    return content["space"], [str(word) for word in content.get("words") or []]


def _check_choice(path: Path, key: str, choice: Any) -> None:
    if isinstance(choice, list) and choice:
        return
    kind: str = ""
    ends: Any = None
    if isinstance(choice, dict) and len(choice) == 1:
        ((kind, ends),) = choice.items()
    numbers = isinstance(ends, list) and all(isinstance(end, (int, float)) for end in ends)
    ordered = numbers and len(ends) == 2 and ends[0] < ends[1]
    if kind in KINDS and ordered and (kind == "uniform" or ends[0] > 0):
        return
    raise BciDecodeError(
        f"is {choice!r}",
        file=path,
        field=f"space.{key}",
        remedy="give a list, {uniform: [low, high]} or {log: [low, high]} with low above 0",
    )


def draw(space: dict[str, Any], seed: int, number: int) -> dict[str, Any]:
    """The settings of a trial; numbers are rounded to four digits, which a table can show."""
    rng = np.random.default_rng([seed, number])
    return {key: _drawn(choice, rng) for key, choice in space.items()}


def _drawn(choice: Any, rng: np.random.Generator) -> Any:
    if isinstance(choice, list):
        return choice[int(rng.integers(len(choice)))]
    ((kind, (low, high)),) = choice.items()
    if kind == "log":
        return float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.4g}")
    return float(f"{rng.uniform(low, high):.4g}")


def _trial(words: list[str]) -> tuple[float, str]:
    """Score of a trial, and why it has none."""
    from bci_decode.runs.run import run

    config = compose_config(*words)
    check_scorable(config)
    try:
        run(config, words=words, progress=False)
        return validation_score(config), ""
    except (BciDecodeError, OmegaConfBaseException) as mistake:
        return math.nan, error_line(mistake)


def check_scorable(config: DictConfig) -> None:
    """Refuse settings whose only score is that of the test part."""
    split = config.data.split
    if split.cuts is not None and split.cut is None:
        return
    if split.cuts is not None or config.trainer.select_on == "test" or not split.val:
        raise BciDecodeError(
            "leaves a search only the test part to score by",
            field="data.split",
            remedy="add data.split=chained without a cut, or data.split.val=0.1 and "
            "trainer.select_on=val",
        )


def validation_score(config: DictConfig) -> float:
    """R2 that settings may be chosen by, of the finished run of a configuration.

    It is that of the validation part at the selected epoch or, with a chained split, the mean over
    the cuts' blocks.
    """
    folders = list(cut_configs(config))
    if config.data.split.cuts is not None:
        return float(chained_table(folders)[-2]["r2"])
    import json

    best = json.loads((folders[0] / "metrics.json").read_text())["best_epoch"]
    with (folders[0] / "history.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if int(row["epoch"]) == best)
    return float(row["val_r2"])


def _earlier(path: Path) -> dict[int, dict[str, str]]:
    if not path.exists():
        return {}
    with path.open() as file:
        return {int(row["trial"]): row for row in csv.DictReader(file)}


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            score = "" if math.isnan(row["score"]) else row["score"]
            writer.writerow(row | {"score": score})


def best_line(rows: Sequence[dict[str, Any]]) -> str:
    """The trial with the highest score, in words of the command line."""
    scored = [row for row in rows if not math.isnan(row["score"])]
    if not scored:
        return "no trial has a score; trials.csv says why"
    best = max(scored, key=lambda row: row["score"])
    words = [f"{key}={value}" for key, value in best.items() if key not in TRIAL]
    return (
        f"best of {len(scored)}: trial {best['trial']}, R2 {best['score']:.4f}: {' '.join(words)}"
    )


TRIAL = ("trial", "score", "failure")
