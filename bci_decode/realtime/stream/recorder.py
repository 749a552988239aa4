"""Record a live stream as a session file that `data.session.read_session` opens.

Shapes: E events, N units, T bins, D axes of the target.
"""

from __future__ import annotations

import logging
import math
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from bci_decode.data.simulate import write_recording
from bci_decode.errors import BciDecodeError
from bci_decode.files import check_writable, expand_user
from bci_decode.realtime.bins import Decoded
from bci_decode.realtime.stream.journal import Journal, read_journal
from bci_decode.realtime.stream.recording import even_events, recording_of

log = logging.getLogger(__name__)


class Recorder:
    """A sink that records spikes and movement as a session file.

    The file holds the spikes that were counted, by channel and row, not those that were dropped;
    `finger_pos` is the true movement where the source knows it, `cursor_pos` the decoded one,
    `target_pos` is unknown (NaN). Both are positions: decoded velocity is integrated from 0, as a
    cursor that it moves; of acceleration there is none (NaN). Movement lies `lag` after the spikes
    it belongs to, so that binned with the settings of the run, the file has the same bins and
    counts, but for units that never fired. After a restart of the clock, times follow those before.

    `events` takes the spikes as they are counted (`SpikeBinner.on_events`). Without it, for a
    source of counts, spikes lie evenly within their bin: set `from_counts`.

    While the stream runs, everything is appended to a journal beside the file, `FILE.journal`;
    `close` makes the file of it. After a kill the journal has all but the last second, and the next
    `Recorder` in the same folder, or `recover`, makes the file FILE_recovered.mat.
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
        self.path = check_recording(file)
        self._from_counts, self._bin_width = from_counts, bin_width
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._shift, self._last = 0, (-1, -math.inf)  # shift in bins; index and time of a bin
        self._lock = _locked(self.path)
        try:
            recover(self.path)
            _recover_others(self.path.parent)
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
            with closing(journal):
                for times, columns in self._waiting:
                    journal.events(times, columns)
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


def _recover_others(folder: Path) -> None:
    """Recover all recordings in a folder that no stream writes to; what is damaged is left."""
    for journal in sorted(folder.glob("*.mat.journal")):
        path = journal.with_suffix("")
        lock = FileLock(lock_of(path), timeout=0)
        with suppress(Timeout, OSError):  # its stream is running
            lock.acquire()
            try:
                if journal.exists():
                    recover(path)
            except BciDecodeError as error:
                log.warning("not recovered: %s", error)
            finally:
                _release(lock)


def convert(journal: Path, file: Path) -> bool:
    """Turn a journal into a session file and remove it; False if it holds no bin."""
    header, events, bins = read_journal(journal)
    if len(bins):
        write_recording(file, recording_of(header, events, bins))
    else:
        log.warning("%s: no bin was recorded, so no file is written", file)
    journal.unlink()
    return bool(len(bins))


def check_recording(file: str | Path) -> Path:
    """The path of a recording; refused where it cannot be made."""
    path = expand_user(file)
    if path.suffix != ".mat":
        remedy = "a session file ends in .mat"
        raise BciDecodeError("is not the name of a session", file=path, remedy=remedy)
    if path.exists():
        raise BciDecodeError("exists already", file=path, remedy="choose another name to record")
    if not path.parent.is_dir():
        remedy = "make it, or choose another place"
        raise BciDecodeError("no such folder", file=path.parent, remedy=remedy)
    check_writable(path.parent, "choose another place to record")
    return path


def lock_of(path: Path) -> Path:
    """The lock file that the stream of a recording holds."""
    return path.with_name(path.name + ".lock")


def _locked(path: Path) -> FileLock:
    """Keep the journal from another stream that records to the same file."""
    lock = FileLock(lock_of(path), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        remedy = "choose another name to record"
        raise BciDecodeError("another stream records it", file=path, remedy=remedy) from error
    return lock


def _release(lock: FileLock) -> None:
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)
