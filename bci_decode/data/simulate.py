"""A simulated session: reaches on a grid, units tuned to them, a file like that of a recording.

Everything follows from the seed: movement -> tuning -> spike times -> file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from bci_decode.data.matfile import Cells, write_matfile
from bci_decode.data.simulated_movement import movement
from bci_decode.data.simulated_units import (
    ABRUPT,
    ROWS,
    SAMPLE,
    SLOW,
    Cell,
    DayChange,
    Tuning,
    first_day,
    next_day,
    spike_times,
)
from bci_decode.errors import BciDecodeError
from bci_decode.files import expand_user

log = logging.getLogger(__name__)

VERSION = 1  # of the generator; raise it with every change of its numbers
SNIPPET = 48  # samples of a waveform


@dataclass(frozen=True)
class Recording:
    """The variables of one file, in its units and column orders but not yet transposed.

    t (T,) s; cursor_pos, target_pos (T, 2) mm, x right and y away; finger_pos (T, 6): z, -x, -y in
    cm, then azimuth, elevation and roll in degrees; `spikes[channel][row]`: ascending times in s,
    empty without a unit. Waveforms are drawn from `waveform_seed` while the file is written, as
    millions of them would fill the memory; without that seed their cells are empty.
    """

    t: np.ndarray
    cursor_pos: np.ndarray
    target_pos: np.ndarray
    finger_pos: np.ndarray
    spikes: list[list[np.ndarray]]
    chan_names: list[str]
    waveform_seed: int | None = None


def simulated_session(
    folder: str | os.PathLike[str], *, seed: int, minutes: float, channels: int, day: int = 0
) -> Path:
    """The file of a simulated session in `folder`, made if it is absent.

    Its name tells the settings and the version of the generator, so that no file of an older
    version is read in its place. `day` as in `simulate_recording`.
    """
    settings: dict[str, Any] = {"seed": seed, "minutes": minutes, "channels": channels, "day": day}
    _check(**settings)
    name = f"simulated_v{VERSION}_seed{seed}_{minutes:g}min_{channels}ch" + f"_day{day}" * (day > 0)
    return simulated_file(expand_user(folder) / f"{name}.mat", **settings)


def simulated_day(
    folder: str | os.PathLike[str], *, seed: int, minutes: float, channels: int, day: int
) -> Path:
    """The file of one of many days of an array whose units change slowly, made if it is absent.

    Day 1 is the simulated session itself; see `simulated_units.SLOW` for the days after it.
    """
    settings: dict[str, Any] = {"seed": seed, "minutes": minutes, "channels": channels}
    _check(**settings, day=day, first=1)
    if day == 1:
        return simulated_session(folder, **settings)
    name = f"simulated_v{VERSION}_seed{seed}_{minutes:g}min_{channels}ch_slow_day{day:02d}"
    path = expand_user(folder) / f"{name}.mat"
    return simulated_file(path, **settings, day=day - 1, change=SLOW)


def simulated_days(
    folder: str | os.PathLike[str],
    days: int = 12,
    *,
    seed: int = 0,
    minutes: float = 7.0,
    channels: int = 96,
) -> list[Path]:
    """The files of the first days of an array, in order; see `simulated_day`."""
    array: dict[str, Any] = {"seed": seed, "minutes": minutes, "channels": channels}
    return [simulated_day(folder, **array, day=day) for day in range(1, days + 1)]


def simulated_file(
    path: str | os.PathLike[str],
    *,
    seed: int,
    minutes: float,
    channels: int,
    day: int = 0,
    change: DayChange = ABRUPT,
    waveforms: bool = False,
) -> Path:
    """Make the file of a simulated session; a file that exists already is left untouched."""
    path = Path(path)
    settings: dict[str, Any] = {"seed": seed, "minutes": minutes, "channels": channels, "day": day}
    _check(**settings)
    if not path.is_file():
        text = (
            "simulating %(minutes)g minutes of %(channels)d channels from seed %(seed)d: %(path)s"
        )
        log.info(text, settings | {"path": path})
        recording = simulate_recording(**settings, change=change, waveforms=waveforms)
        write_recording(path, recording)
    return path


def simulate_recording(
    *,
    seed: int = 0,
    minutes: float = 7.0,
    channels: int = 96,
    day: int = 0,
    change: DayChange = ABRUPT,
    waveforms: bool = False,
) -> Recording:
    """Simulate reaches and spikes; the same arguments give the same recording to the last bit.

    The session of a later `day`, counted from 0, is of the same array as the one of day 0 with the
    same other arguments: the reaches are new, and the units have changed by `change` every day.
    See `simulated_units.next_day`.
    """
    _check(seed, minutes, channels, day)
    rng = np.random.default_rng(seed)
    names = _channel_names(channels)
    clock, kinematics, drive = movement(rng, round(minutes * 60 / SAMPLE))
    units, spikes = first_day(rng, clock, drive, names)
    for later in range(1, day + 1):
        rng = np.random.default_rng([seed, later])
        units = next_day(rng, units, drive, names, change)
    if day:
        clock, kinematics, drive = movement(rng, round(minutes * 60 / SAMPLE))
        spikes = {cell: spike_times(rng, clock, unit.rates(drive)) for cell, unit in units.items()}
    cells = [[spikes.get((c, row), np.empty(0)) for row in range(ROWS)] for c in range(channels)]
    return Recording(
        *kinematics, spikes=cells, chan_names=names, waveform_seed=seed if waveforms else None
    )


def units_by_day(
    days: int, *, seed: int, minutes: float, channels: int, change: DayChange = SLOW
) -> list[dict[Cell, Tuning]]:
    """The units of an array on its first days, as the recordings of these settings have them."""
    _check(seed, minutes, channels, days)
    rng, names = np.random.default_rng(seed), _channel_names(channels)
    clock, _, drive = movement(rng, round(minutes * 60 / SAMPLE))
    found = [first_day(rng, clock, drive, names)[0]]
    for later in range(1, days):
        rng = np.random.default_rng([seed, later])
        found.append(next_day(rng, found[-1], drive, names, change))
    return found


def _channel_names(channels: int) -> list[str]:
    return [f"{'M1' if c < 96 else 'S1'} {c % 96 + 1:03d}" for c in range(channels)]


def _check(seed: int, minutes: float, channels: int, day: int = 0, first: int = 0) -> None:
    for key, value, kind, low, high in (
        ("seed", seed, Integral, 0, 2**32),
        ("minutes", minutes, Real, 0.05, 240),
        ("channels", channels, Integral, 1, 192),
        ("day", day, Integral, first, 1000),
    ):
        if isinstance(value, bool) or not (isinstance(value, kind) and low <= value <= high):
            remedy = f"give a{' whole' if kind is Integral else ''} number from {low} to {high}"
            raise BciDecodeError(
                f"{value!r} cannot be simulated", field=f"session.{key}", remedy=remedy
            )


def write_recording(path: str | os.PathLike[str], recording: Recording) -> None:
    """Write a recording as a MATLAB v7.3 file."""
    variables: dict[str, np.ndarray | Cells] = {
        "t": recording.t,
        "cursor_pos": recording.cursor_pos,
        "target_pos": recording.target_pos,
        "finger_pos": recording.finger_pos,
        "chan_names": [[name] for name in recording.chan_names],
        "spikes": recording.spikes,
        "wf": _waveforms(recording),
    }
    write_matfile(path, variables)


def _waveforms(recording: Recording) -> Iterator[Iterator[np.ndarray]]:
    """Waveforms (spikes, SNIPPET) in microvolt of each cell: a trough and a lower hump in noise."""
    seed, time = recording.waveform_seed, np.arange(SNIPPET, dtype=np.float32)[:, None]
    trough, hump = np.exp(-(((time - 14) / 3) ** 2)), np.exp(-(((time - 24) / 7) ** 2))
    rng = np.random.default_rng(seed)

    def draw(spikes: np.ndarray) -> np.ndarray:
        noise = rng.standard_normal((SNIPPET, 0 if seed is None else len(spikes)), np.float32)
        return (12 * noise + rng.uniform(40, 150) * (rng.uniform(0.2, 0.5) * hump - trough)).T

    return ((draw(spikes) for spikes in rows) for rows in recording.spikes)
