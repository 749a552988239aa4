"""The movements of an NWB file: where they are, their clocks, and their values in mm or mm/s."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bci_decode.data.hdf5_tree import Hdf5Tree
from bci_decode.data.series import MAX_POSITION, MAX_VALUE, Series, check_places
from bci_decode.data.units_of_measure import in_mm
from bci_decode.errors import BciDecodeError

DEEP = 3  # levels of groups below a processing module, or below acquisition
MAX_SERIES = 1000  # that are looked at
MAX_COLUMNS = 32  # more are no movement, not even one with columns and rows exchanged
READ = 3  # columns that are read: x, y, z
SHOWN = 20  # series in an error
OTHER_TYPES = ("ElectricalSeries", "ImageSeries", "AnnotationSeries", "IntervalSeries")
SECONDS = ("", "s", "sec", "second", "seconds")
CHOOSE = "choose one with data.source=NAME (inspect: --source NAME)"


@dataclass(frozen=True)
class Place:
    """Where a movement is: a series with columns, or a container with a series for each axis."""

    where: str
    axes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.where.rsplit("/", 1)[-1]


def places(tree: Hdf5Tree) -> list[Place]:
    """All series below /processing and /acquisition that may be movements."""
    found: list[Place] = []
    for root in (*(f"processing/{name}" for name in tree.members("processing")), "acquisition"):
        _look(tree, root, DEEP, found)
    return found


def _look(tree: Hdf5Tree, where: str, deep: int, found: list[Place]) -> bool:
    """Add the movements at `where` and below it; whether it is a series with one axis."""
    members = tree.members(where)
    if "data" in members and {"timestamps", "starting_time"} & set(members):
        shape = tree.shape(f"{where}/data") or ()
        kept = not tree.text(where, "neurodata_type").endswith(OTHER_TYPES)
        if kept and (len(shape) == 1 or (len(shape) == 2 and min(shape) <= MAX_COLUMNS)):
            found.append(Place(where, (where,)))
            return len(shape) == 1 or shape[1] == 1
        return False
    if not deep or len(found) > MAX_SERIES:
        return False
    below = [f"{where}/{name}" for name in members]
    single = [_look(tree, one, deep - 1, found) for one in below]
    if len(below) > 1 and all(single) and where.count("/"):
        found.append(Place(where, tuple(below)))
    return False


def place_named(tree: Hdf5Tree, there: list[Place], source: str) -> Place:
    """The movement that `source`, a name or a path in the file, means."""
    wanted = source.strip("/")
    found = [place for place in there if place.where == wanted]
    found = found or [place for place in there if place.name == wanted]
    if not found:  # the container of one series
        inside = [p for p in there if wanted in (p.where.rsplit("/", 1)[0], p.where.split("/")[-2])]
        found = inside if len(inside) == 1 else []
    if len(found) == 1:
        return found[0]
    if found:
        problem = f"is {source!r}, which is in several places: "
        problem += ", ".join(place.where for place in found[:SHOWN])
        remedy = "choose one with data.source=PATH (inspect: --source PATH)"
    else:
        listed = "; ".join(_described(tree, place) for place in there[:SHOWN])
        more = f" and {len(there) - SHOWN} more" * (len(there) > SHOWN)
        problem = f"is {source!r}, the file has {listed + more or 'no series'}"
        remedy = CHOOSE
    raise BciDecodeError(problem, file=tree.path, field="data.source", remedy=remedy)


def _described(tree: Hdf5Tree, place: Place) -> str:
    """ "processing/behavior/cursor_pos (650000 x 2, mm, 1000 Hz)"."""
    first = place.axes[0]
    shape = tree.shape(f"{first}/data") or ()
    size = f"{shape[0]} x {len(place.axes) * max(shape[1:], default=1)}"
    unit = tree.text(f"{first}/data", "unit") or "no unit"
    rate = _rate(tree, first)
    return f"{place.where} ({size}, {unit}" + f", {rate:.4g} Hz" * bool(rate) + ")"


def _rate(tree: Hdf5Tree, where: str) -> float:
    """The rate in Hz of a series' first samples; 0 where it is not known."""
    t = tree.numbers(f"{where}/timestamps", rows=SHOWN)
    if t is None:
        return tree.number(f"{where}/starting_time", "rate", 0.0)
    seconds = float(t[-1] - t[0]) if t.ndim == 1 and len(t) > 1 else 0.0
    return (len(t) - 1) / seconds if seconds > 1e-9 else 0.0


def clock(tree: Hdf5Tree, where: str, shape: tuple[int, ...]) -> np.ndarray:
    """The times (T,) in s of the samples of a series whose data has this shape."""
    samples = shape[0] if shape else 0
    timestamps = f"{where}/timestamps"
    stamped = tree.dataset(timestamps) is not None
    given = timestamps if stamped else f"{where}/starting_time"
    unit = tree.text(given, "unit")
    if unit.lower() not in SECONDS:
        raise tree.error(given, f"is in {unit!r}", "NWB counts seconds: convert it")
    if not stamped:
        start = tree.numbers(given)
        rate = tree.number(given, "rate", np.nan)
        if start is None or start.size != 1 or not rate > 0:
            raise tree.error(given, "has no time or no rate", "write timestamps instead")
        tree.take(given, 8 * samples)
        return start.ravel()[0] + np.arange(samples) / rate
    length = (tree.shape(timestamps) or (0,))[0]
    if length != samples:
        problem = f"is {' x '.join(map(str, shape))} for {length} timestamps"
        turned = len(shape) == 2 and shape[1] == length
        remedy = "NWB has time first: transpose it" if turned else "repair it"
        raise tree.error(f"{where}/data", problem, remedy)
    t = tree.numbers(timestamps)
    if t is None or t.ndim != 1:
        raise tree.error(timestamps, "is not a list of times", "repair it")
    return t


def place_clock(tree: Hdf5Tree, place: Place) -> np.ndarray:
    """The clock (T,) that all axes of a movement have."""
    first, *others = (
        clock(tree, axis, tree.shape(f"{axis}/data") or ()) for axis in place.axes[:READ]
    )
    if len(first) < 2:
        raise tree.error(place.where, "has less than two samples", "a recording needs more")
    for axis, other in zip(place.axes[1:], others, strict=False):
        if not np.array_equal(first, other):
            problem = f"mixed clocks: {axis.rsplit('/', 1)[-1]} has other times than "
            problem += place.axes[0].rsplit("/", 1)[-1]
            raise tree.error(place.where, problem, "bring both onto one clock")
    return first


def read_place(tree: Hdf5Tree, place: Place) -> Series:
    """The values of a movement in mm or mm/s, or in the file's unit where it is neither."""
    parts = [_axis(tree, axis) for axis in place.axes[:READ]]
    units = {unit for _, unit in parts}
    if len(units) > 1:
        problem = f"has axes in {' and '.join(sorted(units))}"
        raise tree.error(place.where, problem, "bring them into one unit")
    values = np.ascontiguousarray(np.concatenate([values for values, _ in parts], axis=1))
    (unit,) = units
    if values.shape[1] < 2:
        raise tree.error(place.where, "has one column", "x and y are decoded: choose a series of 2")
    known = in_mm(unit)
    scale, order = known or (1.0, _order_by_name(tree, place))
    if order > 1:
        raise tree.error(place.where, "is an acceleration", "choose a velocity or a position")
    values *= scale
    shown = ("mm", "mm/s")[order] if known else unit or "no unit"
    check_places(tree.path, place.where, values, MAX_POSITION if known else MAX_VALUE, shown)
    return Series(values, order, None if known else shown)


def _axis(tree: Hdf5Tree, where: str) -> tuple[np.ndarray, str]:
    """The values (T, C) of a series in the unit that it states, and this unit."""
    data = f"{where}/data"
    values = tree.numbers(data, READ)
    if values is None:
        raise tree.error(data, "is not an array of real numbers", "save it again as such")
    values = values.reshape(len(values), -1)
    conversion = tree.number(data, "conversion", 1.0)
    if conversion != 1.0:
        values *= conversion
    values += tree.number(data, "offset", 0.0)
    return values, tree.text(data, "unit")


def _order_by_name(tree: Hdf5Tree, place: Place) -> int:
    """The order of derivative of a movement without a unit, by its name or its container's."""
    for name in reversed(place.where.lower().split("/")[-2:]):
        for word, order in (("pos", 0), ("vel", 1), ("speed", 1), ("acc", 2)):
            if word in name:
                return order
    return 0
