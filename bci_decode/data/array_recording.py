"""A recording from arrays: what their names and shapes mean, in an `.npz` file or in memory.

Shapes: T samples, N units, B bins, S spikes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bci_decode.data.counts import spread_spikes
from bci_decode.data.nwb_units import WITHOUT_ELECTRODE
from bci_decode.data.recording_variables import (
    MAX_CELLS,
    RawRecording,
    check_channels,
    check_names,
    check_size,
)
from bci_decode.data.series import MAX_POSITION, MAX_VALUE, Series, check_places
from bci_decode.data.units_of_measure import in_mm
from bci_decode.errors import BciDecodeError

MOVEMENTS = ("_pos", "_vel")  # how their names end; the order of derivative
UNITS = ("mm", "mm/s")  # where the file names none
TEXTS = ("channels", "areas", "electrodes")
BINS = ("counts", "count_edges", "count_times", "bin_width")
NUMBERS = ("t", "spike_times", "spike_index", *BINS, "rows", "trials", "observed")
MAX_IN_BIN = 1e6  # spikes of a unit in a bin
Arrays = Mapping[str, np.ndarray]


def is_movement(name: str) -> bool:
    """Whether an array of this name is a movement, "hand_vel" say."""
    return name.endswith(MOVEMENTS)


def recording_of_arrays(path: Path, arrays: Arrays) -> RawRecording:
    """The recording that named arrays are; `path` stands in messages.

    Numbers are float64, texts of kind U or S. Raises `BciDecodeError` with the array at fault.
    """
    t = _vector(path, arrays, "t")
    if len(t) < 2:
        raise _error(path, "t", "has less than two samples", "a recording needs more")
    spikes, lengths = _spikes(path, arrays)
    if len(lengths) > MAX_CELLS:
        raise _error(path, "spike_index", f"has {len(lengths)} units, more than {MAX_CELLS}")
    channels, cells = _cells(path, arrays, len(lengths))
    series = {name: _series(path, arrays, name, len(t)) for name in arrays if is_movement(name)}
    if not any(name != "target_pos" for name in series):
        remedy = "give positions (T, 2) as finger_pos, or velocities as finger_vel"
        raise _error(path, "finger_pos", f"missing; there are {', '.join(arrays)}", remedy)
    filled = np.flatnonzero(lengths)
    return RawRecording(
        t,
        series,
        channels,
        [cells[unit] for unit in filled],
        spikes,
        lengths[filled].tolist(),
        _intervals(path, arrays),
        np.unique(_vector(path, arrays, "trials")) if "trials" in arrays else None,
        names=[f"spike_times of unit {unit}" for unit in filled],
    )


def _error(path: Path, field: str, problem: str, remedy: str | None = None) -> BciDecodeError:
    return BciDecodeError(problem, file=path, field=field, remedy=remedy)


def _vector(path: Path, arrays: Arrays, name: str) -> np.ndarray:
    if name not in arrays:
        there = ", ".join(list(arrays)[:20]) or "nothing"
        raise _error(path, name, f"missing; there are {there}", "see docs/data.md, Arrays")
    values = arrays[name]
    if values.size != max(values.shape, default=1):
        raise _error(path, name, f"is {_shape(values)}", "it needs to be a vector")
    return values.ravel()


def _shape(values: np.ndarray) -> str:
    return " x ".join(map(str, values.shape))


def _spikes(path: Path, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Spike times (S,), unit after unit, and the number (N,) of each unit."""
    if ("counts" in arrays) == ("spike_times" in arrays):
        both = "counts" in arrays
        problem = "given beside spike_times" if both else "missing, and counts too"
        remedy = "give spike_times with spike_index, or counts with count_edges"
        raise _error(path, "counts" if both else "spike_times", problem, remedy)
    if "counts" in arrays:
        return _spikes_of_counts(path, arrays)
    times, ends = _vector(path, arrays, "spike_times"), _vector(path, arrays, "spike_index")
    lengths = np.diff(ends, prepend=0)
    total = ends[-1] if len(ends) else 0
    if (ends % 1).any() or (lengths < 0).any() or total != len(times):
        problem = f"does not divide the {len(times)} values of spike_times"
        remedy = "give the place after each unit's last spike: np.cumsum of the numbers of spikes"
        raise _error(path, "spike_index", problem, remedy)
    if not total:
        raise _error(path, "spike_times", "there are units without spikes only", "give some")
    return times, lengths.astype(int)


def _spikes_of_counts(path: Path, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """As many spikes as were counted, evenly spread within each bin."""
    counts = arrays["counts"]
    if counts.ndim != 2 or not counts.size:
        raise _error(path, "counts", f"is {_shape(counts)}", "it needs a row for each bin")
    bad = ~((counts >= 0) & (counts <= MAX_IN_BIN) & (np.floor(counts) == counts))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        problem = f"is {counts[row, column]:g} in bin {row} of unit {column}"
        raise _error(path, "counts", problem, "give whole numbers of spikes")
    starts, stops = _bins(path, arrays, len(counts))
    total = float(counts.sum())
    if not total:
        raise _error(path, "counts", "is 0 throughout", "give counts of spikes")
    if path.is_file():
        check_size(path, "counts", int(8 * (total + counts.size)))
    return spread_spikes(counts.astype(np.int64), starts, stops), counts.sum(axis=0).astype(int)


def _bins(path: Path, arrays: Arrays, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Start and end (B,) of each bin in s."""
    if "count_edges" in arrays:
        field, edges = "count_edges", _vector(path, arrays, "count_edges")
        starts, stops, needed = edges[:-1], edges[1:], bins + 1
    else:
        field, edges = "count_times", _vector(path, arrays, "count_times")
        width = _vector(path, arrays, "bin_width")
        if len(width) != 1 or not 0 < width[0] < np.inf:
            raise _error(path, "bin_width", "is no number of seconds", "give one, above 0")
        starts, stops, needed = edges, edges + width[0], bins
    if len(edges) != needed:
        raise _error(path, field, f"has {len(edges)} times", f"{bins} bins need {needed}")
    if not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        raise _error(path, field, "does not increase", "repair it")
    return starts, stops


def _cells(path: Path, arrays: Arrays, units: int) -> tuple[list[str], list[tuple[int, int]]]:
    """The names of all channels, and channel and row of each unit."""
    given = _texts(path, arrays, "channels", units)
    names = given or [f"{WITHOUT_ELECTRODE} {unit:03d}" for unit in range(units)]
    if areas := _texts(path, arrays, "areas", units):
        words = ["_".join(area.split()) or "unknown" for area in areas]
        names = [
            name if name.split(" ")[0] == area else f"{area} {name}"
            for area, name in zip(words, names, strict=True)
        ]
    everywhere = _texts(path, arrays, "electrodes", None) or []
    channels = list(dict.fromkeys([*everywhere, *names]))
    numbers = {name: number for number, name in enumerate(channels)}
    seen: Counter[str] = Counter()
    seen_rows = []
    for name in names:
        seen[name] += 1
        seen_rows.append(seen[name])
    rows = np.array(seen_rows)
    if "rows" in arrays:
        rows = _vector(path, arrays, "rows")
        if len(rows) != units or not ((rows >= 0) & (rows < MAX_CELLS) & (rows % 1 == 0)).all():
            problem, remedy = f"is no row for each of {units} units", "give 0 for hash, 1, 2, ..."
            raise _error(path, "rows", problem, remedy)
    cells = [(numbers[name], int(row)) for name, row in zip(names, rows, strict=True)]
    if len(set(cells)) < len(cells):
        (channel, row), _ = Counter(cells).most_common(1)[0]
        problem = f"has {channels[channel]} row {row} twice"
        raise _error(path, "rows", problem, "units of a channel need different rows")
    return channels, cells


def _texts(path: Path, arrays: Arrays, name: str, units: int | None) -> list[str] | None:
    if name not in arrays:
        return None
    values = arrays[name].ravel()
    check_channels(path, len(values), name)
    if units is not None and len(values) != units:
        raise _error(path, name, f"has {len(values)} names", f"give one for each of {units} units")
    texts = [
        value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        for value in values.tolist()
    ]
    return check_names(path, texts, name)


def _series(path: Path, arrays: Arrays, name: str, samples: int) -> Series:
    values = arrays[name]
    if values.ndim != 2 or len(values) != samples or values.shape[1] not in (2, 3):
        remedy = f"it needs x and y, and perhaps z, for each of {samples} samples of t"
        raise _error(path, name, f"is {_shape(values)}", remedy)
    order = MOVEMENTS.index(name[-4:])
    given = arrays.get(f"{name}_unit")
    unit = UNITS[order] if given is None else str(given.ravel()[0]) if given.size == 1 else ""
    found = in_mm(unit)
    if found is not None and found[1] != order:
        raise _error(path, f"{name}_unit", f"is {unit}", f"{name} needs a unit like {UNITS[order]}")
    check_names(path, [unit], f"{name}_unit")
    values = np.ascontiguousarray(values * (1.0 if found is None else found[0]))
    most = MAX_VALUE if found is None else MAX_POSITION
    check_places(path, name, values, most, unit if found is None else UNITS[order])
    return Series(values, order, (unit or "no unit") if found is None else None)


def _intervals(path: Path, arrays: Arrays) -> np.ndarray | None:
    if "observed" not in arrays:
        return None
    found = arrays["observed"]
    good = found.ndim == 2 and found.shape[1] == 2 and np.isfinite(found).all()
    if not good or (np.diff(found.ravel()) < 0).any():
        problem = "holds no intervals (start, stop) in s, one after the other"
        raise _error(path, "observed", problem, "repair it")
    return found
