"""One bin at a time, as a live decoder runs: a LayerNorm GRU's step in NumPy, whose calls cost least at batch 1."""

from __future__ import annotations

import numpy as np
import torch

from bci_decode.layers import LayerNormGRU
from bci_decode.layers.cpu.layer_norm import Side, centred


class Stepper:
    """Steps a one-way `LayerNormGRU` bin by bin with the weights that it has now; train on, and make another one.

    `step(x, h)` takes x (I,) and the state h (L, H), arrays of the layer's type, and returns the next state, a new array;
    its last row is the layer's output. The buffers between are the stepper's own: one thread at a time.
    """

    def __init__(self, layer: LayerNormGRU):
        if not isinstance(layer, LayerNormGRU) or layer.bidirectional:
            what = (
                "a bidirectional layer reads the bins to come"
                if isinstance(layer, LayerNormGRU)
                else type(layer).__name__
            )
            raise ValueError(f"only a one-way LayerNormGRU can be stepped: {what}")
        self._layers = [_layer_of(layer, number) for number in range(layer.num_layers)]
        self._shape = layer.num_layers, layer.hidden_size
        self._dtype = self._layers[0].one.dtype

    def step(self, x: np.ndarray, h: np.ndarray) -> np.ndarray:
        """The state (L, H) after one more bin."""
        if h.shape != self._shape or h.dtype != self._dtype or x.dtype != self._dtype:
            raise ValueError(
                f"takes x and h of {self._dtype}, h {self._shape}; given x {x.dtype}, h {h.dtype} {h.shape}"
            )
        after = np.empty_like(h)
        for number, layer in enumerate(self._layers):
            layer.step(x, h[number], after[number])
            x = after[number]
        return after


def _layer_of(layer: LayerNormGRU, number: int) -> _Layer:
    with torch.no_grad():
        sides = [centred(Side(*layer._side(side, f"l{number}"))) for side in ("ih", "hh")]
    weights = [side.weight.t().contiguous().numpy() for side in sides]
    biases, gains, shifts = (
        None if sides[0][place] is None else np.stack([_array(side[place]) for side in sides]) for place in (1, 2, 3)
    )
    return _Layer(weights, biases, gains, shifts, layer.eps)


class _Layer:
    """One layer: row 0 of the buffers is the input side, row 1 the recurrent side. The gates' columns hold -a."""

    def __init__(
        self,
        weights: list[np.ndarray],
        biases: np.ndarray | None,
        gains: np.ndarray | None,
        shifts: np.ndarray | None,
        eps: float,
    ):
        self.given = weights, biases, gains, shifts, eps
        hidden, dtype = len(weights[1]), weights[1].dtype
        self.weights, self.biases = weights, biases
        self.a = np.empty((2, 3 * hidden), dtype)
        self.gains = np.ones_like(self.a) if gains is None else gains.copy()
        self.shifts = np.zeros_like(self.a) if shifts is None else shifts.copy()
        self.gains[:, : 2 * hidden] *= -1
        self.shifts[:, : 2 * hidden] *= -1
        # squares @ means: the mean square of each third's LayerNorm group
        self.means = np.zeros((3 * hidden, 3), dtype)
        self.means[: 2 * hidden, :2] = 1 / (2 * hidden)
        self.means[2 * hidden :, 2] = 1 / hidden
        self.one, self.eps = dtype.type(1), dtype.type(eps)
        self.most = dtype.type(80)  # exp of more would overflow float32; the gate is shut long before
        self.squares, self.variances = np.empty_like(self.a), np.empty((2, 3), dtype)
        self.thirds, self.deviations = self.a.reshape(2, 3, hidden), self.variances[:, :, None]
        gates, candidates = self.a[:, : 2 * hidden], self.a[:, 2 * hidden :]
        self.views = *self.a, *gates, *candidates, gates[0, :hidden], gates[0, hidden:]

    def __reduce__(self):  # a copy's views have to look at the copy's buffers
        return _Layer, self.given

    def step(self, x: np.ndarray, h: np.ndarray, after: np.ndarray) -> None:
        a, variances, squares = self.a, self.variances, self.squares
        a_x, a_h, gates, gates_h, candidate_x, candidate, z, r = self.views
        np.dot(x, self.weights[0], out=a_x)
        np.dot(h, self.weights[1], out=a_h)
        if self.biases is not None:
            np.add(a, self.biases, out=a)
        np.multiply(a, a, out=squares)
        np.dot(squares, self.means, out=variances)
        np.add(variances, self.eps, out=variances)
        np.sqrt(variances, out=variances)
        np.divide(self.thirds, self.deviations, out=self.thirds)
        np.multiply(a, self.gains, out=a)
        np.add(a, self.shifts, out=a)
        np.add(gates, gates_h, out=gates)
        np.minimum(gates, self.most, out=gates)
        np.exp(gates, out=gates)
        np.add(gates, self.one, out=gates)
        np.divide(self.one, gates, out=gates)
        np.multiply(candidate, r, out=candidate)
        np.add(candidate, candidate_x, out=candidate)
        np.tanh(candidate, out=candidate)
        np.subtract(candidate, h, out=candidate)
        np.multiply(candidate, z, out=candidate)
        np.add(h, candidate, out=after)


def _array(tensor: torch.Tensor | None) -> np.ndarray:
    assert tensor is not None
    return tensor.detach().numpy()
