"""Files that are either whole or absent, and what identifies one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bci_decode.errors import BciDecodeError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to;

    it takes `path`'s place only if all went well.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise BciDecodeError(
            f"cannot be written ({error.strerror or error})",
            file=path,
            remedy="free some space, or choose another place",
        ) from error
    finally:
        if temporary.is_file():
            temporary.unlink()


def md5_of(path: Path) -> str:
    """MD5 of a file as hex digits: what the published catalogue of sessions lists."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
