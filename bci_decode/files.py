"""Files that are complete or absent, paths as users type them, and the identity of a file."""

from __future__ import annotations

import glob
import hashlib
import os
import platform
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event

from bci_decode.errors import BciDecodeError

DAY = 86400  # s
PART = re.compile(r".+\.(?P<machine>[^.]*)\.(?P<process>\d+)\.part")  # of a temporary name
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4000  # what file systems take, less what files add
MAX_SHOWN = 60  # characters of such a path in a message


@contextmanager
def written_whole(path: Path, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary name to write to; it replaces `path` only if everything went well.

    Without `sync`, which waits for the disk, a loss of power may lose the new content. What killed
    processes left of `path` is removed.
    """
    temporary = path.with_name(f"{path.name}.{_machine()}.{os.getpid()}.part")
    try:
        _remove_abandoned(path)
        yield temporary
        move_into_place(temporary, path, sync)
    except OSError as error:
        raise BciDecodeError(
            f"cannot be written ({error.strerror or error})",
            file=path,
            remedy="free some space, or choose another place",
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove what processes left that were killed; only if none can be writing in the folder."""
    with suppress(OSError):  # the disk is read-only
        for part in folder.glob("*.part"):
            if PART.fullmatch(part.name):
                part.unlink()


def _machine() -> str:
    return platform.node().partition(".")[0]


def _remove_abandoned(path: Path) -> None:
    """Remove temporary files of `path` whose process is gone."""
    with suppress(OSError):  # another process was faster, or it is another user's
        for part in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
            if _is_abandoned(part):
                part.unlink()


def _is_abandoned(part: Path) -> bool:
    """Whether the process that wrote a temporary file is gone.

    On another machine, and on Windows, nobody can tell; a day without a change will do.
    """
    name = PART.fullmatch(part.name)
    if os.name == "posix" and name and name["machine"] == _machine():
        try:
            os.kill(int(name["process"]), 0)
        except ProcessLookupError:
            return True
        except (PermissionError, OverflowError):  # another user's; no number of a process
            pass
        return False
    return time.time() - part.stat().st_mtime > DAY


def move_into_place(temporary: Path, path: Path, sync: bool = True) -> None:
    """Rename a complete file; with `sync`, content and name then survive a loss of power."""
    if not sync:
        os.replace(temporary, path)
        return
    with temporary.open("r+b") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    if os.name == "posix":  # Windows cannot open a folder
        with suppress(OSError):  # nor can some network file systems sync one
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def check_writable(folder: Path, remedy: str = "choose another place") -> None:
    """Refuse a folder in which no file can be made."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise BciDecodeError(problem, file=folder, remedy=remedy) from error


def made_folder(folder: Path, remedy: str = "choose another place") -> Path:
    """Make a folder if it is not there, and check that files can be made in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"cannot be made ({error.strerror or error})"
        raise BciDecodeError(problem, file=folder, remedy=remedy) from error
    check_writable(folder, remedy)
    return folder


def check_path(path: str | os.PathLike[str]) -> None:
    """Refuse what no file system takes as a path: a character 0, or a name that is too long."""
    text = os.fspath(path)
    longest = max((len(os.fsencode(part)) for part in Path(text).parts), default=0)
    if "\0" in text:
        problem = "holds a character 0"
    elif longest > MAX_NAME_BYTES or len(os.fsencode(text)) > MAX_PATH_BYTES:
        problem = f"is too long: a name may have {MAX_NAME_BYTES} bytes, a path {MAX_PATH_BYTES}"
    else:
        return
    shown = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
    shown = shown.replace("\0", "\\0")
    raise BciDecodeError(problem, file=shown, remedy="choose another path")


def expand_user(path: str | os.PathLike[str]) -> Path:
    """`path` with a leading `~` as the home folder; a name like `~x` where x is no user stays.

    Raises `BciDecodeError` for what can be no path: see `check_path`.
    """
    check_path(path)
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_regular(path: Path) -> bool:
    """Whether a file is there, and no folder, device or pipe, the reading of which may not end."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a path that is too long, or with a zero byte
        return False


def check_regular(path: Path) -> None:
    """Refuse a device, a pipe or a socket, the reading of which may never end.

    So is a path that no file can have. A missing file and a folder pass: to open them fails.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:  # too long, with a zero byte, in a closed folder
        problem = f"cannot be opened ({getattr(error, 'strerror', None) or error})"
        name = repr(str(path))[1:-1]
        shown = name if len(name) <= 300 else f"{name[:150]}...{name[-150:]}"
        raise BciDecodeError(problem, file=shown, remedy="check the path") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        problem = "is a device, a pipe or a socket, no regular file"
        raise BciDecodeError(problem, file=path, remedy="name a file on disk")


def md5_of(path: Path, stop: Event | None = None) -> str:
    """MD5 of a file in hex digits, as the published catalogue of sessions lists it.

    What it returns after `stop` is set, which another thread does, means nothing.
    """
    return _hex_digest(hashlib.md5(usedforsecurity=False), path, stop)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex digits."""
    return _hex_digest(hashlib.sha256(), path)


def _hex_digest(digest: hashlib._Hash, path: Path, stop: Event | None = None) -> str:
    check_regular(path)
    with path.open("rb") as file:
        while (block := file.read(1 << 20)) and not (stop and stop.is_set()):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def md5_meanwhile(path: Path) -> Iterator[Callable[[], str]]:
    """Yield a function that waits for the MD5 of a file, which a thread takes meanwhile.

    An error inside the block does not wait for it.
    """
    from concurrent.futures import ThreadPoolExecutor  # a run alone needs it

    stop = Event()
    with ThreadPoolExecutor(1) as pool:
        md5 = pool.submit(md5_of, path, stop)
        try:
            yield md5.result
        finally:
            stop.set()
