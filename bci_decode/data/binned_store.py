"""Binned sessions on disk, whose arrays are read as they are needed.

A recording is binned once; later runs with the same bins open the arrays as memory maps, so that
many sessions together take less memory than one recording. An entry is a folder: `about.json`, and
an `.npy` file for each array.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from bci_decode.config import DataConfig
from bci_decode.data.binning import BinnedSession, bin_session
from bci_decode.data.session import read_session
from bci_decode.errors import BciDecodeError
from bci_decode.files import check_regular, made_folder, md5_of, sha256_of, written_whole

LAYOUT = 1  # of an entry; raise it with every change of what bins hold
ABOUT = "about.json"


@dataclass(frozen=True, eq=False)
class StoredSession:
    """A binned session whose arrays are memory maps, with MD5 and seconds of its recording."""

    binned: BinnedSession
    path: Path
    md5: str
    seconds: float


def stored_session(path: Path, name: str, config: DataConfig, store: Path) -> StoredSession:
    """The bins of the recording at `path`, from the folder `store`, where they are made if need be.

    An entry is of one state of the file (its path, size and time of change) and of the settings
    that make bins. A damaged entry is made again.
    """
    check_regular(path)
    try:
        state = path.stat()
    except OSError as error:
        raise BciDecodeError(
            f"cannot be opened ({error.strerror})", file=path, remedy="check the path"
        ) from error
    keys = config.binning_kwargs() | {"grids": config.window.grids}
    identity = {
        "layout": LAYOUT,
        "file": str(path.resolve()),
        "bytes": state.st_size,
        "modified_ns": state.st_mtime_ns,
        "bins": keys,
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    entry = store / f"{path.stem[:80]}-{digest}"
    found = _read(entry, identity, name, path)
    if found is not None:
        return found
    made_folder(store, remedy="choose another data_dir=")
    with FileLock(store / f".{entry.name}.lock"):  # another process may be at it
        if (found := _read(entry, identity, name, path)) is None:
            session = read_session(path, name, config.source)
            about = identity | {"md5": md5_of(path), "seconds": session.duration}
            write_entry(entry, bin_session(session, **keys), about)
            found = _read(entry, identity, name, path)
    if found is None:
        problem = "cannot be read back after it was written"
        raise BciDecodeError(problem, file=entry, remedy="choose another data_dir=")
    return found


def write_entry(entry: Path, binned: BinnedSession, about: dict[str, Any]) -> None:
    """Write the arrays of a binned session, and last of all what they are of."""
    if entry.exists():
        shutil.rmtree(entry)
    made_folder(entry)
    grids = []
    for number, grid in enumerate((binned, *binned.shifted)):
        values = {}
        for key, value in _fields(grid):
            if isinstance(value, np.ndarray):
                path = entry / f"{key}{number}.npy"
                with written_whole(path, sync=False) as temporary, temporary.open("wb") as file:
                    np.save(file, value)
            else:
                values[key] = value.to_dict("list") if key == "units" else value
        grids.append(values)
    sums = {path.name: sha256_of(path) for path in sorted(entry.glob("*.npy"))}
    with written_whole(entry / ABOUT) as temporary:
        text = json.dumps(about | {"grids": grids, "sha256": sums}, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")


def _fields(binned: BinnedSession) -> Iterator[tuple[str, Any]]:
    """What an entry holds of a grid; the session's name is the reader's choice."""
    for one in fields(binned):
        if one.name not in ("name", "shifted"):
            yield one.name, getattr(binned, one.name)


def _read(entry: Path, identity: dict[str, Any], name: str, path: Path) -> StoredSession | None:
    """The session of an entry; None where it is absent, damaged or of another recording."""
    try:
        return read_entry(entry, name, path, identity)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, BciDecodeError):
        return None


def read_entry(
    entry: Path, name: str, path: Path, identity: dict[str, Any] | None = None
) -> StoredSession:
    """The session of an entry; raises anything where it is damaged, or not of this identity."""
    about = json.loads((entry / ABOUT).read_text(encoding="utf-8"))
    if any(about[key] != value for key, value in (identity or {}).items()):
        raise ValueError("it is of another recording")
    if any(sha256_of(entry / file) != digest for file, digest in about["sha256"].items()):
        raise ValueError("it was changed")
    first, *shifted = (
        _grid(entry, name, number, values, about["sha256"])
        for number, values in enumerate(about["grids"])
    )
    binned = BinnedSession(**first, shifted=tuple(BinnedSession(**one) for one in shifted))
    return StoredSession(binned, path, str(about["md5"]), float(about["seconds"]))


def _grid(
    entry: Path, name: str, number: int, values: dict[str, Any], files: dict[str, str]
) -> dict[str, Any]:
    """The fields of a `BinnedSession`."""
    arrays = {
        one.name: np.asarray(np.load(entry / file, mmap_mode="r", allow_pickle=False))
        for one in fields(BinnedSession)
        if (file := f"{one.name}{number}.npy") in files
    }
    return {**values, **arrays, "name": name, "units": pd.DataFrame(values["units"])}
