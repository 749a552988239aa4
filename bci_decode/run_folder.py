"""A run's folder: whose run it holds, whether that is finished, and that no other process writes to it.

`outputs/<experiment>/<session>/<model>/seed<k>/`, addressable, so that the same command finds its own run again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from bci_decode.config import flat
from bci_decode.errors import BciDecodeError
from bci_decode.files import md5_of, written_whole

PICTURES = ("loss.png", "r2.png", "trajectory.png")
RUN_FILES = ("config.yaml", "history.csv", "metrics.json", "predictions.npz", "best.pt", "last.pt", *PICTURES)
# keys that do not change the figures: a run goes on, or counts as finished, though they differ
FREE_KEYS = (
    "overwrite",
    "data_dir",
    "output_dir",
    "session.path",
    "session.folder",
    "trainer.device",
    "trainer.threads",
)
FAILED = "failed.txt"
ASIDE = ".before"  # where an overwritten run waits until the new one has finished


def run_folder(output_dir: str, experiment: str, session: str, model: str, seed: int) -> str:
    """The folder's path below `output_dir`; names that would lead out of it are refused before it is made."""
    if not str(output_dir or "").strip():
        raise BciDecodeError("is empty", field="output_dir", remedy="name a folder, outputs say")
    if not session or session != Path(str(session)).name:
        raise BciDecodeError(
            f"is {session!r}", field="session.name", remedy="give a name without slashes: a folder bears it"
        )
    return f"{experiment}/{session}/{model}/seed{seed}"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep every other process out of the folder; one that comes second is told so."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise BciDecodeError(
            "another process is at this run", file=folder, remedy="wait for it, or use another output_dir="
        ) from error
    finally:
        os.close(handle)


def is_finished(folder: Path, settings: dict[Any, Any], data: Path) -> bool:
    """Whether the run of these settings and this data file stands here complete; refuses another one's folder."""
    config = folder / "config.yaml"
    if not config.exists():
        strays = [name for name in RUN_FILES if (folder / name).exists()]
        if strays:
            raise _not_ours(folder, f"files of a run ({', '.join(strays)}) without its config.yaml")
        return False
    try:
        before = flat(yaml.safe_load(config.read_text()))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise _not_ours(folder, "a run whose config.yaml is damaged") from error
    now, absent = flat(settings), object()
    changed = [key for key in {**before, **now} if before.get(key, absent) != now.get(key, absent)]
    changed = [key for key in changed if not key.startswith(FREE_KEYS)]
    if changed:
        shown = ", ".join(f"{key}={before.get(key, 'absent')}" for key in changed[:4])
        raise _not_ours(folder, f"a run with other settings ({shown}{', ...' * (len(changed) > 4)})")
    if not is_complete(folder):
        return False
    about = json.loads((folder / "metrics.json").read_text())["data"]
    if str(data) != about["file"] and data.is_file() and md5_of(data) != about["md5"]:
        raise _not_ours(folder, f"a run on other data, {about['file']}")
    return True


def is_complete(folder: Path) -> bool:
    """Whether a finished run stands here, all its files in it; one that lacks any is made whole from last.pt."""
    try:
        about = json.loads((folder / "metrics.json").read_text())["data"]
        return {"file", "md5"} <= about.keys() and all((folder / name).stat().st_size for name in RUN_FILES)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def record_failure(folder: Path, reason: str | None) -> None:
    """Leave `failed.txt` with the reason in a run's folder; None takes it away."""
    path = folder / FAILED
    if reason is None:
        path.unlink(missing_ok=True)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(reason + "\n")


def failure(folder: Path) -> str | None:
    """Why the run in this folder failed, None if it did not."""
    path = folder / FAILED
    return path.read_text().strip() if path.is_file() else None


def relative(folder: Path) -> Path:
    """The folder as seen from here, where it lies below."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _not_ours(folder: Path, what: str) -> BciDecodeError:
    remedy = "overwrite=true starts anew, another output_dir= keeps both"
    return BciDecodeError(f"holds {what}", file=folder, remedy=remedy)


def begin(folder: Path, settings: dict[Any, Any], overwrite: bool) -> None:
    """Make the folder this run's own: an overwritten run is set aside, the settings are written."""
    if overwrite:
        aside = folder / ASIDE
        aside.mkdir(exist_ok=True)
        keep = (aside / "metrics.json").exists()  # a finished run set aside is worth more than what came after it
        for name in RUN_FILES:
            if (folder / name).exists():
                (folder / name).unlink() if keep else (folder / name).replace(aside / name)
    with written_whole(folder / "config.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(settings, sort_keys=False))


def finish(folder: Path) -> None:
    """The new run is complete: let go of the one that it replaced."""
    _empty(folder / ASIDE)


def give_back(folder: Path) -> bool:
    """After a mistake: put back the run that was set aside, or take away a folder that was made for nothing.

    Returns whether the folder still holds a run, or what there is of one.
    """
    aside = folder / ASIDE
    if aside.is_dir():
        for name in RUN_FILES:
            (folder / name).unlink(missing_ok=True)
            if (aside / name).exists():
                (aside / name).replace(folder / name)
        _empty(aside)
    if any((folder / name).exists() for name in RUN_FILES):
        return True
    (folder / "train.log").unlink(missing_ok=True)
    for path in (folder, *folder.parents[:3]):
        try:
            path.rmdir()
        except OSError:  # not empty: someone else's
            break
    return False


def _empty(aside: Path) -> None:
    if aside.is_dir():
        for path in aside.iterdir():
            path.unlink()
        aside.rmdir()
