"""Run a LayerNorm GRU one bin at a time, as a live decoder does.

It uses NumPy, whose calls cost least at batch 1.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bci_decode.layers import LayerNormGRU
from bci_decode.layers.cpu.layer_norm import with_centered_weights
from bci_decode.layers.weights import gate_weights


class Stepper:
    """Runs a unidirectional `LayerNormGRU` on the CPU one bin at a time, in float32 or float64.

    Weights are copied at construction; build a new Stepper after further training. Use a Stepper in
    one thread at a time.
    """

    def __init__(self, layer: LayerNormGRU):
        _check_layer(layer)
        self._layers = [_layer_of(layer, number) for number in range(layer.num_layers)]
        self._shape = layer.num_layers, layer.hidden_size
        self._dtype = self._layers[0].one.dtype

    def step(self, x: np.ndarray, h: np.ndarray) -> np.ndarray:
        """The state (L, H) after a bin x (I,), from the state h before it; row -1 is the output.

        x and h are arrays of the layer's type; the result is a new array.
        """
        if h.shape != self._shape or h.dtype != self._dtype or x.dtype != self._dtype:
            raise ValueError(
                f"takes x and h of {self._dtype}, h {self._shape}; "
                f"given x {x.dtype}, h {h.dtype} {h.shape}"
            )
        after = np.empty_like(h)
        for number, layer in enumerate(self._layers):
            layer.step(x, h[number], after[number])
            x = after[number]
        return after


def _check_layer(layer: LayerNormGRU) -> None:
    if not isinstance(layer, LayerNormGRU):
        problem = f"not {type(layer).__name__}"
    elif type(layer).normalize is not LayerNormGRU.normalize:
        problem = f"{type(layer).__name__} has its own normalization"
    elif layer.bidirectional:
        problem = "a bidirectional layer reads later bins"
    elif layer.weight_hh_l0.device.type != "cpu":
        problem = f"this one is on {layer.weight_hh_l0.device}; move a copy to the CPU"
    elif layer.weight_hh_l0.dtype not in (torch.float32, torch.float64):
        problem = f"this one has {layer.weight_hh_l0.dtype}; convert a copy to float32"
    else:
        return
    raise ValueError(
        f"can step only a unidirectional LayerNormGRU on the CPU in float32 or float64: {problem}"
    )


def _layer_of(layer: LayerNormGRU, number: int) -> _Layer:
    with torch.no_grad():
        sides = [
            with_centered_weights(gate_weights(layer, side, f"l{number}")) for side in ("ih", "hh")
        ]
    weights = [_array(side.weight.t()).copy() for side in sides]
    biases, gains, shifts = (
        None if sides[0][place] is None else np.stack([_array(side[place]) for side in sides])
        for place in (1, 2, 3)
    )
    return _Layer(weights, biases, gains, shifts, layer.eps)


class _Layer:
    """One layer; buffers have the input side in row 0, the recurrent side in row 1, gates as -a."""

    def __init__(
        self,
        weights: list[np.ndarray],
        biases: np.ndarray | None,
        gains: np.ndarray | None,
        shifts: np.ndarray | None,
        eps: float,
    ):
        self.arguments = weights, biases, gains, shifts, eps
        hidden, dtype = len(weights[1]), weights[1].dtype
        self.weights, self.biases = weights, biases
        self.a = np.empty((2, 3 * hidden), dtype)
        self.gains = np.ones_like(self.a) if gains is None else gains.copy()
        self.shifts = np.zeros_like(self.a) if shifts is None else shifts.copy()
        self.gains[:, : 2 * hidden] *= -1
        self.shifts[:, : 2 * hidden] *= -1
        # squares @ means: the mean square of the LayerNorm group of z, of r and of the candidate
        self.means = np.zeros((3 * hidden, 3), dtype)
        self.means[: 2 * hidden, :2] = 1 / (2 * hidden)
        self.means[2 * hidden :, 2] = 1 / hidden
        self.one, self.eps = dtype.type(1), dtype.type(eps)
        self.max_exponent = dtype.type(80)  # exp of more overflows float32; the gate is 0 already
        self.squares, self.variances = np.empty_like(self.a), np.empty((2, 3), dtype)
        self.gates3, self.deviations = self.a.reshape(2, 3, hidden), self.variances[:, :, None]
        gates, candidates = self.a[:, : 2 * hidden], self.a[:, 2 * hidden :]
        self.views = *self.a, *gates, *candidates, gates[0, :hidden], gates[0, hidden:]

    def __reduce__(self):  # the views of a copy must refer to the copy's buffers
        return _Layer, self.arguments

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
        np.divide(self.gates3, self.deviations, out=self.gates3)
        np.multiply(a, self.gains, out=a)
        np.add(a, self.shifts, out=a)
        np.add(gates, gates_h, out=gates)
        np.minimum(gates, self.max_exponent, out=gates)
        np.exp(gates, out=gates)
        np.add(gates, self.one, out=gates)
        np.divide(self.one, gates, out=gates)
        np.multiply(candidate, r, out=candidate)
        np.add(candidate, candidate_x, out=candidate)
        np.tanh(candidate, out=candidate)
        np.subtract(candidate, h, out=candidate)
        np.multiply(candidate, z, out=candidate)
        np.add(h, candidate, out=after)


def _array(tensor: Tensor | None) -> np.ndarray:
    assert tensor is not None
    return tensor.detach().numpy()
