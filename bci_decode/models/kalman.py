"""The Kalman filter of the hand's kinematics, with spike counts as observations.

Shapes: T bins, N units, D axes, S numbers in the state.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np

from bci_decode.errors import BciDecodeError
from bci_decode.models.closed_form import ClosedForm, Stretches, joined, known_stretches
from bci_decode.models.riccati import corrected_covariance, gains, steady_state_covariance

KINEMATICS = ("position", "velocity", "acceleration")  # each is the derivative of the one before
SINGULAR = 1e-9  # smallest eigenvalue of a correlation matrix that the filter still divides by


class KalmanFilter(ClosedForm):
    """Linear dynamics of the state, and counts that depend linearly on it (Wu et al. 2006).

        x[t] = A x[t-1] + w,  w ~ N(0, W)        z[t] = b + H x[t] + q,  q ~ N(0, Q)

    Least squares fits A, W, H and Q to the training part. `state` names the kinematics in x:
    position, velocity and acceleration, or velocity alone as in Gilja et al. 2012. `target` names
    the one that y is. The others are its running sum and its difference from bin to bin, so no
    other trace is needed. `lag` bins lie between a bin of counts and the state that it observes;
    spikes precede the hand.

    Everything in x is standardized in training. A running sum is that of y without its mean: a
    position without its slow drift, which ends where it began. In decoding it is no sum of decoded
    velocities, whose errors would add up without bounds. It is a part of the state, which A moves
    and the counts correct: with the steady-state gain K, an error passes on through (1 - K H) A.
    The stabilizing solution of the Riccati equation keeps the spectral radius of that matrix,
    `spectral_radius_`, below 1, so a stream of any length stays bounded; `fit` refuses a filter
    where it is not. It is often close to 1, as the counts tell little of a position.

    Where the movement is unknown, and after a gap, a running sum begins again, and no transition
    leads across.

    The filter starts from its prior, mean and covariance of the state in training, never from the
    true state. With `steady_state` its gain is constant, and outputs differ from the optimal ones
    until the start is forgotten. A unit that never changes in training is left out. `shrinkage`,
    0 to 1, moves Q towards its diagonal, which makes it invertible where units are copies of
    others or more than there are bins.
    """

    def __init__(
        self,
        state: Sequence[str] = KINEMATICS,
        target: str = "velocity",
        lag: int = 0,
        steady_state: bool = True,
        shrinkage: float = 0.0,
    ):
        self.state = state
        self.target = target
        self.lag = lag
        self.steady_state = steady_state
        self.shrinkage = shrinkage

    def _fit(self, stretches: Stretches, validation: Stretches | None) -> None:
        self._check_settings()
        stretches = known_stretches(stretches)  # no bin follows another across a gap
        y = joined([y for _, y in stretches])
        mean, std = _mean_and_std(y)
        # a difference from bin to bin is not known in the first bin, one of differences in two
        highest = max(KINEMATICS.index(name) for name in self.state)
        first = max(highest - KINEMATICS.index(self.target), self.lag)
        pairs = []
        for X, y_of in stretches:
            traces = kinematic_traces((y_of - mean) / std, self.target)
            states = np.concatenate([traces[name] for name in self.state], axis=1)[first:]
            pairs.append((states, X[first - self.lag : len(X) - self.lag]))
        pairs = [pair for pair in pairs if len(pair[0])] if len(pairs) > 1 else pairs
        if sum(len(states) - 1 for states, _ in pairs) < 2:  # transitions
            problem = f"{len(y)} bins (n_samples={len(y)}) are too few"
            if not self.lag:
                raise ValueError(problem)
            raise BciDecodeError(
                f"is {self.lag}, for which {problem}", field="model.lag", remedy="choose fewer bins"
            )
        center, scale = _mean_and_std(joined([states for states, _ in pairs]))
        scaled = [(states - center) / scale for states, _ in pairs]
        self._fit_dynamics(scaled)
        counts = joined([counts for _, counts in pairs])
        self._fit_observations(joined(scaled), counts.astype(np.float64))
        self._fix_gain()
        axes = y.shape[1]
        self.first_output_ = list(self.state).index(self.target) * axes
        output = slice(self.first_output_, self.first_output_ + axes)
        self.output_mean_ = mean + std * center[output]
        self.output_std_ = std * scale[output]

    def _fit_dynamics(self, stretches: list[np.ndarray]) -> None:
        """A, W and the prior's covariance of stretches of states (T, S); the prior's mean is 0."""
        before = joined([states[:-1] for states in stretches])
        after = joined([states[1:] for states in stretches])
        self.transition_ = np.linalg.lstsq(before, after, rcond=None)[0].T
        missed = after - before @ self.transition_.T
        self.transition_noise_ = missed.T @ missed / len(missed)
        states = joined(stretches)
        self.prior_covariance_ = states.T @ states / len(states)

    def _fit_observations(self, states: np.ndarray, counts: np.ndarray) -> None:
        """What b, H and Q mean to the filter: see `models.riccati`."""
        self.counts_mean_ = counts.mean(axis=0)
        active = np.flatnonzero(np.ptp(counts, axis=0) > 0)
        centered = counts[:, active] - self.counts_mean_[active]
        observation = np.linalg.lstsq(states, centered, rcond=None)[0].T  # (N, S)
        missed = centered - states @ observation.T
        weighted = self._whitened(missed, centered.std(axis=0), observation, active)
        self.readout_ = np.zeros((states.shape[1], counts.shape[1]))  # (S, N), H' Q^-1
        self.readout_[:, active] = weighted.T
        information = weighted.T @ observation
        self.information_ = (information + information.T) / 2

    def _whitened(
        self, missed: np.ndarray, std: np.ndarray, observation: np.ndarray, active: np.ndarray
    ) -> np.ndarray:
        """Q^-1 H (N, S); Q is the covariance of `missed` (T, N), with shrinkage."""
        deviation = np.sqrt((missed**2).mean(axis=0))
        exact = deviation <= SINGULAR * std
        if exact.any():
            raise _singular(f"{_listed(active[exact])} explained without a rest", "give more bins")
        unit = missed / deviation
        correlation = unit.T @ unit / len(unit) * (1 - self.shrinkage)
        correlation[np.diag_indices_from(correlation)] += self.shrinkage
        values, vectors = np.linalg.eigh(correlation)
        remedy = "set it to 0.1, say, or leave units out with data.min_rate or data.units"
        if len(values) and values[0] <= SINGULAR:
            if len(active) >= len(unit):
                raise _singular(f"{len(active)} units need more than {len(unit)} bins", remedy)
            part = np.abs(vectors[:, 0])
            dependent = _listed(active[part >= part.max() / 2])
            raise _singular(f"{dependent} linearly dependent", remedy)
        scaled = observation / deviation[:, None]
        return vectors @ ((vectors.T @ scaled) / values[:, None]) / deviation[:, None]

    def _fix_gain(self) -> None:
        """The steady-state gain, and how fast the filter forgets."""
        predicted = steady_state_covariance(
            self.transition_, self.transition_noise_, self.information_
        )
        self.gain_ = corrected_covariance(predicted, self.information_)
        forgets = self.transition_ - self.gain_ @ self.information_ @ self.transition_
        self.spectral_radius_ = float(np.abs(np.linalg.eigvals(forgets)).max())
        if not self.spectral_radius_ < 1:
            raise BciDecodeError(
                f"the filter is unstable, its spectral radius is {self.spectral_radius_:.6f}",
                field="model.state",
                remedy="leave position out, or give more bins",
            )

    def _predict(self, X: np.ndarray) -> np.ndarray:
        states = np.zeros((len(X), len(self.transition_)))
        observed = X[: max(len(X) - self.lag, 0)]
        states[self.lag :] = self._filtered((observed - self.counts_mean_) @ self.readout_.T)
        axes = len(self.output_mean_)
        output = states[:, self.first_output_ : self.first_output_ + axes]
        return output * self.output_std_ + self.output_mean_

    def _filtered(self, observed: np.ndarray) -> np.ndarray:
        """States (T, S) from the observations in the size of the state (T, S)."""
        if self.steady_state:
            gain = self.gain_[None]
        else:
            dynamics = self.transition_, self.transition_noise_, self.information_
            gain = gains(*dynamics, self.prior_covariance_, len(observed))
        predicted, states = np.zeros(len(self.transition_)), np.empty_like(observed)
        for t, values in enumerate(observed):
            missed = values - self.information_ @ predicted
            states[t] = predicted + gain[min(t, len(gain) - 1)] @ missed
            predicted = self.transition_ @ states[t]
        return states

    def _check_settings(self) -> None:
        names = list(self.state)
        if not names or len(set(names)) < len(names) or not set(names) <= set(KINEMATICS):
            raise BciDecodeError(
                f"is {', '.join(map(str, names)) or 'empty'}",
                field="model.state",
                remedy=f"choose from {', '.join(KINEMATICS)}, each once",
            )
        if self.target not in names:
            raise BciDecodeError(
                f"lacks {self.target}, the target",
                field="model.state",
                remedy=f"choose data.target={names[0]}, or model.state=[{self.target}]",
            )
        if not isinstance(self.lag, Integral) or self.lag < 0:
            raise BciDecodeError(
                f"is {self.lag}", field="model.lag", remedy="choose a number of bins, 0 or more"
            )
        if not 0 <= self.shrinkage <= 1:
            raise BciDecodeError(
                f"is {self.shrinkage}", field="model.shrinkage", remedy="choose 0 to 1"
            )


def kinematic_traces(values: np.ndarray, target: str) -> dict[str, np.ndarray]:
    """Position, velocity and acceleration, each (T, D) and per bin, from one of them.

    A difference is 0 in the first bin. A running sum is taken of values without their mean.
    """
    place = KINEMATICS.index(target)
    traces = {target: values}
    for name in reversed(KINEMATICS[:place]):
        values = np.cumsum(values - values.mean(axis=0), axis=0)
        traces[name] = values
    values = traces[target]
    for name in KINEMATICS[place + 1 :]:
        values = np.diff(values, axis=0, prepend=values[:1])
        traces[name] = values
    return traces


def _mean_and_std(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the columns; 1 for one that does not change."""
    std = values.std(axis=0)
    return values.mean(axis=0), np.where(np.ptp(values, axis=0) > 0, std, 1.0)


def _listed(columns: np.ndarray) -> str:
    shown = ", ".join(str(column) for column in columns[:5]) + ", ..." * (len(columns) > 5)
    return f"units in columns {shown} (from 0) are"


def _singular(cause: str, remedy: str) -> BciDecodeError:
    """What to say of units that leave the observation covariance without an inverse."""
    return BciDecodeError(
        f"the covariance of the counts is singular: {cause}",
        field="model.shrinkage",
        remedy=remedy,
    )
