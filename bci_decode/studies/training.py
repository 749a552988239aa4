"""What studies that train have in common: the words of a run, its data, and a bar for all runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bci_decode.errors import BciDecodeError
from bci_decode.runs.build import session_file
from bci_decode.runs.compose import compose_config
from bci_decode.runs.folder import working_folder
from bci_decode.runs.processes import Died, call_all
from bci_decode.runs.run import run
from bci_decode.style import BASELINE, LAYER_NORM

PAIR = (BASELINE, LAYER_NORM)


def session_words(session: Path | None) -> list[str]:
    """The words that choose a recording; without one the simulated session is used."""
    return ["session=local", f"session.path={quoted(session)}"] if session else []


def session_name(session: Path | None) -> str:
    return session.resolve().stem if session else "simulated"


def data_file(session: Path | None) -> Path:
    """The recording, or the simulated session, which is made unless it exists."""
    if session and not session.is_file():
        raise BciDecodeError("no such file", file=session, remedy="give a recording to --session")
    return session_file(compose_config(*session_words(session)))


def quoted(path: Path) -> str:
    """A path as Hydra's words take it, with any characters."""
    return "'" + str(path).replace("'", "\\'") + "'"


@contextmanager
def translate_errors(options: dict[str, str]) -> Iterator[None]:
    """Name the options of a command instead of the keys of `conf/` in what is refused below."""
    try:
        yield
    except BciDecodeError as mistake:
        text = str(mistake)
        for key, option in options.items():
            text = text.replace(key, option)
        raise BciDecodeError(text) from mistake


def train(words: Sequence[str]) -> Path:
    """Train the run of some words, unless it is finished; returns its folder."""
    return run(compose_config(*words), words=words, progress=False)


def train_all(
    tasks: dict[Path, tuple[Callable, tuple]], epochs: dict[Path, int], jobs: int, name: str
) -> list[Any]:
    """Call the tasks, `jobs` at a time in processes, with one bar for the epochs of all.

    The folders, keys of `tasks`, are those that the tasks train in. Returns what the tasks return.
    The first error ends all processes; one that is killed costs its own task only, and the error
    that says so comes after the others.
    """
    from tqdm import tqdm

    folders, results = list(tasks), dict[Path, Any]()

    def on_end(number: int, outcome: Any) -> None:
        if isinstance(outcome, Exception):
            raise outcome
        results[folders[number]] = outcome

    def show() -> None:
        counts = {folder: _trained_epochs(folder) for folder in folders}
        # a run that stopped early has no more epochs
        bar.total = sum((counts if folder in results else epochs)[folder] for folder in folders)
        bar.n = sum(counts.values())
        bar.refresh()

    with tqdm(total=sum(epochs.values()), desc=name, unit="epoch", disable=None) as bar:
        call_all(tasks.values(), jobs, 1, on_end, show)
    for folder, outcome in results.items():
        if isinstance(outcome, Died):
            remedy = "the same command trains what is missing"
            raise BciDecodeError(str(outcome), file=folder, remedy=remedy)
    return [results[folder] for folder in folders]


def _trained_epochs(folder: Path) -> int:
    """Epochs in the history of a run, finished or not; its first row is untrained."""
    for place in (working_folder(folder), folder):
        path = place / "history.csv"
        if path.exists():
            return max(path.read_text(encoding="utf-8").count("\n") - 2, 0)
    return 0
