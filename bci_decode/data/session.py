"""A recording session in memory: the clock, the spikes of every unit and the hand's movement."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from bci_decode.data.clocks import check_same_clock
from bci_decode.data.recording_file import read_recording
from bci_decode.data.recording_variables import RawRecording
from bci_decode.data.series import Series
from bci_decode.errors import BciDecodeError
from bci_decode.files import expand_user, md5_of

MAX_STEP = 0.2  # s between two samples of t; a slower clock does not follow a hand


@dataclass(frozen=True, eq=False)
class Session:
    """One recording session: the spikes of every unit and the hand's movement on one clock.

    The clock is the recording's own, in seconds: `t` (T,) ticks at 250 Hz in the published
    recordings and does not start at 0. Spike times are on the same clock and may lie before `t[0]`
    and after `t[-1]`. `series` has the movements that the file holds by name, x to the right and y
    away from the animal: of a published recording "finger_pos" (T, 3) as x, y, z, "cursor_pos" and
    "target_pos" (T, 2) as x, y.

    `units` has a row for each cell that holds spikes, in the order of `spike_times`: `channel`
    (name), `area` ("M1", "S1"), `row` (0: unsorted hash, 1..: sorted units), `spikes` (their number
    from t[0] to t[-1]). `channels` names every electrode, silent ones included. `observed` (S, 2)
    are the intervals in s, one after the other, in which spikes were recorded; None: all the time.
    `trials` (R,) are the times in s at which trials begin; None where the file does not say.
    Nothing is derived, filtered or filled in.
    """

    name: str
    path: Path
    t: np.ndarray
    spike_times: tuple[np.ndarray, ...]
    units: pd.DataFrame
    channels: tuple[str, ...]
    series: Mapping[str, Series]
    observed: np.ndarray | None = None
    trials: np.ndarray | None = None

    @property
    def finger_pos(self) -> np.ndarray | None:
        """The finger's position (T, 3) in mm, if the file has it."""
        return self._values("finger_pos")

    @property
    def cursor_pos(self) -> np.ndarray | None:
        """The cursor's position (T, 2) in mm, if the file has it."""
        return self._values("cursor_pos")

    @property
    def target_pos(self) -> np.ndarray | None:
        """The target's position (T, 2) in mm, if the file has it."""
        return self._values("target_pos")

    @classmethod
    def from_arrays(
        cls,
        *,
        t: ArrayLike,
        spike_times: Sequence[ArrayLike] | None = None,
        position: ArrayLike | None = None,
        velocity: ArrayLike | None = None,
        channels: Sequence[str] | None = None,
        areas: Sequence[str] | None = None,
        name: str = "arrays",
        **others: ArrayLike,
    ) -> Session:
        """A session of arrays in memory: spikes, or counts, and the hand's movement.

        `t` (T,) are the times in s of the samples of `position` (T, 2) in mm, which becomes the
        series "finger_pos", or `velocity` (T, 2) in mm/s, which becomes "finger_vel".
        `spike_times` has an array of times in s for each unit. Instead of it, `counts` (B, N) of N
        units in B bins are given with `count_edges` (B + 1,), or with `count_times` (B,), the
        starts, and `bin_width`, in s. `channels` and `areas` name each unit's. The `others` are
        arrays as an `.npz` file has them, see docs/data.md. Raises `BciDecodeError` with the array
        at fault.
        """
        from bci_decode.data.array_recording import recording_of_arrays
        from bci_decode.data.arrays_given import checked_arrays

        given = {"t": t, "finger_pos": position, "finger_vel": velocity, **others}
        arrays = checked_arrays(name, spike_times, given | {"channels": channels, "areas": areas})
        return _session(recording_of_arrays(Path(name), arrays), Path(name), name)

    def save(self, path: str | Path) -> None:
        """Write the session as `.npz`, or in the Zenodo layout as `.mat`: see docs/data.md."""
        from bci_decode.data.save import save_session

        save_session(self, expand_user(path))

    def with_positions(self, **positions: np.ndarray) -> Session:
        """The same session with other positions, in mm: `with_positions(finger_pos=path)`."""
        changed = {name: Series(values) for name, values in positions.items()}
        return replace(self, series={**self.series, **changed})

    def _values(self, name: str) -> np.ndarray | None:
        return self.series[name].values if name in self.series else None

    @property
    def md5(self) -> str:
        """MD5 of the recording's file, or of the arrays of a session that was never in one."""
        if self.path != Path(self.name) or self.path.is_file():
            return md5_of(self.path)
        digest = hashlib.md5(usedforsecurity=False)
        for values in (self.t, *self.spike_times, *(one.values for one in self.series.values())):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    @property
    def duration(self) -> float:
        """Seconds from the first to the last sample."""
        return float(self.t[-1] - self.t[0])


def sources(session: Session) -> tuple[str, ...]:
    """The series of a session that can be decoded, the usual one first."""
    return tuple(name for name in session.series if name != "target_pos")


def source_series(session: Session, source: str) -> Series:
    """The series that `data.source` names; refused where the session has none of this name."""
    if source not in sources(session):
        raise BciDecodeError(
            f"is {source!r}, which is not in the recording",
            file=session.path,
            field="data.source",
            remedy="choose one of " + ", ".join(sources(session)),
        )
    return session.series[source]


def area_of(channel: str) -> str:
    """The area of a channel, the first word of its name: "M1 003" is in "M1"."""
    return channel.split(" ")[0]


def clock_gaps(t: np.ndarray) -> np.ndarray:
    """Indices of the samples before a gap, a step of more than one and a half usual ones."""
    steps = np.diff(t)
    return np.flatnonzero(steps > 1.5 * np.median(steps))


def read_session(path: str | Path, name: str | None = None, source: str | None = None) -> Session:
    """Read a `.mat` file in the Zenodo layout, an NWB 2 file or an `.npz` file as a `Session`.

    `path` may begin with `~`; `name` defaults to the file's name without its ending. `source` says
    which movement of an NWB file gives the clock, as such a file may have many on different clocks;
    it defaults to finger_pos. Waveforms are never read. Raises `BciDecodeError` where the file is
    missing, empty, cut short, not such a file, or where the clock or a shape is not as it must be.
    """
    path = expand_user(path)
    return _session(read_recording(path, source), path, name or path.stem)


def _session(raw: RawRecording, path: Path, name: str) -> Session:
    """A checked session of what a file holds."""
    _check_clock(path, raw)
    _check_spikes(path, raw)
    check_same_clock(path, raw.t, raw.spikes, raw.clock)
    ends = np.cumsum(raw.lengths, dtype=int)
    spike_times = tuple(np.split(raw.spikes, ends[:-1])) if raw.lengths else ()
    return Session(
        name=name,
        path=path,
        t=raw.t,
        spike_times=spike_times,
        units=_unit_table(raw, spike_times),
        channels=tuple(raw.channels),
        series=raw.series,
        observed=raw.observed,
        trials=raw.trials,
    )


def _check_clock(path: Path, raw: RawRecording) -> None:
    t = raw.t

    def bad_clock(problem: str, remedy: str) -> BciDecodeError:
        return BciDecodeError(problem, file=path, field=raw.clock, remedy=remedy)

    if not np.isfinite(t).all():
        first = int(np.argmin(np.isfinite(t)))
        raise bad_clock(f"is {t[first]} at sample {first}", "repair the clock")
    steps = np.diff(t)
    if steps.min() <= 0:
        first = int(np.argmax(steps <= 0))
        raise bad_clock(
            f"does not increase from sample {first} ({t[first]:.10g} s) "
            f"to {first + 1} ({t[first + 1]:.10g} s)",
            "cut or repair the recording there",
        )
    if np.median(steps) > MAX_STEP:
        raise bad_clock(
            f"steps by {np.median(steps):.6g}, as if in samples or milliseconds",
            f"give it in seconds, a sample every {MAX_STEP:g} s at least",
        )


def _check_spikes(path: Path, raw: RawRecording) -> None:
    finite = np.isfinite(raw.spikes)
    if not finite.all():
        unit = int(np.searchsorted(np.cumsum(raw.lengths), np.argmin(finite), side="right"))
        field = raw.cell_name(unit)
        raise BciDecodeError(
            "NaN or Inf among the times", file=path, field=field, remedy="remove it"
        )


def _unit_table(raw: RawRecording, spike_times: tuple[np.ndarray, ...]) -> pd.DataFrame:
    start, stop = raw.t[0], raw.t[-1]
    channels = [raw.channels[channel] for channel, _ in raw.cells]
    return pd.DataFrame(
        {
            "channel": channels,
            "area": [area_of(channel) for channel in channels],
            "row": [row for _, row in raw.cells],
            "spikes": [
                int(np.count_nonzero((times >= start) & (times <= stop))) for times in spike_times
            ],
        }
    )
