"""The mean of a velocity over bins, and the path that it describes."""

from __future__ import annotations

import numpy as np

from bci_decode.data.velocity import integrated, mean_velocity

T = np.arange(11) / 10
EDGES = np.array([0.0, 0.25, 0.5, 0.75, 1.0])


def test_the_mean_of_a_ramp_is_its_middle():
    ramp = np.stack([T, -2 * T], axis=1)
    middle = (EDGES[1:] + EDGES[:-1]) / 2
    np.testing.assert_allclose(mean_velocity(ramp, T, EDGES), np.stack([middle, -2 * middle], 1))


def test_bins_with_an_unknown_part_are_unknown_and_no_others():
    ramp = np.stack([T, T], axis=1)
    ramp[6, 0] = np.nan  # 0.5 to 0.7 s
    known = np.isfinite(mean_velocity(ramp, T, EDGES)).all(axis=1)
    np.testing.assert_array_equal(known, [True, True, False, True])


def test_a_path_stands_still_where_its_velocity_is_unknown():
    velocity = np.ones((11, 2))
    velocity[5] = np.nan
    path = integrated(velocity, T)
    assert np.isnan(path[5]).all()
    np.testing.assert_allclose(path[[4, 6, 10], 0], [0.4, 0.4, 0.8])
