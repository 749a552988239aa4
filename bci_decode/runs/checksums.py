"""SHA-256 of the files of a finished run, in a file that `sha256sum -c SHA256SUMS` reads."""

from __future__ import annotations

import json
from pathlib import Path

from bci_decode.errors import BciDecodeError
from bci_decode.files import sha256_of, written_whole

RUNNING = ".running"  # the end of the name of a folder in which a run trains
SUMS = "SHA256SUMS"
SUMMED = (
    "config.yaml", "history.csv", "metrics.json", "predictions.npz", "sessions.csv", "best.pt",
    "last.pt",
)  # fmt: skip
REMEDY = "bring back the original file, or train again with overwrite=true"
MAX_REPORT = 16 << 20  # bytes of metrics.json


def write_checksums(folder: Path) -> None:
    """Write the checksums of those files of a run that are there."""
    present = [name for name in SUMMED if (folder / name).exists()]
    lines = [f"{sha256_of(folder / name)}  {name}\n" for name in present]
    with written_whole(folder / SUMS) as temporary:
        temporary.write_text("".join(lines), newline="\n", encoding="utf-8")


def verify(folder: Path, *names: str) -> None:
    """Refuse files of a finished run that are not as they were when it finished.

    Files that are absent are the reader's affair. Runs of earlier versions have no checksums, and
    those of a folder in which a run trains are not final.
    """
    if folder.name.endswith(RUNNING):
        return
    path = folder / SUMS
    if not path.is_file():
        if _promises_checksums(folder):
            problem = "is missing, so that damage to the run would not be seen"
            raise BciDecodeError(problem, file=path, remedy=REMEDY)
        return
    lines = path.read_bytes()[:MAX_REPORT].decode(errors="replace").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in (name for name in names if (folder / name).is_file()):
        if name not in sums:
            raise BciDecodeError(f"does not list {name}", file=path, remedy=REMEDY)
        if sums[name] != sha256_of(folder / name):
            problem = "is not as it was when the run finished"
            raise BciDecodeError(problem, file=folder / name, remedy=REMEDY)


def _promises_checksums(folder: Path) -> bool:
    """Whether `metrics.json` is of a version that writes checksums, and can be read."""
    try:
        with (folder / "metrics.json").open("rb") as file:
            return "checksums" in json.loads(file.read(MAX_REPORT))
    except (OSError, ValueError, TypeError, RecursionError):
        return False
