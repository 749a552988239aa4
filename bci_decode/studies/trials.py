"""Recipes tried by cross-validation: every trial of a list, with all its scores in one CSV file.

A trial is a name and the words that it adds to `experiment=best`. Each is trained with several
seeds on every cut of a chained split, and scored on the block that follows the cut. The file is
written after every training, so that the same command continues an interrupted list.
"""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import yaml
from tqdm import tqdm

from bci_decode.comparison.tables import markdown
from bci_decode.errors import BciDecodeError
from bci_decode.evaluation import metrics
from bci_decode.evaluation.decoding import decode_parts
from bci_decode.runs.build import build_decoder, instantiate, load_data
from bci_decode.runs.compose import compose_config, typed_config
from bci_decode.studies.training import session_name, session_words
from bci_decode.training.trainer import Trainer

BASE = "best"  # the trial that the others are compared with
COLUMNS = ("session", "trial", "seed", "cut", "r2", "r2_x", "r2_y", "seconds", "words")


@dataclass(frozen=True)
class Trial:
    """One training of the list."""

    name: str
    words: tuple[str, ...]
    seed: int
    cut: int


def read_trials(path: Path, seeds: int, cuts: int) -> list[Trial]:
    """All trainings of a yaml file of {name: words}, the first seed of every trial first."""
    if seeds < 1:
        raise BciDecodeError(f"is {seeds}", field="--seeds", remedy="choose 1 or more")
    try:
        # a pipe would be waited for
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        content = yaml.safe_load(text)
        lists = {str(name): tuple(str(words or "").split()) for name, words in content.items()}
    except (OSError, AttributeError, ValueError, yaml.YAMLError) as error:
        remedy = "give a yaml file of lines NAME: words of the command line"
        raise BciDecodeError("is no list of trials", file=path, remedy=remedy) from error
    return [
        Trial(name, words, seed, cut)
        for seed in range(seeds)
        for name, words in lists.items()
        for cut in range(cuts)
    ]


def run_trials(trials: Sequence[Trial], session: Path | None, table: Path) -> pd.DataFrame:
    """Train what `table` lacks, and return what it then has of these trials and the session."""
    name = session_name(session)
    done = _read(table, name)
    known = set(zip(done["trial"], done["seed"], done["cut"], done["words"], strict=True))
    left = [t for t in trials if (t.name, t.seed, t.cut, " ".join(t.words)) not in known]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for trial in tqdm(left, unit="training", disable=None):
            _append(table, {"session": name} | _train(trial, session))
    finally:
        torch.set_num_threads(threads)
    rows = _read(table, name)
    listed = {(trial.name, " ".join(trial.words)) for trial in trials}
    named = pd.Series(list(zip(rows["trial"], rows["words"], strict=True)), index=rows.index)
    return rows[named.isin(listed)]


def _train(trial: Trial, session: Path | None) -> dict[str, object]:
    """Train one decoder and score the block after its cut."""
    cut = ["data/split=chained", f"data.split.cut={trial.cut}", f"seed={trial.seed}"]
    config = compose_config(f"experiment={BASE}", *session_words(session), *cut, *trial.words)
    typed = typed_config(config)
    data = load_data(config)
    decoder = build_decoder(config, data)
    optimizer, scheduler = (instantiate(config[key], key) for key in ("optimizer", "scheduler"))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            decoder, data, Path(folder), typed.trainer, optimizer, scheduler, trial.seed,
            progress=False,
        )  # fmt: skip
        trainer.fit()
    seconds = time.perf_counter() - started
    r2 = metrics.r2(data.parts["test"].truth, decode_parts(trainer.scored, data)["test"])
    scores = {"r2": r2.mean(), "r2_x": r2[0], "r2_y": r2[1]}
    about = {"trial": trial.name, "seed": trial.seed, "cut": trial.cut}
    rounded = {key: round(float(value), 5) for key, value in scores.items()}
    return about | rounded | {"seconds": round(seconds, 1), "words": " ".join(trial.words)}


def _read(table: Path, session: str) -> pd.DataFrame:
    """The rows of `table` that belong to a session."""
    if not table.exists():
        return pd.DataFrame(columns=list(COLUMNS))
    try:
        rows = pd.read_csv(table, keep_default_na=False)
    except (OSError, ValueError) as error:  # all that pandas says of a file is one of the two
        raise _foreign(table) from error
    if list(rows) != list(COLUMNS):
        raise _foreign(table)
    return rows[rows["session"] == session]


def _foreign(table: Path) -> BciDecodeError:
    remedy = "choose another --table; it is kept as it is"
    return BciDecodeError("is no table of trials", file=table, remedy=remedy)


def _append(table: Path, row: dict[str, object]) -> None:
    new = not table.exists()
    with table.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(row)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean R2 over seeds and its SE, and the difference to `BASE`, paired by seed, with its SE.

    A seed's score is the mean over its cuts; seeds that lack a cut are left out.
    """
    rows = rows[
        rows.groupby(["trial", "seed"])["cut"].transform("nunique") == rows["cut"].nunique()
    ]
    by_seed = rows.groupby(["trial", "seed"])["r2"].mean().unstack(0)
    return pd.DataFrame(list(_lines(rows, by_seed))).sort_values("R²", ascending=False)


def _lines(rows: pd.DataFrame, by_seed: pd.DataFrame) -> Iterator[dict[str, object]]:
    for name in by_seed:
        scores = by_seed[name].dropna()
        gains = (scores - by_seed[BASE]).dropna() if BASE in by_seed else scores[:0]
        own = rows[rows["trial"] == name]
        yield {
            "trial": name,
            "seeds": len(scores),
            "R²": scores.mean(),
            "SE": scores.sem(),
            f"gain over {BASE}": gains.mean() if name != BASE else float("nan"),
            "SE of the gain": gains.sem() if name != BASE else float("nan"),
            "s a training": own["seconds"].median(),
            "words": own["words"].iloc[0],
        }


def text(rows: pd.DataFrame) -> str:
    """The summary as Markdown."""
    return markdown(summary(rows))
