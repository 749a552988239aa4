"""The 47 published sessions of O'Doherty, Cardoso, Makin and Sabes 2017 (Zenodo 3854034, CC BY 4.0)."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from bci_decode.errors import BciDecodeError

RECORD_URL = "https://zenodo.org/records/3854034/files"
API_URL = "https://zenodo.org/api/records/3854034/files"


@dataclass(frozen=True)
class CatalogEntry:
    """One published session: `md5` of its file, `size` in bytes where it is known exactly, `duration` in s."""

    name: str
    monkey: str
    date: str
    md5: str
    size: int | None
    channels: int
    areas: tuple[str, ...]
    duration: float

    @property
    def url(self) -> str:
        return f"{RECORD_URL}/{self.name}.mat"


@cache
def catalog() -> dict[str, CatalogEntry]:
    """All sessions by name, in the order of monkey and date, from `catalog.csv` beside this module."""
    with Path(__file__).with_name("catalog.csv").open(newline="") as file:
        return {
            row["session"]: CatalogEntry(
                name=row["session"],
                monkey=row["monkey"],
                date=row["date"],
                md5=row["md5"],
                size=int(row["size_bytes"]) if row["size_bytes"] else None,
                channels=int(row["channels"]),
                areas=tuple(row["areas"].split("+")),
                duration=float(row["duration_s"]),
            )
            for row in csv.DictReader(file)
        }


def monkeys() -> set[str]:
    """Their names, with which the sessions' names begin."""
    return {entry.monkey for entry in catalog().values()}


def sessions_named(patterns: Iterable[str]) -> list[CatalogEntry]:
    """The sessions with these names, or whose names match these patterns (`loco_*`), each once, in catalogue order."""
    names: set[str] = set()
    for pattern in patterns:
        stem = pattern.removesuffix(".mat")
        matches = {name for name in catalog() if fnmatchcase(name, stem)}
        if not matches:
            close = get_close_matches(stem, catalog(), n=3)
            near = f"is it {' or '.join(close)}? the others: " if close else "there are: "
            rest = ", ".join(name for name in catalog() if name not in close)
            raise BciDecodeError("no session has this name", field=pattern, remedy=near + rest)
        names |= matches
    return [entry for name, entry in catalog().items() if name in names]


def downloaded_file(session: str, folder: str) -> Path:
    """The file of a catalogued session, `<folder>/<session>.mat`; says how to get it where it is absent."""
    file = Path(folder, f"{session}.mat")
    if not file.exists():
        raise BciDecodeError(
            "is not there",
            file=file,
            remedy=f"type 'make data SESSION={session}', or fetch {catalog()[session].url}",
        )
    return file
