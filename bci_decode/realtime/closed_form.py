"""Closed-form models as stages of the step of a live decoder.

Shapes: B streams, N units, L bins of history, D axes of the target, S numbers in a filter's state.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bci_decode.data.parts import Scaler
from bci_decode.models.cascade import WienerCascade
from bci_decode.models.kalman import KalmanFilter
from bci_decode.models.riccati import gains
from bci_decode.models.wiener import WienerFilter
from bci_decode.realtime.stages import Scaling, Stage, State

MOST_GAINS = 10_000  # bins after which the gain of a Kalman filter has certainly converged


class WienerStep(Stage):
    """A Wiener filter; the state is the z-scored counts of its bins, the oldest first."""

    weights: Tensor
    intercept: Tensor

    def __init__(self, model: WienerFilter):
        super().__init__()
        self.history, axes = int(model.history), len(model.intercept_)
        self.scaling = Scaling(Scaler(model.mean_, model.std_))
        weights = model.coef_.reshape(axes, -1, self.history).transpose(2, 1, 0)  # (L, N, D)
        self.register_buffer("weights", torch.from_numpy(weights.astype(np.float32)))
        self.register_buffer("intercept", torch.from_numpy(model.intercept_))

    def initial(self) -> dict[str, Tensor]:
        return {"bins": torch.zeros(1, self.history, self.weights.shape[1])}

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        x, _ = self.scaling(x, ())
        bins = torch.cat([state[0][:, 1:], x[:, None]], 1)
        products = (bins[:, :, None] @ self.weights)[:, :, 0]  # (B, L, D)
        return products.double().sum(1) + self.intercept, (bins,)


class CascadeStep(WienerStep):
    """A Wiener filter, then a polynomial for each axis."""

    lowest: Tensor
    width: Tensor
    polynomial: Tensor

    def __init__(self, model: WienerCascade):
        super().__init__(model)
        lowest, highest = model.lowest_, model.highest_
        width = np.where(highest > lowest, highest - lowest, 1.0)
        self.register_buffer("lowest", torch.from_numpy(lowest))
        self.register_buffer("width", torch.from_numpy(width))
        self.register_buffer("polynomial", torch.from_numpy(model.polynomial_))

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        linear, state = super().forward(x, state)
        unit = torch.clamp(2 * (linear - self.lowest) / self.width - 1, -1.0, 1.0)
        y = self.polynomial[-1].expand_as(unit)
        for coefficients in self.polynomial[:-1].flip(0):
            y = coefficients + y * unit
        return y, state


class KalmanStep(Stage):
    """A Kalman filter: the state is its prediction, the bins so far, and what its lag holds back.

    See `models.kalman` and `models.riccati` for the arithmetic.
    """

    gain: Tensor
    transition: Tensor
    information: Tensor
    readout: Tensor
    counts_mean: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, model: KalmanFilter):
        super().__init__()
        self.lag, self.first = int(model.lag), int(model.first_output_)
        gain = model.gain_[None]
        if not model.steady_state:
            dynamics = model.transition_, model.transition_noise_, model.information_
            gain = gains(*dynamics, model.prior_covariance_, MOST_GAINS)
        for name, values in {
            "gain": gain,
            "transition": model.transition_,
            "information": model.information_,
            "readout": model.readout_,
            "counts_mean": model.counts_mean_,
            "mean": model.output_mean_,
            "std": model.output_std_,
        }.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(values)).double())

    def initial(self) -> dict[str, Tensor]:
        size = len(self.transition)
        start = {
            "predicted": torch.zeros(1, size, dtype=torch.float64),
            "seen": torch.zeros(1, dtype=torch.int64),
        }
        if self.lag:
            start["waiting"] = torch.zeros(1, self.lag, size, dtype=torch.float64)
        return start

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        predicted, seen, *waiting = state
        observed = (x.double() - self.counts_mean) @ self.readout.T
        if waiting:
            queue = torch.cat([waiting[0], observed[:, None]], 1)
            observed, waiting = queue[:, 0], [queue[:, 1:]]
        age = seen - self.lag  # bins that the filter has had
        gain = self.gain[torch.clamp(age, 0, len(self.gain) - 1)]  # (B, S, S)
        missed = observed - predicted @ self.information.T
        corrected = predicted + (gain @ missed[:, :, None])[:, :, 0]
        corrected = torch.where((age >= 0)[:, None], corrected, 0.0)  # nothing observed yet
        output = corrected[:, self.first : self.first + len(self.mean)]
        seen = torch.clamp(seen + 1, max=self.lag + len(self.gain))
        following = corrected @ self.transition.T, seen, *waiting
        return output * self.std + self.mean, following
