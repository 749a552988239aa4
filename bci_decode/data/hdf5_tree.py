"""The groups, data sets and attributes of an HDF5 file, addressed by path.

Soft links inside the file are followed; what lies in another file is refused.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py.h5d import DatasetID as Dataset
from h5py.h5g import GroupID as Group

from bci_decode.data.hdf5_stored import check_stored, kind, strings
from bci_decode.data.hdf5_values import read_values
from bci_decode.data.recording_variables import check_size
from bci_decode.errors import BciDecodeError

MAX_LINKS = 1000  # soft links that are followed in a file
MAX_DEPTH = 20  # of links that lead to links
MAX_MEMBERS = 10_000  # of a group
MAX_ATTRIBUTE = 1 << 16  # bytes
NUMBERS = "fiub"


class Hdf5Tree:
    """An open file; a path, `where`, is like "units/spike_times", as in messages."""

    def __init__(self, path: Path, file: h5py.File):
        self.path = path
        self._root = file.id
        self._root_group = h5py.h5g.open(file.id, b"/")
        self._links = 0
        self._bytes = 0

    def error(self, where: str, problem: str, remedy: str | None = None) -> BciDecodeError:
        """An error about what is at `where`."""
        return BciDecodeError(problem, file=self.path, field=where, remedy=remedy)

    def find(self, where: str) -> Group | Dataset | None:
        """The group or data set there; None where there is none."""
        return self._walk(self._root_group, where, where, 0)

    def members(self, where: str) -> list[str]:
        """The names in a group, in the file's order; none where there is no group."""
        group = self.find(where)
        if not isinstance(group, Group):
            return []
        if group.get_num_objs() > MAX_MEMBERS:
            raise self.error(where, f"has more than {MAX_MEMBERS} members")
        names = (name.decode("utf-8", "replace") for name in group)
        return [name for name in names if name.isprintable()]

    def dataset(self, where: str) -> Dataset | None:
        """The data set there, its storage checked; None where there is none."""
        found = self.find(where)
        if not isinstance(found, Dataset):
            return None
        check_stored(self.path, where, found)
        return found

    def shape(self, where: str) -> tuple[int, ...] | None:
        """The shape of the numbers there; None where there are none."""
        found = self.dataset(where)
        return None if found is None or (kind(found) or "-") not in NUMBERS else found.shape

    def numbers(
        self, where: str, columns: int | None = None, rows: int | None = None
    ) -> np.ndarray | None:
        """The values there as float64, of a matrix the first `columns`; None where there is none.

        `rows` limits the rows. Numbers that take more memory than the file can mean are refused.
        """
        found = self.dataset(where)
        if found is None:
            return None
        if (kind(found) or "-") not in NUMBERS:
            raise self.error(where, "is not an array of real numbers", "save it again as such")
        shape = found.shape
        if columns is not None and len(shape) == 2:
            shape = (shape[0], min(shape[1], columns))
        if rows is not None and shape:
            shape = (min(shape[0], rows), *shape[1:])
        self.take(where, 8 * prod(shape))
        values = np.empty(shape)
        if values.size:
            read_values(found, values)
        return values

    def take(self, where: str, size: int) -> None:
        """Count memory that values of the file need, and refuse too much: see `check_size`."""
        self._bytes += size
        check_size(self.path, where, self._bytes)

    def strings(self, where: str) -> list[str] | None:
        """The texts of a data set; None where there is none, or something else."""
        found = self.dataset(where)
        if found is None or kind(found) != "S":
            return None
        return strings(self.path, where, found)

    def attribute(self, where: str, name: str) -> Any:
        """An attribute as h5py gives it; None where it is absent or has no single value."""
        found = self.find(where)
        if found is None or not h5py.h5a.exists(found, name.encode()):
            return None
        stored = h5py.h5a.open(found, name.encode())
        if stored.get_storage_size() > MAX_ATTRIBUTE:
            raise self.error(where, f"has an attribute {name} of {stored.get_storage_size()} bytes")
        owner = h5py.Group(found) if isinstance(found, Group) else h5py.Dataset(found)
        value = owner.attrs[name]
        if isinstance(value, np.ndarray):
            return value.ravel()[0] if value.size == 1 else None
        return value

    def text(self, where: str, name: str) -> str:
        """An attribute that is a text; empty where it is absent or no text."""
        value = self.attribute(where, name)
        value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        return str(value).strip() if isinstance(value, str) else ""

    def number(self, where: str, name: str, default: float) -> float:
        """An attribute that is a finite number, `default` where it is absent."""
        value = self.attribute(where, name)
        if value is None:
            return default
        if not isinstance(value, (int, float, np.integer, np.floating)) or not np.isfinite(value):
            shown = str(value)[:20]
            raise self.error(where, f"has {name} = {shown}", "give a finite number")
        return float(value)

    def _walk(self, start: Group, target: str, where: str, depth: int) -> Group | Dataset | None:
        """What a path of names leads to from a group."""
        here: Any = self._root_group if target.startswith("/") else start
        for name in target.split("/"):
            if name in ("", "."):
                continue
            here = self._member(here, name, where, depth) if isinstance(here, Group) else None
            if here is None:
                return None
        return here

    def _member(self, group: Group, name: str, where: str, depth: int) -> Group | Dataset | None:
        encoded = name.encode("utf-8", "surrogateescape")
        if not group.links.exists(encoded):
            return None
        link = group.links.get_info(encoded).type
        if link == h5py.h5l.TYPE_HARD:
            found = h5py.h5o.open(group, encoded)
            return found if isinstance(found, (Group, Dataset)) else None
        self._links += 1
        if link != h5py.h5l.TYPE_SOFT:
            raise self.error(where, "is a link to another file", "store the values in this one")
        if depth == MAX_DEPTH or self._links > MAX_LINKS:
            raise self.error(where, "is behind too many links", "store the array itself")
        target = group.links.get_val(encoded).decode("utf-8", "surrogateescape")
        return self._walk(group, target, where, depth + 1)
