"""Read the files of a run, which may be damaged or a stranger's: right, or one line.

Each function compares a file of a finished run with its checksum, and limits its size before it is
read.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bci_decode.config import flatten
from bci_decode.errors import BciDecodeError, one_line
from bci_decode.runs.checksums import MAX_REPORT, REMEDY, verify

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

MAX_SETTINGS, MAX_HISTORY, MAX_ARRAYS = 1 << 20, 512 << 20, 1 << 30  # bytes
MAX_KEYS = 100_000  # of settings; aliases in a small file may stand for any number
PREDICTIONS = ("time", "true", "decoded", "axes", "target", "unit", "bin_width")
SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # compiled where there is one


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings in the `config.yaml` of a run, as {"data.lag": 0.0}."""
    path = folder / "config.yaml"
    text = _text(path, MAX_SETTINGS)
    try:
        tree = yaml.load(text, SafeLoader)
        if not isinstance(tree, dict) or _is_large(tree):
            raise ValueError("it holds no settings")
        return flatten(tree)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, error) from error


def _is_large(tree: Any) -> bool:
    waiting, number = [tree], 0
    while waiting and number <= MAX_KEYS:
        node, number = waiting.pop(), number + 1
        if isinstance(node, (dict, list)):
            waiting += node.values() if isinstance(node, dict) else node
    return number > MAX_KEYS


def read_report(folder: Path) -> dict[str, Any]:
    """The `metrics.json` of a run."""
    path = folder / "metrics.json"
    text = _text(path, MAX_REPORT)
    try:
        report = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(path, error) from error
    if not isinstance(report, dict):
        raise damaged(path, "it is no report")
    return report


def read_history(folder: Path) -> pd.DataFrame:
    """The `history.csv` of a run: a row of numbers for each epoch, the last one whole."""
    return parsed_history(history_text(folder), folder / "history.csv")


def history_text(folder: Path) -> str:
    """The `history.csv` of a run as it is."""
    return _text(folder / "history.csv", MAX_HISTORY)


def parsed_history(text: str, path: Path) -> pd.DataFrame:
    """The table in the text of a `history.csv`, which is from `path`."""
    import io

    import pandas as pd

    try:
        history = pd.read_csv(io.StringIO(text))
        epochs = history["epoch"].tolist()
        numbers = all(kind.kind in "iuf" for kind in history.dtypes)
    except Exception as error:  # pandas raises anything where a table is damaged
        raise damaged(path, error) from error
    whole = bool(epochs) and text.endswith("\n") and numbers
    if not whole or epochs != list(range(int(epochs[0]), int(epochs[0]) + len(epochs))):
        raise damaged(path, "it is cut, or rows are missing")
    return history


def read_predictions(
    path: Path, names: Sequence[str] = PREDICTIONS, verified: bool = False
) -> dict[str, np.ndarray]:
    """Time, true and decoded target of a `predictions.npz`, with axes, unit and bin width.

    `names` are the arrays that are read, these at least: true, decoded and bin_width.
    `verified`: the file was compared with its checksum before.
    """
    import numpy as np

    if not verified:
        verify(path.parent, path.name)
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_ARRAYS:
                raise ValueError("it is too large")
        with np.load(path) as file:
            arrays = {name: file[name] for name in names}
        true, time = arrays["true"], arrays.get("time", arrays["true"])
        axes = arrays.get("axes", true[:1].T)
        if arrays["decoded"].shape != true.shape or true.shape != (len(time), len(axes)):
            raise ValueError("its arrays do not belong together")
        if not 0 < float(arrays["bin_width"]) < np.inf:
            raise ValueError("it has no bin width")
    except Exception as error:  # zipfile, zlib and NumPy raise anything from KeyError to zlib.error
        raise damaged(path, error) from error
    return arrays


def damaged(path: Path, reason: BaseException | str) -> BciDecodeError:
    """The error that a file of a run cannot be used, with the reason."""
    line = reason if isinstance(reason, str) else one_line(reason)
    return BciDecodeError(f"is damaged ({line[:120]})", file=path, remedy=REMEDY)


def _text(path: Path, most: int) -> str:
    """The text of a regular file; refused where it is no text, or of more than `most` bytes."""
    try:
        if path.exists() and not path.is_file():
            raise damaged(path, "it is no file")
        if path.stat().st_size > most:
            raise damaged(path, f"it has more than {most} bytes")
        verify(path.parent, path.name)
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise damaged(path, reason) from error
