"""Read one Zenodo primate-reaching recording, a MATLAB file, into memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from bci_decode.errors import BciDecodeError

# What a session is read from. `wf`, the waveforms, is nine tenths of a file and is never touched.
POSITIONS = {
    "cursor_pos": (2,),
    "target_pos": (2,),
    "finger_pos": (3, 6),
}  # rows allowed; finger: z, -x, -y, angles
SLOWEST = 0.2  # s between two samples of t; a hand sampled more slowly than that is not followed
VARIABLES = ("t", "chan_names", "spikes", *POSITIONS)


@dataclass(frozen=True, eq=False)
class Session:
    """One recording session: the spikes of every unit and the hand's movement on one clock.

    The clock is the recording's own, in seconds: `t` (T,) ticks at 250 Hz and does not start at 0. Spike times
    are on the same clock and may lie before `t[0]` and after `t[-1]`. Positions are in mm, x to the right and y away
    from the animal: `finger_pos` (T, 3) as x, y, z, `cursor_pos` (T, 2) and `target_pos` (T, 2) as x, y.

    `units` has a row for each cell that holds spikes, in the order of `spike_times`: `channel` (name), `area`
    ("M1", "S1"), `row` (0: unsorted hash, 1..: sorted units), `spikes` (their number from t[0] to t[-1]).
    `channels` names every electrode, silent ones included. Nothing is derived, filtered or filled in.
    """

    name: str
    path: Path
    t: np.ndarray
    spike_times: tuple[np.ndarray, ...]
    units: pd.DataFrame
    channels: tuple[str, ...]
    finger_pos: np.ndarray
    cursor_pos: np.ndarray
    target_pos: np.ndarray

    @property
    def duration(self) -> float:
        """Seconds from the first to the last sample."""
        return float(self.t[-1] - self.t[0])


def area_of(channel: str) -> str:
    """The area of a channel, the first word of its name: "M1 003" is in "M1"."""
    return channel.split(" ")[0]


def clock_gaps(t: np.ndarray) -> np.ndarray:
    """Indices of the samples that a gap follows: a step of more than one and a half usual ones."""
    steps = np.diff(t)
    return np.flatnonzero(steps > 1.5 * np.median(steps))


def read_session(path: str | Path, name: str | None = None) -> Session:
    """Read a `.mat` file in the Zenodo layout, v7.3 (HDF5) or older, as a `Session`.

    `name` defaults to the file's name without its ending. Waveforms are never read. Raises `BciDecodeError`
    where the file is missing, empty, cut short, not such a file, or where `t` or a shape is not as it must be.
    """
    path = Path(path)
    reader = _reader_for(path)
    try:
        raw = reader(path)
    except BciDecodeError:
        raise
    except Exception as error:  # both libraries raise many kinds at a damaged file, down to zlib.error and TypeError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BciDecodeError(
            f"cannot be read ({reason})",
            file=path,
            remedy="it is damaged or cut short, fetch it again",
        ) from error
    _check_clock(path, raw.t)
    return _assemble(path, name or path.stem, raw)


@dataclass
class _Raw:
    """What both file formats are brought to: numbers as stored (rows, T), spikes of all cells in one flat array."""

    t: np.ndarray  # (T,)
    positions: dict[str, np.ndarray]  # name -> (rows, T)
    channels: list[str]
    cells: list[tuple[int, int]]  # (channel, row) of each cell that holds spikes
    spikes: np.ndarray  # all spike times, cell after cell
    lengths: list[int]  # spikes in each cell


def _reader_for(path: Path):
    if not path.exists():
        raise BciDecodeError(
            "no such file", file=path, remedy="check the path, or download the session first"
        )
    if path.is_dir():
        raise BciDecodeError("is a folder", file=path, remedy="name one .mat file in it")
    try:
        with path.open("rb") as file:
            head = file.read(128)
    except OSError as error:
        raise BciDecodeError(
            f"cannot be opened ({error.strerror})", file=path, remedy="check its permissions"
        ) from error
    if not head:
        raise BciDecodeError("is empty", file=path, remedy="fetch it again")
    if h5py.is_hdf5(path):
        return _read_hdf5
    if head.startswith(b"MATLAB 5.0 MAT-file"):
        return _read_mat5
    if head.startswith(b"MATLAB 7.3"):
        raise BciDecodeError("is cut short", file=path, remedy="fetch it again")
    raise BciDecodeError(
        "is not a MATLAB file of version 7.3 (HDF5) or 5",
        file=path,
        remedy="save it in MATLAB with '-v7.3'",
    )


def _read_hdf5(path: Path) -> _Raw:
    with h5py.File(path, "r") as file:
        _check_variables(path, file)
        positions = {}
        for field in POSITIONS:
            _check_position(path, field, file[field].shape, file["t"].size)
            positions[field] = file[field][
                : min(POSITIONS[field])
            ]  # the finger's angles stay on disk
        channels = [
            "".join(map(chr, file[ref][()].ravel())) for ref in file["chan_names"][()].ravel()
        ]
        references = file["spikes"][()]  # (rows, channels): MATLAB's arrays come transposed
        _check_cells(path, references.shape[::-1], len(channels))
        datasets = _filled_cells(path, file, references)
        lengths = [dataset.get_space().get_simple_extent_npoints() for _, dataset in datasets]
        spikes = np.empty(sum(lengths))
        ends = np.cumsum(lengths)
        for (_, dataset), end, length in zip(datasets, ends, lengths, strict=True):
            dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, spikes[end - length : end])
        t = file["t"][()].ravel().astype(np.float64, copy=False)
    return _Raw(t, positions, channels, [cell for cell, _ in datasets], spikes, lengths)


def _filled_cells(
    path: Path, file: h5py.File, references: np.ndarray
) -> list[tuple[tuple[int, int], h5py.h5d.DatasetID]]:
    """The cells that hold spikes, channel by channel.

    Only the attribute MATLAB_empty tells an empty cell, whose dataset holds its MATLAB dimensions, from a
    unit with two spikes: both have two values. Low-level h5py, since its high level costs more than the reading.
    """
    found = []
    for (channel, row), ref in np.ndenumerate(references.T):
        if not ref:  # a null reference: written by no MATLAB, but means the same
            continue
        dataset = h5py.h5r.dereference(ref, file.id)
        if (
            h5py.h5a.exists(dataset, b"MATLAB_empty")
            and h5py.Dataset(dataset).attrs["MATLAB_empty"]
        ):
            continue
        shape = dataset.shape
        if 0 in shape:
            continue
        if dataset.dtype.kind not in "fiu" or max(shape, default=0) != np.prod(shape):
            raise _bad_cell(path, channel, row, f"{dataset.dtype} of shape {shape}")
        found.append(((channel, row), dataset))
    return found


def _read_mat5(path: Path) -> _Raw:
    from scipy.io import loadmat

    file = loadmat(path, variable_names=VARIABLES)
    _check_variables(path, file)
    t = file["t"].ravel().astype(np.float64)
    positions = {}
    for field in POSITIONS:
        _check_position(path, field, file[field].shape[::-1], t.size)
        positions[field] = file[field].T[: min(POSITIONS[field])].astype(np.float64)
    channels = [str(name.item()) for name in file["chan_names"].ravel()]
    _check_cells(path, file["spikes"].shape, len(channels))
    cells, times = [], []
    for (channel, row), cell in np.ndenumerate(file["spikes"]):
        if cell.size == 0:
            continue
        if cell.dtype.kind not in "fiu" or max(cell.shape) != cell.size:
            raise _bad_cell(path, channel, row, f"{cell.dtype} of shape {cell.shape}")
        cells.append((channel, row))
        times.append(cell.ravel())
    spikes = np.concatenate(times, dtype=np.float64) if times else np.empty(0)
    return _Raw(t, positions, channels, cells, spikes, [cell.size for cell in times])


def _check_variables(path: Path, file) -> None:
    missing = [field for field in VARIABLES if field not in file]
    if missing:
        raise BciDecodeError(
            f"missing from the file, which has {', '.join(sorted(k for k in file if k[0] not in '#_')) or 'nothing'}",
            file=path,
            field=", ".join(missing),
            remedy="a recording of the Zenodo layout has " + ", ".join(VARIABLES),
        )
    for field in VARIABLES:
        kinds = "O" if field in ("spikes", "chan_names") else "fiu"
        dtype = getattr(file[field], "dtype", None)  # a group, a MATLAB struct, has none
        if dtype is None or dtype.kind not in kinds:
            wanted = "a cell array" if kinds == "O" else "an array of real numbers"
            raise BciDecodeError(
                f"is not {wanted}", file=path, field=field, remedy="save it again as such"
            )
    if np.prod(file["t"].shape, dtype=int) < 2:
        raise BciDecodeError(
            "has less than two samples", file=path, field="t", remedy="a recording needs more"
        )


def _check_position(path: Path, field: str, shape: tuple[int, ...], samples: int) -> None:
    """`shape` is (rows, samples)."""
    if len(shape) != 2 or shape[0] not in POSITIONS[field] or shape[1] != samples:
        columns = " or ".join(map(str, POSITIONS[field]))
        raise BciDecodeError(
            f"is {' x '.join(map(str, shape[::-1])) or 'one number'} in MATLAB's order, not {samples} x {columns}",
            file=path,
            field=field,
            remedy="it needs a row for each sample of t",
        )


def _check_cells(path: Path, shape: tuple[int, ...], channels: int) -> None:
    """`shape` is (channels, rows)."""
    if len(shape) != 2 or shape[0] != channels:
        raise BciDecodeError(
            f"is {' x '.join(map(str, shape))} cells for {channels} channel names",
            file=path,
            field="spikes",
            remedy="it needs a row of cells for each channel",
        )


def _bad_cell(path: Path, channel: int, row: int, what: str) -> BciDecodeError:
    return BciDecodeError(
        f"holds {what}, not a vector of times",
        file=path,
        field=f"spikes{{{channel + 1},{row + 1}}}",
    )


def _check_clock(path: Path, t: np.ndarray) -> None:
    if not np.isfinite(t).all():
        first = int(np.argmin(np.isfinite(t)))
        raise BciDecodeError(
            f"is {t[first]} at sample {first}", file=path, field="t", remedy="repair the clock"
        )
    steps = np.diff(t)
    if steps.min() <= 0:
        first = int(np.argmax(steps <= 0))
        raise BciDecodeError(
            f"does not increase from sample {first} ({t[first]:.10g} s) to {first + 1} ({t[first + 1]:.10g} s)",
            file=path,
            field="t",
            remedy="cut or repair the recording there",
        )
    if np.median(steps) > SLOWEST:
        raise BciDecodeError(
            f"steps by {np.median(steps):.6g}, as if in samples or milliseconds",
            file=path,
            field="t",
            remedy="give it in seconds; recordings have 250 samples in each",
        )


def _assemble(path: Path, name: str, raw: _Raw) -> Session:
    if not np.isfinite(raw.spikes).all():
        unit = int(
            np.searchsorted(
                np.cumsum(raw.lengths), np.argmin(np.isfinite(raw.spikes)), side="right"
            )
        )
        channel, row = raw.cells[unit]
        raise BciDecodeError(
            "NaN or Inf among the times",
            file=path,
            field=f"spikes{{{channel + 1},{row + 1}}}",
            remedy="remove it",
        )
    ends = np.cumsum(raw.lengths, dtype=int)
    spike_times = tuple(np.split(raw.spikes, ends[:-1])) if raw.lengths else ()
    start, stop = raw.t[0], raw.t[-1]
    units = pd.DataFrame(
        {
            "channel": [raw.channels[channel] for channel, _ in raw.cells],
            "area": [area_of(raw.channels[channel]) for channel, _ in raw.cells],
            "row": [row for _, row in raw.cells],
            "spikes": [
                int(np.count_nonzero((times >= start) & (times <= stop))) for times in spike_times
            ],
        }
    )
    z, minus_x, minus_y = raw.positions["finger_pos"]  # cm
    finger_pos = np.stack([minus_x * -10.0, minus_y * -10.0, z * 10.0], axis=1)
    return Session(
        name=name,
        path=path,
        t=raw.t,
        spike_times=spike_times,
        units=units,
        channels=tuple(raw.channels),
        finger_pos=finger_pos,
        cursor_pos=np.ascontiguousarray(raw.positions["cursor_pos"].T),
        target_pos=np.ascontiguousarray(raw.positions["target_pos"].T),
    )
