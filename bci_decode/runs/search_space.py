"""The space of a random search: a yaml file with choices for keys, and what is drawn from it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bci_decode.errors import BciDecodeError
from bci_decode.files import check_path
from bci_decode.runs.compose import CONF

KINDS = ("uniform", "log")
PARTS = ("space", "words")  # of the file
KEY = re.compile(r"\+{0,2}[A-Za-z_]\w*(\.\w+)*")
SCALARS = (str, int, float, bool, type(None))
MAX_DEPTH = 4  # of a choice: lists and groups of keys inside each other


def read_space(name: str | Path) -> tuple[dict[str, Any], list[str]]:
    """The space and the words of a search file; anything else in it is refused."""
    check_path(name)
    path = Path(name) if str(name).endswith(".yaml") else CONF / "search" / f"{name}.yaml"
    known = ", ".join(sorted(file.stem for file in (CONF / "search").glob("*.yaml")))
    check_path(path)
    if not path.is_file():
        raise BciDecodeError("no such search", file=path, remedy=f"choose {known}, or a yaml file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        raise BciDecodeError(problem, file=path, remedy="check its permissions") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BciDecodeError("is no yaml", file=path, remedy="correct it") from error
    if not isinstance(content, dict) or not isinstance(content.get("space"), dict):
        raise BciDecodeError("has no space", file=path, remedy="see conf/search/gru.yaml")
    for part in content:
        if part not in PARTS:
            remedy = f"remove it; a search has {' and '.join(PARTS)}"
            raise BciDecodeError("nothing reads this key", file=path, field=part, remedy=remedy)
    if not content["space"]:
        raise BciDecodeError("is empty", file=path, field="space", remedy="name a key to draw")
    for key, choice in content["space"].items():
        _check_choice(path, key, choice)
    return content["space"], _words(path, content.get("words") or [])


def _words(path: Path, words: Any) -> list[str]:
    if isinstance(words, list) and all(map(_is_word, words)):
        return words
    remedy = "give a list of KEY=VALUE, [model=gru, data.split=chained] say"
    raise BciDecodeError(f"is {_short(words)}", file=path, field="words", remedy=remedy)


def _is_word(word: Any) -> bool:
    return isinstance(word, str) and ("=" in word or word.startswith("~"))


def _check_choice(path: Path, key: Any, choice: Any) -> None:
    if not isinstance(key, str) or not KEY.fullmatch(key) or key == "output_dir":
        remedy = "name a key of the training command but output_dir, optimizer.lr say"
        raise BciDecodeError("cannot be drawn", file=path, field=f"space.{key}", remedy=remedy)
    if isinstance(choice, list) and choice and all(_is_value(one) for one in choice):
        return
    kind: str = ""
    ends: Any = None
    if isinstance(choice, dict) and len(choice) == 1:
        ((kind, ends),) = choice.items()
    numbers = isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, ends))
    if kind in KINDS and numbers and ends[0] < ends[1] and (kind == "uniform" or ends[0] > 0):
        return
    raise BciDecodeError(
        f"is {_short(choice)}",
        file=path,
        field=f"space.{key}",
        remedy="give a list, {uniform: [low, high]} or {log: [low, high]} with low above 0",
    )


def _is_number(value: Any) -> bool:
    """Whether an end of a range is a number that can be drawn up to: a tenth of the largest."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e307


def _is_value(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Whether a choice is what the command line can say; yaml also has dates, and circles."""
    if isinstance(value, (list, dict)) and depth:
        inner = value.values() if isinstance(value, dict) else value
        return all(_is_value(one, depth - 1) for one in inner)
    return isinstance(value, SCALARS)


def _short(value: Any) -> str:
    """A value of the file, cut where it is long; a circle prints as [...]."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # deep, or thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:80]}..."


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


def hydra_value(value: Any) -> str:
    """A value of a yaml file as a word of the command line has it: null, true, [1,2]."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(map(hydra_value, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{hydra_value(one)}" for key, one in value.items()) + "}"
    return str(value)
