"""Record a live stream as a session file that `data.session.read_session` opens.

Shapes: E events, N units, T bins, D axes of the target.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from bci_decode.data.simulate import SAMPLE, Recording, write_recording
from bci_decode.errors import BciDecodeError
from bci_decode.files import expand_user
from bci_decode.realtime.bins import Decoded
from bci_decode.realtime.stream.journal import Journal, read_journal

log = logging.getLogger(__name__)


class Recorder:
    """A sink that records spikes and movement as a session file.

    The file holds the spikes that were counted, by channel and row; `finger_pos` is the true
    movement where the source knows it, `cursor_pos` the decoded one, `target_pos` is unknown (NaN).
    Both are positions: decoded velocity is integrated from 0, as a cursor that it moves; of
    acceleration there is none (NaN). Movement lies `lag` after the spikes it belongs to, so that
    binned with the settings of the run, the file has the same bins and counts, but for units that
    never fired. After a restart of the clock, times follow those before.

    `events` takes the spikes as they come (`SpikeBinner.on_events`). Without it, for a source of
    counts, spikes lie evenly within their bin: set `from_counts`.

    While the stream runs, everything is appended to a journal beside the file, `FILE.journal`;
    `close` makes the file of it. After a kill the journal has all but the last second, and the next
    `Recorder` of the same name, or `recover`, makes the file FILE_recovered.mat.
    """

    def __init__(
        self,
        file: str | Path,
        units: pd.DataFrame,
        bin_width: float,
        *,
        lag: float = 0.0,
        target: str = "velocity",
        from_counts: bool = False,
    ) -> None:
        self.path = _session_path(file)
        self._from_counts, self._bin_width = from_counts, bin_width
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._shift, self._last = 0, (-1, -math.inf)  # shift in bins; index and time of a bin
        self._lock = _locked(self.path)
        try:
            recover(self.path)
            header = {
                "units": units[["channel", "row"]].values.tolist(),
                "bin_width": bin_width,
                "lag": lag,
                "target": target,
            }
            self._journal: Journal | None = Journal(journal_of(self.path), header)
        except BaseException:
            _release(self._lock)
            raise

    def events(self, times: np.ndarray, columns: np.ndarray) -> None:
        """Take counted spikes, times (E,) in s and columns (E,); they are written with a bin."""
        self._waiting.append((times, columns.copy()))

    def write(self, decoded: Decoded) -> None:
        """Append the bin, and the spikes since the one before."""
        journal, bin_ = self._journal, decoded.bin
        if journal is None:
            return
        index, time = self._last
        if bin_.time <= time:  # the clock was restarted
            self._shift += round((time - bin_.time) / self._bin_width) + bin_.index - index
        self._last = bin_.index, bin_.time
        end = bin_.time + self._shift * self._bin_width
        if self._from_counts:
            journal.events(*even_events(bin_.counts, end - self._bin_width, end))
        for times, columns in self._waiting:
            journal.events(times, columns)
        self._waiting.clear()
        true = np.full(len(decoded.output), np.nan) if bin_.true is None else bin_.true
        journal.bin(np.array([bin_.index, end]), decoded.output, true)

    def close(self) -> None:
        """Make the session file of the journal."""
        journal, self._journal = self._journal, None
        if journal is None:
            return
        try:
            for times, columns in self._waiting:
                journal.events(times, columns)
            journal.close()
            convert(journal.path, self.path)
        finally:
            _release(self._lock)


def journal_of(path: Path) -> Path:
    """The journal beside a recording."""
    return path.with_name(path.name + ".journal")


def recover(path: Path) -> Path | None:
    """Make a session file of the journal that a killed recording of `path` left, if there is one.

    The file is named after `path`, with "_recovered" and, if need be, a number.
    """
    journal = journal_of(path)
    if not journal.exists():
        return None
    names = (f"{path.stem}_recovered{number or ''}.mat" for number in range(1000))
    file = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    if convert(journal, file):
        log.warning("%s: a stream was killed while it recorded; recovered as %s", path, file)
        return file
    return None


def convert(journal: Path, file: Path) -> bool:
    """Turn a journal into a session file and remove it; False if it holds no bin."""
    header, events, bins = read_journal(journal)
    if len(bins):
        write_recording(file, _recording(header, events, bins))
    else:
        log.warning("%s: no bin was recorded, so no file is written", file)
    journal.unlink()
    return bool(len(bins))


def even_events(counts: np.ndarray, start: float, stop: float) -> tuple[np.ndarray, np.ndarray]:
    """Times and columns of as many spikes as `counts` (N,) tell, each unit's evenly within a bin.

    They stand for spikes whose times are unknown.
    """
    whole = np.asarray(counts).astype(np.intp)
    columns = np.repeat(np.arange(len(whole)), whole)
    first = np.cumsum(whole) - whole
    place = np.arange(len(columns)) - first[columns]
    return start + (stop - start) * (place + 0.5) / whole[columns], columns


def _recording(header: dict[str, Any], events: np.ndarray, bins: np.ndarray) -> Recording:
    width, lag = header["bin_width"], header["lag"]
    index, ends = bins[:, 0], bins[:, 1]
    follows = np.append(False, np.diff(index) == 1)
    starts = np.where(follows, np.roll(ends, 1), ends - width)
    t = _clock(starts, ends, width, lag)
    decoded, true = np.split(bins[:, 2:], 2, axis=1)
    moved = [
        _positions(values, starts, ends, header["target"], width, lag, t)
        for values in (true, decoded)
    ]
    finger = np.full((len(t), 6), np.nan)  # z, -x, -y in cm, then angles
    finger[:, 1:3] = -0.1 * moved[0]
    names = list(dict.fromkeys(channel for channel, _ in header["units"]))
    return Recording(
        t=t,
        cursor_pos=moved[1],
        target_pos=np.full((len(t), 2), np.nan),
        finger_pos=finger,
        spikes=_cells(header["units"], names, events),
        chan_names=names,
    )


def _clock(starts: np.ndarray, ends: np.ndarray, width: float, lag: float) -> np.ndarray:
    """Samples at every edge and, about 4 ms apart, between; none where bins are missing.

    Whole bins are added before or after, so that the movement `lag` after each bin has samples.
    """
    around = math.ceil(abs(lag) / width - 1e-6)
    more = width * np.arange(1, around + 1)
    if lag < 0:
        edges = np.append(starts[0] - more[::-1], starts[0])
        starts, ends = np.append(edges[:-1], starts), np.append(edges[1:], ends)
    elif around:
        edges = np.append(ends[-1], ends[-1] + more)
        starts, ends = np.append(starts, edges[:-1]), np.append(ends, edges[1:])
    each = math.ceil(width / SAMPLE - 1e-6)
    inside = starts[:, None] + (ends - starts)[:, None] * (np.arange(each) / each)
    return np.unique(np.append(inside.ravel(), ends))


def _positions(
    values: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    target: str,
    width: float,
    lag: float,
    t: np.ndarray,
) -> np.ndarray:
    """x and y in mm (len(t), 2) from the kinematics (T, D) of bins; they stand still outside."""
    if target == "acceleration":
        return np.full((len(t), 2), np.nan)
    times, path = ends, values[:, :2]
    if target == "velocity":
        times = np.append(starts[0], ends)
        path = width * np.concatenate([0.0 * path[:1], path]).cumsum(axis=0)  # NaN stays NaN
    return np.stack([np.interp(t - lag, times, axis) for axis in path.T], axis=1)


def _cells(units: list, names: list[str], events: np.ndarray) -> list[list[np.ndarray]]:
    """Ascending spike times by channel and row; merged rows are in row 0."""
    order = np.lexsort((events["time"], events["column"]))
    cuts = np.searchsorted(events["column"][order], np.arange(len(units) + 1))
    rows = max(1, *(row + 1 for _, row in units)) if units else 1
    cells = [[np.empty(0)] * rows for _ in names]
    for number, (channel, row) in enumerate(units):
        times = events["time"][order[cuts[number] : cuts[number + 1]]]
        cells[names.index(channel)][max(row, 0)] = times
    return cells


def _session_path(file: str | Path) -> Path:
    path = expand_user(file)
    if path.suffix != ".mat":
        remedy = "a session file ends in .mat"
        raise BciDecodeError("is not the name of a session", file=path, remedy=remedy)
    if path.exists():
        raise BciDecodeError("exists already", file=path, remedy="choose another name to record")
    if not path.parent.is_dir():
        remedy = "make it, or choose another place"
        raise BciDecodeError("no such folder", file=path.parent, remedy=remedy)
    return path


def _locked(path: Path) -> FileLock:
    """Keep the journal from another stream that records to the same file."""
    lock = FileLock(path.with_name(path.name + ".lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        remedy = "choose another name to record"
        raise BciDecodeError("another stream records it", file=path, remedy=remedy) from error
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise BciDecodeError(problem, file=path, remedy="choose another place") from error
    return lock


def _release(lock: FileLock) -> None:
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)
