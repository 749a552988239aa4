"""Sessions with names: the 47 of O'Doherty et al. 2017 (Zenodo, CC BY 4.0), simulated days."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from bci_decode.errors import BciDecodeError

RECORD_URL = "https://zenodo.org/records/3854034/files"
RECORD_PAGE = "https://zenodo.org/records/3854034"
LICENSE = "CC BY 4.0"
CITATION = (
    "O'Doherty, J. E., Cardoso, M. M. B., Makin, J. G., and Sabes, P. N. (2017). Nonhuman Primate "
    "Reaching with Multichannel Sensorimotor Cortex Electrophysiology. Zenodo. "
    "https://doi.org/10.5281/zenodo.583331"
)
API_URL = "https://zenodo.org/api/records/3854034/files"
# sessions that need no download, by the number of their day: see `data.simulate.simulated_day`
SIMULATED_DAYS = {f"simulated_day{day:02d}": day for day in range(1, 13)}
SIMULATED_ARRAY: dict[str, Any] = {"seed": 0, "minutes": 7.0, "channels": 96}


@dataclass(frozen=True)
class CatalogEntry:
    """One published session: `md5` and, if known, `size` in bytes of its file, `duration` in s."""

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
    """All sessions by name, ordered by monkey and date, from `catalog.csv` beside this module."""
    with Path(__file__).with_name("catalog.csv").open(encoding="utf-8", newline="") as file:
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
    """The monkeys' names, with which the sessions' names begin."""
    return {entry.monkey for entry in catalog().values()}


def sessions_named(patterns: Iterable[str]) -> list[CatalogEntry]:
    """Sessions by name or pattern (`loco_*`), each once, in the order of the catalog."""
    names: set[str] = set()
    for pattern in patterns:
        stem = pattern.removesuffix(".mat")
        matches = {name for name in catalog() if fnmatchcase(name, stem)}
        if not matches:
            longer = [name for name in catalog() if stem and name.startswith(stem)]
            hint = f"'{stem}*' matches {len(longer)} sessions" if longer else similar_names(stem)
            remedy = f"{hint} (--list shows all)" if hint else "there are: " + ", ".join(catalog())
            raise BciDecodeError("no session has this name", field=pattern, remedy=remedy)
        names |= matches
    return [entry for name, entry in catalog().items() if name in names]


def similar_names(name: str) -> str:
    """Asks for the sessions whose names resemble an unknown one; "" if there are none."""
    close = get_close_matches(name, catalog(), n=3)
    return f"is it {' or '.join(close)}?" if close else ""


def downloaded_file(session: str, folder: str) -> Path:
    """The file of a published session, `<folder>/<session>.mat`; an error says how to get it."""
    file = Path(folder, f"{session}.mat")
    if not file.exists():
        remedy = f"type 'make data SESSION={session}', or fetch {catalog()[session].url}"
        raise BciDecodeError("is not there", file=file, remedy=remedy)
    return file
