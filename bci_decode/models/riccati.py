"""Covariances and gains of a Kalman filter, in the size of its state.

All N observations of a bin act on the state through the S numbers s = H' Q^-1 z alone, and through
M = H' Q^-1 H (S, S). With the covariance P of the predicted state, G = (1 + P M)^-1 P is both the
covariance of the corrected state and the gain on s: x = x_predicted + G (s - M x_predicted). P may
be singular; the usual form P H' (H P H' + Q)^-1 needs a matrix (N, N) for every bin.
"""

from __future__ import annotations

import numpy as np

CONVERGED = 1e-12  # change of a covariance, relative to its largest entry
MOST_DOUBLINGS = 60


def corrected_covariance(predicted: np.ndarray, information: np.ndarray) -> np.ndarray:
    """G (S, S) from the covariance P of the predicted state and M."""
    corrected = np.linalg.solve(np.eye(len(predicted)) + predicted @ information, predicted)
    return (corrected + corrected.T) / 2


def steady_state_covariance(
    transition: np.ndarray, noise: np.ndarray, information: np.ndarray
) -> np.ndarray:
    """The covariance P of the predicted state after infinitely many bins.

    It solves P = A (1 + P M)^-1 P A' + W by doubling: k rounds reach bin 2^k (Anderson 1978). The
    noise W may be singular, as it is where one part of the state is the sum or the difference of
    another.
    """
    a, g, p = transition.T, information, noise
    for _ in range(MOST_DOUBLINGS):
        inverse = np.linalg.inv(np.eye(len(p)) + g @ p)
        added = a.T @ p @ inverse @ a
        g = g + a @ inverse @ g @ a.T
        a = a @ inverse @ a
        g, p = (g + g.T) / 2, p + (added + added.T) / 2
        if np.abs(added).max() <= CONVERGED * np.abs(p).max():
            break
    return p


def gains(
    transition: np.ndarray,
    noise: np.ndarray,
    information: np.ndarray,
    prior: np.ndarray,
    bins: int,
) -> np.ndarray:
    """G (K, S, S) of the first bins, from the prior's covariance on.

    K is `bins`, or fewer: from bin K on the gain does not change any more.
    """
    predicted, found = prior, [corrected_covariance(prior, information)]
    while len(found) < bins:
        predicted = transition @ found[-1] @ transition.T + noise
        found.append(corrected_covariance(predicted, information))
        change = np.abs(found[-1] - found[-2]).max()
        if change <= CONVERGED * np.abs(found[-1]).max():
            break
    return np.stack(found)
