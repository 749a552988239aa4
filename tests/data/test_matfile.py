"""MATLAB files: what SciPy and hdf5storage read back, and what an interrupted write leaves."""

from __future__ import annotations

import numpy as np
import pytest
from recordings import read_mat73

from bci_decode.data.matfile import write_matfile


def test_other_software_reads_matrices_vectors_and_cells(tmp_path):
    matrix, times = np.arange(6.0).reshape(3, 2), np.array([0.5, 1.5])
    empty, single = np.empty(0), np.ones((2, 3), np.float32)
    cells = [["M1 001", times], ["é", empty], [single, single]]
    path = tmp_path / "folder" / "some.mat"
    write_matfile(path, {"matrix": matrix, "vector": times, "cells": cells})
    content = read_mat73(path)
    np.testing.assert_array_equal(content["matrix"], matrix)
    np.testing.assert_array_equal(content["vector"], times[:, None])
    assert content["cells"].shape == (3, 2)
    assert content["cells"][0, 0].item() == "M1 001" and content["cells"][1, 0].item() == "é"
    np.testing.assert_array_equal(content["cells"][0, 1], times[:, None])
    assert content["cells"][1, 1].size == 0
    np.testing.assert_array_equal(content["cells"][2, 0], single)
    assert content["cells"][2, 0].dtype == np.float32


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def interrupted_cells():
        yield [np.ones(3)]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_matfile(tmp_path / "never.mat", {"t": np.ones(3), "cells": interrupted_cells()})
    assert list(tmp_path.iterdir()) == []
