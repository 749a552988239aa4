"""A random search over settings, which never looks at the test part of a single split.

A trial is scored by the validation part or, with a chained split, by the mean over the cuts'
blocks: cross-validation inside the recording that is given. Keep the data of the final score, such
as the end of the recording, out of that file. Trial n depends only on the seed and n, so that a
search resumes and can be made longer.
"""

from __future__ import annotations

import contextlib
import csv
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bci_decode.errors import BciDecodeError
from bci_decode.files import expand_user, written_whole
from bci_decode.runs.chained import chained_table, cut_configs
from bci_decode.runs.compose import compose_config, typed_config
from bci_decode.runs.messages import error_line
from bci_decode.runs.reading import read_history, read_report
from bci_decode.runs.search_space import draw, hydra_value, read_space

log = logging.getLogger(__name__)
FOLDER = Path("outputs/search")
Rows = dict[int, dict[str, Any]]  # of trials.csv, by the number of the trial


def search(
    name: str | Path,
    trials: int,
    output: str | Path | None = None,
    words: Sequence[str] = (),
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Train `trials` draws of a space and keep `trials.csv` in `output`; returns its rows.

    `name` is a yaml file, or one of `conf/search/`; `words` are added to those of the file. A trial
    that fails has no score and its reason. Finished trials are not repeated. `search.yaml` keeps
    space, words and seed, and a search with others is refused. So is a mistake that all trials
    share, before any of them trains.
    """
    space, fixed = read_space(name)
    output = FOLDER / Path(name).stem if output is None else expand_user(output)
    words = [*fixed, *words]
    _check_words(space, words)
    drawn = [_texts(draw(space, seed, number)) for number in range(trials)]
    try:
        _check_some_trial([*words, *_settings(texts)] for texts in drawn)
    except BciDecodeError as mistake:
        key = str(mistake).partition(":")[0]
        raise BciDecodeError(str(mistake), file=name if key in space else None) from mistake
    rows = _resumed(output, {"space": space, "words": words, "seed": seed})
    for number, texts in enumerate(drawn):
        if number in rows and not math.isnan(rows[number]["score"]):
            continue
        folder, setting = output / f"trial{number}", _settings(texts)
        score, reason = _trial([*words, *setting, f"output_dir='{folder}'"])
        if reason:
            _remove_empty(folder)
        rows[number] = {"trial": number, "score": score, "failure": reason} | texts
        log.info("trial %d: %s, %s", number, reason or f"score {score:.4f}", " ".join(setting))
        if not (output / "search.yaml").exists():
            remedy = "the same command begins again"
            raise BciDecodeError("was removed while the search ran", file=output, remedy=remedy)
        _write(output / "trials.csv", [rows[one] for one in sorted(rows)])
    return [rows[number] for number in sorted(rows)]


def _texts(values: dict[str, Any]) -> dict[str, str]:
    return {key: hydra_value(value) for key, value in values.items()}


def _settings(texts: dict[str, str]) -> list[str]:
    return [f"{key}={text}" for key, text in texts.items()]


def _check_words(space: dict[str, Any], words: Sequence[str]) -> None:
    """Refuse words whose key is drawn, since only one of the two can hold."""
    for word in words:
        key = word.partition("=")[0].lstrip("+~").replace("/", ".")
        if key in space:
            raise BciDecodeError(
                "is drawn by the space", field=key, remedy=f"remove {word}, or {key} from the space"
            )


def _check_some_trial(trials: Iterable[list[str]]) -> None:
    """Raise the first trial's mistake if the words of every trial hold one."""
    first: Exception | None = None
    for words in trials:
        try:
            _checked(words)
            return
        except (BciDecodeError, OmegaConfBaseException) as mistake:
            first = first or mistake
    if first is not None:
        raise BciDecodeError(error_line(first)) from first


def _checked(words: Sequence[str]) -> DictConfig:
    """The configuration of a trial, with keys, ranges and what it is scored by checked."""
    config = compose_config(*words)
    check_scorable(config)
    typed_config(config)
    return config


def _resumed(output: Path, about: dict[str, Any]) -> Rows:
    """The rows of the same search before; one of another search is refused.

    Where that one left neither a score nor a folder, it is forgotten.
    """
    rows, path = _earlier(output / "trials.csv"), output / "search.yaml"
    text = {key: _yaml({key: value}) for key, value in about.items()}
    known = path.read_text(encoding="utf-8") if path.exists() else ""
    same = known == "".join(text.values())
    differs = [] if same else [key for key in text if text[key] not in known] or list(text)
    scored = any(not math.isnan(row["score"]) for row in rows.values())
    # a run that a folder of a trial holds is compared with its own settings
    if differs and (scored or (known and any(output.glob("trial[0-9]*")))):
        raise BciDecodeError(
            f"is of a search with other {' and '.join(differs)}",
            file=path,
            remedy="choose another --output",
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"cannot be made ({error.strerror})"
        raise BciDecodeError(problem, file=output, remedy="choose another --output") from error
    with written_whole(path) as temporary:
        temporary.write_text("".join(text.values()), encoding="utf-8")
    return {} if differs else rows


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False)  # the order of keys decides what is drawn


def _remove_empty(folder: Path) -> None:
    """Remove the folders of a trial that hold no file."""
    for path in sorted([folder, *folder.rglob("*")], reverse=True):
        if path.is_dir():
            with contextlib.suppress(OSError):
                path.rmdir()


def _trial(words: list[str]) -> tuple[float, str]:
    """Score of a trial, and why it has none."""
    from bci_decode.runs.run import run

    try:
        config = _checked(words)
        run(config, words=words, progress=False)
        return validation_score(config), ""
    except (BciDecodeError, OmegaConfBaseException) as mistake:
        return math.nan, error_line(mistake)


def check_scorable(config: DictConfig) -> None:
    """Refuse settings whose only score is that of the test part."""
    problem, split = "leaves a search only the test part to score by", config.data.split
    if config.trainer.select_on == "test":
        remedy = "choose trainer.select_on=val, and data.split=chained or data.split.val=0.1"
        raise BciDecodeError(problem, field="trainer.select_on", remedy=remedy)
    chained = split.cuts is not None
    if (chained and split.cut is not None) or not (chained or split.val):
        remedy = "add data.split=chained without a cut, or data.split.val=0.1"
        raise BciDecodeError(problem, field="data.split", remedy=remedy)


def validation_score(config: DictConfig) -> float:
    """R2 that settings may be chosen by, of the finished run of a configuration.

    It is that of the validation part at the selected epoch or, with a chained split, the mean over
    the cuts' blocks.
    """
    folders = list(cut_configs(config))
    if config.data.split.cuts is not None:
        return float(chained_table(folders)[-2]["r2"])
    history = read_history(folders[0]).set_index("epoch")
    return float(history.loc[read_report(folders[0])["best_epoch"], "val_r2"])


def _earlier(path: Path) -> Rows:
    if not path.exists():
        return {}
    with path.open(encoding="utf-8") as file:
        return {
            int(row["trial"]): row
            | {"trial": int(row["trial"]), "score": float(row["score"] or "nan")}
            for row in csv.DictReader(file)
        }


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with (
        written_whole(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            score = "" if math.isnan(row["score"]) else row["score"]
            writer.writerow(row | {"score": score})


def best_line(rows: Sequence[dict[str, Any]]) -> str:
    """The trial with the highest score, in words of the command line; refused if none has one."""
    scored = [row for row in rows if not math.isnan(row["score"])]
    if not scored:
        reasons = [row["failure"] for row in rows]
        raise BciDecodeError("no trial has a score", remedy=f"trial 0: {reasons[0]}")
    best = max(scored, key=lambda row: row["score"])
    words = [f"{key}={value}" for key, value in best.items() if key not in TRIAL]
    return (
        f"best of {len(scored)}: trial {best['trial']}, R2 {best['score']:.4f}: {' '.join(words)}"
    )


TRIAL = ("trial", "score", "failure")
