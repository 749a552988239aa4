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
from bci_decode.files import remove_parts, written_whole
from bci_decode.runs.checksums import SUMS, verify
from bci_decode.runs.folder import (
    FAILED,
    FIGURES,
    JOINT,
    RESULTS,
    SESSIONS,
    changed_settings,
    conflict,
    is_complete,
    lock_file,
    remove_unused,
    settings_conflict,
    working_folder,
)
from bci_decode.style import FORMATS

RESUMED = ("history.csv", "best.pt", "last.pt", "train.log")  # what more epochs begin with
RUN_FILES = (*dict.fromkeys(RESULTS + JOINT), SUMS, "last.pt", "profile.csv", "train.log", FAILED)
EVENTS = "events.out.tfevents*"  # TensorBoard's
# keys that follow trainer.epochs
SCHEDULE_LENGTHS = ("scheduler.T_max", "scheduler.epochs")


class RunBusy(BciDecodeError):
    """Another process trains the run, so that its folder must not be touched."""


@contextmanager
def locked(folder: Path) -> Iterator[BciDecodeError | None]:
    """Keep every other process out of the folder; one that comes second gets an error.

    A finished run can be read without a lock, on a read-only file system say: yields the error that
    whoever wants to write must raise, or None.
    """
    if folder.exists() and not folder.is_dir():
        raise BciDecodeError("is a file", file=folder, remedy="choose another output_dir=")
    lock = FileLock(lock_file(folder), timeout=0)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise RunBusy(
            "another process is at this run",
            file=folder,
            remedy="wait for it, or use another output_dir=",
        ) from error
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        refusal = BciDecodeError(problem, file=folder, remedy="choose another output_dir=")
        if not is_complete(folder):
            raise refusal from error
        yield refusal
        return
    try:
        recover(folder)
        yield None
    finally:
        remove_unused(folder)
        lock.release()


def claim(folder: Path, settings: dict[str, Any], overwrite: bool) -> Path | None:
    """The working folder, ready to train or to resume in; None if the run is finished already.

    Refuses a folder that holds another run. A finished run whose `trainer.epochs` was raised is
    continued; nothing is copied before `start`.
    """
    working = working_folder(folder)
    if overwrite:
        return working
    if folder.exists() and not is_complete(folder):
        _adopt(folder, working)
    holds_run = any((folder / name).exists() for name in RUN_FILES)  # else files of the user
    finished = changed_settings(folder, settings) if holds_run else None
    begun = _is_begun(working)
    known = (working / "config.yaml").exists()  # else last.pt, which the training compares, knows
    changed = changed_settings(working, settings) if known else {}
    if finished == {} and not (begun and not changed and (working / "last.pt").exists()):
        return None
    if changed and not more_epochs(changed):
        raise settings_conflict(working, changed)
    if not begun and finished:
        _check_more_epochs(folder, finished)
    return working


def _is_begun(working: Path) -> bool:
    """Whether a run trains there, so that it resumes."""
    return any((working / name).exists() for name in ("config.yaml", "last.pt"))


def more_epochs(changed: dict[str, tuple[Any, Any]]) -> bool:
    """Whether settings differ only in that more epochs are wanted here than there."""
    there, here = changed.get("trainer.epochs", (0, 0))
    numbers = type(there) is type(here) is int  # a file that was edited may hold anything
    return set(changed) == {"trainer.epochs"} and numbers and here > there


def _check_more_epochs(folder: Path, changed: dict[str, tuple[Any, Any]]) -> None:
    """Refuse a finished run of other settings, unless more epochs can continue it."""
    longer = more_epochs({key: changed[key] for key in changed if key not in SCHEDULE_LENGTHS})
    if not longer:
        raise settings_conflict(folder, changed)
    verify(folder, "last.pt")
    if len(changed) > 1 or not (folder / "last.pt").exists():
        reason = "a schedule that depends on trainer.epochs" if len(changed) > 1 else "no last.pt"
        raise BciDecodeError(
            f"has {reason}, so that it cannot be continued with more epochs",
            file=folder,
            remedy="set trainer.epochs back, or train again with overwrite=true",
        )


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


def start(folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Make the working folder the run's, with its settings.

    Overwriting forgets an earlier start; without one, a finished run is continued from a copy.
    """
    working = working_folder(folder)
    if working.exists() and (overwrite or not _is_begun(working)):
        shutil.rmtree(working)  # without settings and weights it is a start that failed at once
    begun = working.exists()
    working.mkdir(parents=True, exist_ok=True)
    if (folder / "config.yaml").exists() and not begun and not overwrite:
        names = [*RESUMED, *(path.name for path in folder.glob(EVENTS))]
        for name in (name for name in names if (folder / name).exists()):
            shutil.copyfile(folder / name, working / name)
    for name in (FAILED, SUMS):
        (working / name).unlink(missing_ok=True)
    with written_whole(working / "config.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def finish(folder: Path) -> None:
    """Put the finished run of the working folder in the place of the folder."""
    old = _old_folder(folder)
    if folder.exists():
        folder.rename(old)
    working_folder(folder).rename(folder)
    _drop(old, folder)


def recover(folder: Path) -> None:
    """Complete, or undo, an exchange that a kill cut short, and remove half-written files."""
    old, working = _old_folder(folder), working_folder(folder)
    for place in (old, working, folder):
        for one in (place, *place.glob(f"{SESSIONS}/*")):
            remove_parts(one)
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
    for one in old.glob(f"{SESSIONS}/*"):
        if (folder / SESSIONS / one.name).is_dir():
            _drop(one, folder / SESSIONS / one.name)
    figures = {f"{name}.{kind}" for name in (*FIGURES, "layers") for kind in FORMATS}
    ours = {*RUN_FILES, SESSIONS, *figures, *(path.name for path in old.glob(EVENTS))}
    for path in old.iterdir():
        name = "evaluations.old" if path.name == "evaluations" else path.name
        if path.name not in ours and not (folder / name).exists():
            path.rename(folder / name)
    shutil.rmtree(old)
