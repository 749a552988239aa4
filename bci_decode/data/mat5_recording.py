"""Read a recording from a MATLAB file of version 5."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np

from bci_decode.data.mat5 import Array, read_arrays
from bci_decode.data.recording_variables import (
    VARIABLES,
    RawRecording,
    check_cell,
    check_cells,
    check_channels,
    check_clock_shape,
    check_names,
    check_size,
    check_variables,
    positions_read,
)
from bci_decode.data.series import zenodo_series
from bci_decode.errors import BciDecodeError


def read_mat5(path: Path) -> RawRecording:
    """Read the variables of a file of version 5; raises an error where it is a bad one."""
    inflated: dict[str, int] = {}

    def check_inflated(field: str, size: int) -> None:
        inflated[field] = size
        check_size(path, field, sum(inflated.values()))

    arrays, present = read_arrays(path, VARIABLES, check_inflated)
    check_variables(path, {name: array.kind for name, array in arrays.items()}, present)
    samples = check_clock_shape(path, arrays["t"].shape)
    shapes = {name: array.shape[::-1] for name, array in arrays.items()}
    columns = positions_read(path, shapes, samples)
    values = samples * (1 + sum(columns.values()))
    check_size(path, "t", 8 * values)
    t = arrays.pop("t").numbers().ravel().astype(np.float64)
    positions = {
        field: arrays.pop(field).numbers().T[:rows].astype(np.float64)
        for field, rows in columns.items()
    }
    channels = _channel_names(path, arrays["chan_names"])
    check_cells(path, arrays["spikes"].shape, len(channels))
    filled = _filled_cells(path, arrays["spikes"])
    lengths = [prod(cell.shape) for cell in filled.values()]
    check_size(path, "spikes", 8 * (values + sum(lengths)))
    spikes = np.empty(sum(lengths))
    for cell, end, length in zip(filled.values(), np.cumsum(lengths), lengths, strict=True):
        spikes[end - length : end] = cell.numbers().ravel()
    series = zenodo_series(path, positions)
    return RawRecording(t, series, channels, list(filled), spikes, lengths)


def _channel_names(path: Path, names: Array) -> list[str]:
    """Names from cells of characters, or from the rows of one array of characters."""
    check_channels(path, max(names.shape) if names.kind == "U" else prod(names.shape))
    rows = [names.rows()] if names.kind == "U" else [_text(path, cell) for cell in names.cells()]
    return check_names(path, [row.rstrip() for rows_ in rows for row in rows_])


def _text(path: Path, cell: Array) -> list[str]:
    if cell.kind != "U" or (0 not in cell.shape and cell.shape[0] != 1):
        problem = f"a cell holds {cell.class_} of shape {cell.shape}, not a row of characters"
        raise BciDecodeError(problem, file=path, field="chan_names")
    return cell.rows() or [""]


def _filled_cells(path: Path, spikes: Array) -> dict[tuple[int, int], Array]:
    """The cells that hold spikes, channel by channel."""
    channels, rows = spikes.shape
    stored = list(spikes.cells())  # row after row of all channels
    filled = {}
    for channel in range(channels):
        for row in range(rows):
            cell = stored[row * channels + channel]
            if 0 not in cell.shape:
                check_cell(path, (channel, row), cell.kind, cell.class_, cell.shape)
                filled[channel, row] = cell
    return filled
