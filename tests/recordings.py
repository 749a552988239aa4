"""Recordings for the tests, in the Zenodo layout.

hdf5storage, no code of this project, writes the files. The environment variable BCI_DECODE_REAL
names the file of the real excerpt; without the file, the tests that need it are skipped.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np

from bci_decode.data.session import Series

ROOT = Path(__file__).resolve().parents[1]
_EXCERPT = ROOT.parent / "shared" / "real" / "indy_20160927_04_30units.mat"
REAL = Path(os.environ.get("BCI_DECODE_REAL") or _EXCERPT)


def positions(**series: np.ndarray) -> dict[str, Series]:
    """The series of a session from positions in mm: `positions(finger_pos=path)`."""
    return {name: Series(values) for name, values in series.items()}


def recording(
    channels=4, rows=3, samples=2500, start=4644.642, finger_columns=3, seed=0
) -> dict[str, np.ndarray]:
    """The variables of a recording with the shapes that MATLAB gives them.

    k x columns, cells channels x rows, times nspikes x 1. The hand circles; unit (c, r) fires at
    random at 5 (r + 1) Hz from 1 s before to 1 s after the recording; one cell is empty in each of
    MATLAB's ways.
    """
    rng = np.random.default_rng(seed)
    t = start + 0.004 * np.arange(samples)
    angle = 2 * np.pi * 0.7 * (t - start)
    x, y = 40 * np.cos(angle), 60 + 30 * np.sin(angle)  # mm
    finger = np.zeros((samples, finger_columns))
    finger[:, :3] = np.stack([np.full(samples, -30.0), -x / 10, -y / 10], axis=1)  # cm: z, -x, -y
    spikes = np.empty((channels, rows), dtype=object)
    for channel, row in np.ndindex(channels, rows):
        count = int(5 * (row + 1) * (t[-1] - start + 2))
        spikes[channel, row] = np.sort(rng.uniform(start - 1, t[-1] + 1, count))[:, None]
    for row, shape in enumerate(((0, 0), (0, 1), (1, 0))[:rows]):
        spikes[channels - 1, row] = np.zeros(shape)
    half = channels // 2 if channels == 192 else channels
    names = [f"M1 {i + 1:03d}" if i < half else f"S1 {i - half + 1:03d}" for i in range(channels)]
    return {
        "t": t[:, None],
        "cursor_pos": np.stack([x, y], axis=1),
        "target_pos": np.stack([np.repeat(7.5, samples), np.repeat(22.5, samples)], axis=1),
        "finger_pos": finger,
        "spikes": spikes,
        "chan_names": np.array(names, dtype=object)[:, None],
    }


def write_mat73(path: Path, variables: dict[str, np.ndarray]) -> Path:
    with _hdf5storage() as library:
        library.savemat(
            str(path),
            variables,
            format="7.3",
            oned_as="row",
            store_python_metadata=False,
            matlab_compatible=True,
        )
    return path


def read_mat73(path: Path | str) -> dict[str, np.ndarray]:
    with _hdf5storage() as library:
        return library.loadmat(str(path))


@contextmanager
def _hdf5storage() -> Iterator[ModuleType]:
    """The library, which warns of deprecated parts of NumPy or distutils in some versions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield importlib.import_module("hdf5storage")
