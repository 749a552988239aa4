"""Ridge regression on stacked history, for many penalties at once and without the stacked matrix.

Shapes: T bins, N units, L bins of history, D axes, K columns. The stacked matrix A (T, L N) has the
counts of the current bin and of the L - 1 bins before it in each row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Of the gradient at the solution to that at zero. A float32 product carries seven digits.
TOLERANCE = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-10}
GROWTH = 64  # steps for which memory is added at once


class StackedHistory:
    """The stacked matrix A (T, L N) of scaled counts (T, N): products with it, but never itself.

    Bins before the first one are zero. Weights are (L, N, K), lag 0 first. All products are in the
    type of `counts`. With `rows` (T',), A has these rows alone, which is then its T.
    """

    def __init__(self, counts: np.ndarray, history: int, rows: np.ndarray | None = None):
        self.counts, self.history, self.rows = counts, history, rows

    def __len__(self) -> int:
        return len(self.counts if self.rows is None else self.rows)

    def times(self, weights: np.ndarray) -> np.ndarray:
        """A times weights (L, N, K): (T, K)."""
        lags, units, columns = weights.shape
        side_by_side = weights.transpose(1, 0, 2).reshape(units, -1)
        products = self.counts @ side_by_side.astype(self.counts.dtype)  # (T, L K)
        total = products[:, :columns].astype(np.float64)
        for lag in range(1, min(lags, len(total))):
            total[lag:] += products[:-lag, lag * columns : (lag + 1) * columns]
        return total if self.rows is None else total[self.rows]

    def transposed_times(self, values: np.ndarray) -> np.ndarray:
        """The transpose of A times values (T, K): (L, N, K)."""
        if self.rows is not None:
            given, values = values, np.zeros((len(self.counts), values.shape[1]))
            values[self.rows] = given
        bins, columns = values.shape
        shifted = np.zeros((bins, self.history, columns), self.counts.dtype)
        for lag in range(min(self.history, bins)):
            shifted[: bins - lag, lag] = values[lag:]
        product = self.counts.T @ shifted.reshape(bins, -1)  # (N, L K)
        shape = len(product), self.history, columns
        return product.reshape(shape).transpose(1, 0, 2).astype(np.float64)


class _Krylov:
    """The bidiagonal form of the centered A, grown from one target per axis.

    After k steps A V = U B, with orthonormal V (L N, k) and U (T, k + 1) and with B (k + 1, k)
    lower bidiagonal. V is kept and made orthogonal again in each step, U is not needed. `gradient`
    (D,) is the norm of the gradient at the solution for the penalty `alpha`, relative to that at
    zero.
    """

    def __init__(self, stacked: StackedHistory, target: np.ndarray, alpha: float):
        self.stacked, self.alpha = stacked, alpha
        self.steps = 0
        self.pivot, self.right, self.gradient = (np.zeros(target.shape[1]) for _ in range(3))
        self.u, first = _normalized(target)
        v, diagonal = _normalized(self._transposed(self.u))
        self.below, self.diagonal = [first], [diagonal]  # each (D,)
        self.basis = np.empty((target.shape[1], GROWTH, len(v)))
        self.basis[:, 0] = v.T

    def step(self) -> None:
        """One more column of V and B (Golub and Kahan 1965; Paige and Saunders 1982)."""
        v = self.basis[:, self.steps].T
        product = self._times(v) - self.u * self.diagonal[-1]
        self.u, below = _normalized(product)
        self.steps += 1
        if self.steps == self.basis.shape[1]:
            added = np.empty_like(self.basis[:, :GROWTH])
            self.basis = np.concatenate([self.basis, added], axis=1)
        following = self._transposed(self.u) - v * below
        known = self.basis[:, : self.steps]
        scale = np.linalg.norm(following, axis=0)
        for axis in range(following.shape[1]):
            for _ in range(2):  # twice is enough (Giraud et al. 2005)
                following[:, axis] -= known[axis].T @ (known[axis] @ following[:, axis])
        v, diagonal = _normalized(following, floor=1e-13 * scale)
        self.basis[:, self.steps] = v.T
        self.below.append(below)
        self.diagonal.append(diagonal)
        self._eliminate()

    def _eliminate(self) -> None:
        """One more row of the Cholesky solution of (B'B + alpha) y = B'u, and the gradient.

        The gradient at V y has only a part along the next column of V, which the last y gives.
        """
        start, beside = self.diagonal[0], self.diagonal[-2] * self.below[-2]
        own = self.diagonal[-2] ** 2 + self.below[-1] ** 2 + self.alpha
        if self.steps == 1:
            self.pivot, self.right = own, start
        else:
            self.right = -_ratio(beside * self.right, self.pivot)
            self.pivot = own - _ratio(beside**2, self.pivot)
        last = _ratio(self.right, self.pivot)
        self.gradient = _ratio(abs(last * self.below[-1] * self.diagonal[-1]), start)

    def solutions(self, alphas: Sequence[float]) -> np.ndarray:
        """The weights (A, L N, D) for all penalties, from one decomposition of B per axis."""
        k = self.steps
        weights = np.empty((len(alphas), self.basis.shape[2], self.basis.shape[0]))
        below, diagonal = np.array(self.below), np.array(self.diagonal)
        for axis in range(len(self.basis)):
            bidiagonal = np.zeros((k + 1, k))
            bidiagonal[range(k), range(k)] = diagonal[:k, axis]
            bidiagonal[range(1, k + 1), range(k)] = below[1:, axis]
            left, singular, right = np.linalg.svd(bidiagonal, full_matrices=False)
            kept = singular > np.finfo(float).eps * k * singular[0]
            for number, alpha in enumerate(alphas):
                filtered = np.zeros(k)
                filtered[kept] = singular[kept] / (singular[kept] ** 2 + alpha)
                y = right.T @ (filtered * left[0] * below[0, axis])
                weights[number, :, axis] = self.basis[axis, :k].T @ y
        return weights

    def _times(self, v: np.ndarray) -> np.ndarray:
        weights = v.reshape(self.stacked.history, -1, v.shape[1])
        product = self.stacked.times(weights)
        return product - product.mean(axis=0)

    def _transposed(self, u: np.ndarray) -> np.ndarray:
        return self.stacked.transposed_times(u).reshape(-1, u.shape[1])


def _normalized(columns: np.ndarray, floor: np.ndarray | float = 0.0):
    """Columns of length 1 and their lengths; one not longer than `floor` becomes 0."""
    lengths = np.linalg.norm(columns, axis=0)
    lengths = np.where(lengths > floor, lengths, 0.0)
    return columns * np.where(lengths > 0, 1 / np.where(lengths > 0, lengths, 1), 0), lengths


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Their ratio, and 0 where both vanish because nothing is left to explain."""
    safe = np.where(denominator == 0, 1.0, denominator)
    return np.where(denominator == 0, 0.0, numerator / safe)


def ridge_path(
    stacked: StackedHistory, target: np.ndarray, alphas: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Ridge weights (A, L, N, D) and intercepts (A, D) for each of A penalties.

    The target is (T, D). The solutions for all penalties lie in one Krylov space, so A is applied
    as often as the smallest penalty needs (hybrid LSQR: O'Leary and Simmons 1981). Intercepts are
    not penalized.
    """
    mean = target.mean(axis=0)
    krylov = _Krylov(stacked, target - mean, min(alphas))
    units = stacked.counts.shape[1]
    for _ in range(min(len(stacked), stacked.history * units)):
        krylov.step()
        if krylov.gradient.max() <= TOLERANCE[stacked.counts.dtype]:
            break
    weights = krylov.solutions(alphas)
    weights = weights.reshape(len(alphas), stacked.history, units, target.shape[1])
    columns = weights.transpose(1, 2, 0, 3).reshape(stacked.history, units, -1)
    decoded_mean = stacked.times(columns).mean(axis=0).reshape(len(alphas), -1)
    return weights, mean - decoded_mean
