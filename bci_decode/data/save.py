"""Write a session as arrays (`.npz`) or in the Zenodo layout (`.mat`)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from bci_decode.data.array_recording import is_movement
from bci_decode.data.matfile import write_matfile
from bci_decode.data.recording_variables import POSITIONS
from bci_decode.data.series import Series
from bci_decode.data.session import Session
from bci_decode.data.velocity import integrated
from bci_decode.errors import BciDecodeError
from bci_decode.files import written_whole

log = logging.getLogger(__name__)


def save_session(session: Session, path: Path) -> list[str]:
    """Write a session, as the ending of `path`, .npz or .mat, says; returns the movements in it."""
    writers = {".npz": _write_npz, ".mat": _write_mat}
    if path.suffix.lower() not in writers:
        remedy = "end it with .mat or .npz"
        raise BciDecodeError(
            "is no file that a session can be written to", file=path, remedy=remedy
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    return writers[path.suffix.lower()](session, path)


def _write_npz(session: Session, path: Path) -> list[str]:
    arrays = {
        "t": session.t,
        "spike_times": np.concatenate([*session.spike_times, np.empty(0)]),
        "spike_index": np.cumsum([len(times) for times in session.spike_times]),
        "channels": np.array(session.units["channel"], "U"),
        "rows": session.units["row"].to_numpy(),
        "electrodes": np.array(session.channels, "U"),
    }
    for name, series in session.series.items():
        key = name.rsplit("/", 1)[-1]
        if not is_movement(key):
            key += "_vel" if series.order else "_pos"
        arrays[key] = series.values
        if series.unit is not None:
            arrays[f"{key}_unit"] = np.array(series.unit)
    for key, value in (("observed", session.observed), ("trials", session.trials)):
        if value is not None:
            arrays[key] = value
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return [name for name in arrays if is_movement(name)]


def _write_mat(session: Session, path: Path) -> list[str]:
    """The Zenodo layout has positions only, so a velocity is integrated.

    Where no spikes were recorded the positions are NaN. The times of trials are left out.
    """
    unknown = _not_observed(session)
    positions: dict[str, np.ndarray] = {}
    for name in sorted(session.series, key=lambda name: name not in POSITIONS):
        field = name if name in POSITIONS else "cursor_pos" if "cursor" in name else "finger_pos"
        if field in positions:
            continue
        series = session.series[name]
        positions[field] = np.where(unknown[:, None], np.nan, _position(session, series))
        if series.unit is not None:
            log.warning(
                "%s: %s of %s has no unit of length or speed (%s), but this layout means mm",
                path, field, name, series.unit,
            )  # fmt: skip
    if "finger_pos" in positions:
        x, y, *z = positions["finger_pos"].T
        columns = [*(depth / 10 for depth in z), x / -10, y / -10]
        positions["finger_pos"] = np.stack(columns, axis=1)
    for field in ("cursor_pos", "target_pos"):
        if field in positions:
            positions[field] = np.ascontiguousarray(positions[field][:, :2])
    rows = int(session.units["row"].max()) + 1 if len(session.units) else 1
    cells = {name: [np.empty(0)] * rows for name in session.channels}
    for channel, row, times in zip(
        session.units["channel"], session.units["row"], session.spike_times, strict=True
    ):
        cells[channel][row] = times
    names = [[name] for name in session.channels]
    variables: dict[str, Any] = {
        "t": session.t,
        **positions,
        "chan_names": names,
        "spikes": list(cells.values()),
    }
    write_matfile(path, variables)
    return list(positions)


def _position(session: Session, series: Series) -> np.ndarray:
    return integrated(series.values, session.t) if series.order else series.values


def _not_observed(session: Session) -> np.ndarray:
    """The samples (T,) outside all intervals in which spikes were recorded."""
    if session.observed is None:
        return np.zeros(len(session.t), bool)
    starts, stops = np.append(session.observed, [[np.inf, -np.inf]], axis=0).T
    latest = np.searchsorted(starts, session.t, side="right") - 1  # -1: the one that is appended
    return session.t > stops[latest]
