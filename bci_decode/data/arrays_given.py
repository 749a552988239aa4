"""The arrays that a caller hands over as a recording: known names, and numbers or texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bci_decode.data.array_recording import NUMBERS, TEXTS, is_movement
from bci_decode.errors import BciDecodeError


def checked_arrays(name: str, trains: Any, given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What was given, without None, as arrays of float64 or text; `trains`: the spikes by unit.

    `name` is that of the session. Raises `BciDecodeError` with the argument at fault.
    """
    found = {key: value for key, value in given.items() if value is not None}
    arrays = {key: _array(name, key, value) for key, value in found.items()}
    for key in arrays:
        if key not in (*NUMBERS, *TEXTS) and not is_movement(key.removesuffix("_unit")):
            remedy = f"choose among {', '.join((*NUMBERS, *TEXTS))}, <name>_pos and <name>_vel"
            raise BciDecodeError("has no meaning", file=name, field=key, remedy=remedy)
    if trains is None:
        return arrays
    if not isinstance(trains, (list, tuple)) and np.ndim(trains) == 0:
        problem, remedy = f"is {trains!r:.40}", "give an array of times for each unit"
        raise BciDecodeError(problem, file=name, field="spike_times", remedy=remedy)
    units = [
        _array(name, f"spike_times[{unit}]", times).ravel() for unit, times in enumerate(trains)
    ]
    ends = np.cumsum([len(times) for times in units])
    return arrays | {"spike_times": np.concatenate([*units, np.empty(0)]), "spike_index": ends}


def _array(name: str, key: str, value: Any) -> np.ndarray:
    remedy = "give texts" if key in TEXTS else "give numbers of one shape"
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise BciDecodeError("is no array", file=name, field=key, remedy=remedy) from error
    if array.dtype.kind in "iubf" and key not in TEXTS:
        return array.astype(np.float64)
    if array.dtype.kind not in "US" or key.startswith("spike_times"):
        raise BciDecodeError(f"holds {array.dtype}", file=name, field=key, remedy=remedy)
    return array
