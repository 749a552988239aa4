"""A run's folder: whose run it holds, whether that is finished, and that no other process writes to it.

`outputs/<experiment>/<session>/<model>[-bidirectional][-<target>]/seed<k>/`, addressable, so that the same command finds its own run again.
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

from bci_decode.config import TARGETS, flat
from bci_decode.errors import BciDecodeError
from bci_decode.files import md5_of, written_whole

PICTURES = ("loss.png", "r2.png", "trajectory.png")
RUN_FILES = (
    "config.yaml",
    "history.csv",
    "metrics.json",
    "predictions.npz",
    "best.pt",
    "last.pt",
    *PICTURES,
    "profile.csv",
)
OPTIONAL = ("profile.csv",)
# keys that do not change the figures: a run goes on, or counts as finished, though they differ
FREE_KEYS = (
    "overwrite",
    "data_dir",
    "output_dir",
    "session.path",
    "session.folder",
    "trainer.device",
    "trainer.threads",
    "trainer.profile",
)
FAILED = "failed.txt"
FAILED_RUN = ".failed"  # what there is of a run that was to overwrite another one and failed
GONE = ".gone"
ASIDE = ".before"  # where an overwritten run waits until the new one has finished


def decoder_name(model: str, bidirectional: bool) -> str:
    """What a decoder is called in folders and tables: lngru, lngru-bidirectional."""
    return model + "-bidirectional" * bidirectional


def run_folder(
    output_dir: str, experiment: str, session: str, model: str, seed: int, bidirectional=False, target="velocity"
) -> str:
    """The folder's path below `output_dir`; names that would lead out of it are refused before it is made."""
    if not str(output_dir or "").strip():
        raise BciDecodeError("is empty", field="output_dir", remedy="name a folder, outputs say")
    if not session or session == ".." or session != Path(str(session)).name:
        raise BciDecodeError(
            f"is {session!r}", field="session.name", remedy="give a name without slashes: a folder bears it"
        )
    if target not in TARGETS:
        raise BciDecodeError(f"is {target!r}", field="data.target", remedy=f"choose {', '.join(TARGETS)}")
    decoder = decoder_name(model, bidirectional) + f"-{target}" * (target != "velocity")
    return f"{experiment}/{session}/{decoder}/seed{seed}"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep every other process out of the folder; one that comes second is told so."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BciDecodeError(
                "another process is at this run", file=folder, remedy="wait for it, or use another output_dir="
            ) from error
        recover(folder)
        yield
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
    changed = [key for key in changed if key not in FREE_KEYS]
    if changed:
        shown = ", ".join(f"{key}={before.get(key, 'absent')}" for key in changed[:4])
        raise _not_ours(folder, f"a run with other settings ({shown}{', ...' * (len(changed) > 4)})")
    if not is_complete(folder):
        return False
    about = json.loads((folder / "metrics.json").read_text())["data"]
    same = identity(data).items() <= about.items() if data.is_file() else True  # the data may be gone by now
    if not same and md5_of(data) != about["md5"]:
        raise _not_ours(folder, f"a run on other data, {about['file']} as it was then")
    return True


def is_complete(folder: Path) -> bool:
    """Whether a finished run stands here, all its files in it; one that lacks any is made whole from last.pt."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text())
        epochs = (folder / "history.csv").read_text().count("\n") - 2  # a header, and a row for epoch 0
        whole = all((folder / name).stat().st_size for name in RUN_FILES if name not in OPTIONAL)
        return whole and epochs == metrics["epochs"] and {"file", "md5"} <= metrics["data"].keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def identity(data: Path) -> dict[str, Any]:
    """What tells cheaply that a data file is still the same: its path, size in bytes and time of its last change."""
    about = data.stat()
    return {"file": str(data), "bytes": about.st_size, "modified_ns": about.st_mtime_ns}


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


@contextmanager
def begun(folder: Path, settings: dict[Any, Any], overwrite: bool) -> Iterator[None]:
    """Make the folder this run's own while it trains: an overwritten run is set aside till this one has finished.

    If this one fails, the other is put back, and what there is of this one goes to `.failed`. If it is interrupted or
    killed, both stay, and it can go on.
    """
    if overwrite:
        _set_aside(folder)
    with written_whole(folder / "config.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(settings, sort_keys=False))
    try:
        yield
    except Exception:
        if overwrite and (folder / ASIDE).is_dir():
            _put_back(folder)
        raise
    _let_go(folder)


# Whatever is moved is first gathered under a name ending in .part and then renamed at once, so that after a kill at any
# moment `recover` knows how far it came. No file of a finished run is deleted before another one stands in its place.


def recover(folder: Path) -> None:
    """Undo or finish what a kill cut short in this folder; to be called by whoever has just got hold of it."""
    for cut in (ASIDE + ".part", FAILED_RUN + ".part"):
        _move(folder / cut, folder)
    if (folder / FAILED_RUN).is_dir() and (folder / ASIDE).is_dir():
        _move(folder / ASIDE, folder)
    if (folder / ASIDE).is_dir() and is_complete(folder):
        _let_go(folder)
    _delete(folder / GONE)


def _set_aside(folder: Path) -> None:
    _delete(folder / FAILED_RUN)
    if (folder / "metrics.json").exists() and not (folder / ASIDE).is_dir():
        _move(folder, folder / (ASIDE + ".part"))
        (folder / (ASIDE + ".part")).rename(folder / ASIDE)
    else:  # what stands here is not finished, or came after a finished run that waits aside already
        for name in RUN_FILES:
            (folder / name).unlink(missing_ok=True)


def _put_back(folder: Path) -> None:
    _move(folder, folder / (FAILED_RUN + ".part"))
    (folder / (FAILED_RUN + ".part")).rename(folder / FAILED_RUN)
    _move(folder / ASIDE, folder)


def _let_go(folder: Path) -> None:
    if (folder / ASIDE).is_dir():
        (folder / ASIDE).rename(folder / GONE)
    _delete(folder / GONE)


def _move(here: Path, there: Path) -> None:
    """Move a run's files; `here` is taken away if nothing is left in it."""
    if not here.is_dir():
        return
    there.mkdir(exist_ok=True)
    for name in RUN_FILES:
        if (here / name).exists():
            (here / name).replace(there / name)
    if not any(here.iterdir()):
        here.rmdir()


def _delete(folder: Path) -> None:
    if folder.is_dir():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def leave_nothing(folder: Path) -> bool:
    """After a mistake, take away a folder that was made for nothing; returns whether it was not, and so still stands."""
    if (folder / ASIDE).exists() or any((folder / name).exists() for name in RUN_FILES):
        return True
    (folder / "train.log").unlink(missing_ok=True)
    for path in (folder, *folder.parents[:3]):
        try:
            path.rmdir()
        except OSError:  # not empty: someone else's
            break
    return False
