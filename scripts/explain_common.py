"""What the parts of explain.py share: the session, its data set, runs that are followed by a bar, tables that are kept."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, wait
from contextlib import contextmanager
from pathlib import Path

from bci_decode.errors import BciDecodeError

NAMES = {"gru": "GRU", "lngru": "LN-GRU"}
MODELS = tuple(NAMES)


def session_name(arguments: argparse.Namespace) -> str:
    return arguments.session.resolve().stem if arguments.session else "simulated"


def session_file(arguments: argparse.Namespace) -> Path:
    """The recording, or the simulated session, which is made where it is not there yet."""
    if arguments.session:
        if not arguments.session.is_file():
            raise BciDecodeError("no such file", file=arguments.session, remedy="give a recording's path to --session")
        return arguments.session
    import hydra

    config, _ = composed()
    return hydra.utils.instantiate({key: value for key, value in config.session.items() if key != "name"})


@contextmanager
def in_own_words(words: dict[str, str]) -> Iterator[None]:
    """What is refused below is said in the options of this command: `words` has them by key of conf/."""
    try:
        yield
    except BciDecodeError as mistake:
        told = str(mistake)
        for key, option in words.items():
            told = told.replace(key, option)
        raise BciDecodeError(told) from mistake


def composed(*words: str):
    """The configuration of a command line, as it is and typed."""
    from omegaconf import OmegaConf

    from bci_decode.config import TrainConfig
    from bci_decode.runs import compose as recipe

    config = recipe.composed(*words)
    typed = OmegaConf.to_object(config)
    assert isinstance(typed, TrainConfig)
    return config, typed


def prepared(file: Path, config):
    """The data set of a composed configuration."""
    from omegaconf import OmegaConf

    from bci_decode.config import DataConfig
    from bci_decode.data.binning import bin_session
    from bci_decode.data.dataset import prepare
    from bci_decode.data.session import read_session

    typed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), config.data))
    assert isinstance(typed, DataConfig)
    return prepare(bin_session(read_session(file), **typed.grid()), typed)


def followed(pool: Executor, tasks: dict[Path, tuple[Callable, tuple]], epochs: dict[Path, int], name: str) -> list:
    """What the tasks return, with a bar of the epochs of all, counted in the history.csv of their folders."""
    from tqdm import tqdm

    futures: dict[Path, Future] = {folder: pool.submit(call, *words) for folder, (call, words) in tasks.items()}
    try:
        with tqdm(total=sum(epochs.values()), desc=name, unit="epoch", disable=None) as bar:
            while True:
                pending = wait(futures.values(), timeout=1).not_done
                counts = {folder: trained_epochs(folder) for folder in futures}
                # a run that has stopped early has no more epochs to come
                bar.total = sum(counts[folder] if futures[folder].done() else epochs[folder] for folder in futures)
                bar.n = sum(counts.values())
                bar.refresh()
                failed = [future for future in futures.values() if future.done() and future.exception()]
                if failed or not pending:
                    break
        return [future.result() for future in [*failed, *futures.values()]]
    finally:
        for future in futures.values():
            future.cancel()


def trained_epochs(folder: Path) -> int:
    try:
        return max((folder / "history.csv").read_text().count("\n") - 2, 0)
    except OSError:
        return 0


def kept(where: Path, name: str, table, text: str = "") -> tuple[Path, str]:
    """The table as NAME.csv in a folder, and as Markdown in its tables.md."""
    table.to_csv(where / f"{name}.csv", index=False)
    return where, added(where, name, table, text)


def added(where: Path, name: str, table, text: str = "") -> str:
    """Put a table into the folder's tables.md, in place of the one of the same name."""
    from bci_decode.comparison.tables import markdown
    from bci_decode.files import written_whole

    path = where / "tables.md"
    parts = sections(path)
    parts.pop(name, None)
    parts[name] = f"\n{text}" + "\n" * bool(text) + markdown(table)
    with written_whole(path) as temporary:
        temporary.write_text("\n".join(f"## {name}\n{part}" for name, part in parts.items()))
    return f"{name}\n{parts[name]}"


def sections(path: Path) -> dict[str, str]:
    """The tables of a tables.md, with what stands above them, by name; none where there is no such file."""
    parts = path.read_text().split("## ")[1:] if path.exists() else []
    return {name: text.rstrip("\n") + "\n" for name, text in (part.split("\n", 1) for part in parts)}
