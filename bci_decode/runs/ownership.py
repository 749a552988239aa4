"""Who may write to a run's folder: a lock, the working folder, and the exchange at the end.

The finished run in `seed0/` is not touched until another finished run takes its place. After a kill
at any moment, `recover` completes the exchange or undoes it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from bci_decode.errors import BciDecodeError
from bci_decode.files import written_whole
from bci_decode.runs.folder import (
    FAILED,
    FIGURES,
    RESULTS,
    changed_settings,
    check_same_data,
    conflict,
    is_complete,
    settings_conflict,
    working_folder,
)
from bci_decode.style import FORMATS

RESUMED = ("history.csv", "best.pt", "last.pt")  # all that more training takes
RUN_FILES = (*RESULTS, "last.pt", "profile.csv", "train.log", FAILED)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process out of the folder; one that comes second gets an error."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise BciDecodeError(
            "another process is at this run",
            file=folder,
            remedy="wait for it, or use another output_dir=",
        ) from error
    except OSError as error:
        raise BciDecodeError(
            f"cannot be written ({error.strerror})",
            file=folder,
            remedy="choose another output_dir=",
        ) from error
    try:
        recover(folder)
        yield
    finally:
        lock.release()


def claim(folder: Path, settings: dict[str, Any], data: Path, overwrite: bool) -> Path | None:
    """The working folder, ready to train or to resume in; None if the run is finished already.

    Refuses a folder that holds another run. A finished run whose `trainer.epochs` was raised is
    continued in a copy.
    """
    working = working_folder(folder)
    if overwrite:
        return working
    if folder.exists() and not is_complete(folder):
        _adopt(folder, working)
    finished = changed_settings(folder, settings) if folder.exists() else None
    if finished == {}:
        check_same_data(folder, data)
        if not (working / "last.pt").exists() or changed_settings(working, settings):
            return None
    if (working / "config.yaml").exists():
        changed = changed_settings(working, settings)
        if changed and not _more_epochs(changed):
            raise settings_conflict(working, changed)
    elif finished and _more_epochs(finished):
        check_same_data(folder, data)
        _copy_for_more_epochs(folder, working)
    elif finished:
        raise settings_conflict(folder, finished)
    return working


def _more_epochs(changed: dict[str, tuple[Any, Any]]) -> bool:
    """Whether settings differ only in that more epochs are wanted here than there."""
    there, here = changed.get("trainer.epochs", (0, 0))
    return set(changed) == {"trainer.epochs"} and here > there


def _copy_for_more_epochs(folder: Path, working: Path) -> None:
    if not (folder / "last.pt").exists():
        raise BciDecodeError(
            "has no last.pt, which more epochs need",
            file=folder,
            remedy="set trainer.epochs back, or train again with overwrite=true",
        )
    working.mkdir(exist_ok=True)
    for name in RESUMED:
        shutil.copyfile(folder / name, working / name)


def _adopt(folder: Path, working: Path) -> None:
    """Make an incomplete run the working folder, so that it is made whole from its `last.pt`."""
    present = [name for name in RUN_FILES if (folder / name).exists()]
    if not present:
        return  # an empty folder, or files of the user
    if "config.yaml" not in present:
        raise conflict(folder, f"files of a run ({', '.join(present)}) without its config.yaml")
    if "last.pt" not in present and ("metrics.json" in present or "best.pt" in present):
        absent = [name for name in RESULTS if name not in present]
        damage = f"without {', '.join(absent)}" if absent else "with damaged files"
        raise conflict(folder, f"a run {damage}, and no last.pt to mend it from")
    if working.exists():
        shutil.rmtree(working)
    folder.rename(working)


def start(working: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Make the working folder the run's, with its settings;

    overwriting forgets an earlier start.
    """
    if overwrite and working.exists():
        shutil.rmtree(working)
    working.mkdir(parents=True, exist_ok=True)
    (working / FAILED).unlink(missing_ok=True)
    with written_whole(working / "config.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(settings, sort_keys=False))


def finish(folder: Path) -> None:
    """Put the finished run of the working folder in the place of the folder."""
    old = _old_folder(folder)
    if folder.exists():
        folder.rename(old)
    working_folder(folder).rename(folder)
    _drop(old, folder)


def recover(folder: Path) -> None:
    """Complete, or undo, an exchange that a kill cut short."""
    old, working = _old_folder(folder), working_folder(folder)
    if not folder.exists() and is_complete(working):
        working.rename(folder)
    if old.exists() and folder.exists():
        _drop(old, folder)
    elif old.exists():
        old.rename(folder)


def _old_folder(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _drop(old: Path, folder: Path) -> None:
    """Delete an overwritten run; files that are not of a run are the user's and move on."""
    if not old.exists():
        return
    ours = {*RUN_FILES, "evaluations", *(f"{name}.{kind}" for name in FIGURES for kind in FORMATS)}
    for path in old.iterdir():
        if path.name not in ours and not (folder / path.name).exists():
            path.rename(folder / path.name)
    shutil.rmtree(old)
