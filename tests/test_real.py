"""A real recording, read, binned and decoded, against computations made here.

It has 30 units and 320 s of indy_20160927_04.
"""

from __future__ import annotations

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest

from bci_decode.data.binning import bin_session
from bci_decode.data.session import read_session


def test_counts_and_velocity_by_another_way(real_file):
    """Straight from HDF5, with numpy's histogram and every 16th sample."""
    with h5py.File(real_file) as file:
        t = file["t"][0]
        finger = -10 * file["finger_pos"][1:3].T
        cells = [file[file["spikes"][row, channel]] for channel in range(96) for row in range(5)]
        spikes = [cell[0] for cell in cells if "MATLAB_empty" not in cell.attrs]
    bins = (len(t) - 1) // 16
    edges = t[0] + 0.064 * np.arange(bins + 1)
    binned = bin_session(read_session(real_file), bin_width=0.064)
    np.testing.assert_array_equal(
        binned.counts, np.stack([np.histogram(s[s < edges[-1]], edges)[0] for s in spikes], axis=1)
    )
    velocity = np.diff(finger[::16][: bins + 1], axis=0) / 0.064
    # its clock is exact to 1e-8 s alone
    np.testing.assert_allclose(binned.kinematics, velocity, atol=0.05)
    assert binned.counts.shape == (5001, 30) and set(binned.units["row"]) == {1}


@pytest.mark.parametrize("model", ["gru", "lngru"])
def test_both_models_decode_it(real_file, tmp_path, model):
    arguments = [f"model={model}", "session=local", f"session.path={real_file}", "trainer.epochs=8"]
    done = subprocess.run(
        [sys.executable, "-m", "bci_decode.train", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "default" / real_file.stem / model / "seed0"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["scores"]["test"]["r2"] > 0.4
    assert metrics["protocol"]["units_used"] == 30
    with np.load(folder / "predictions.npz") as predictions:
        true, decoded = predictions["true"], predictions["decoded"]
    sse, sst = ((true - decoded) ** 2).sum(0), ((true - true.mean(0)) ** 2).sum(0)
    assert metrics["scores"]["test"]["r2"] == pytest.approx((1 - sse / sst).mean())
