"""The compiled kernels one bin at a time: with a carried state, or over a window that moves.

Shapes: L layers, I inputs, H hidden_size, T bins of a window.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bci_decode.layers.cpu.arrays import Array, norm_rows, packed, padded_bias
from bci_decode.layers.cpu.kernels import BLOCK, CHUNK, kernels_of, shared_kernels
from bci_decode.layers.cpu.product import lanes_of, padded
from bci_decode.layers.cpu.rows import FORMS, STATS
from bci_decode.layers.weights import GateWeights

Layers = list[list[GateWeights]]  # both sides of each layer


class StepKernel:
    """One bin through a stack of layers, whose weights are copied now.

    Use it in one thread at a time.
    """

    def __init__(self, layers: Layers, form: str, eps: float):
        sides = [side for layer in layers for side in layer]
        inputs, hidden = sides[0].weight.shape[1], sides[1].weight.shape[1]
        panels = np.concatenate([packed(side.weight, transposed=True) for side in sides])
        biases = np.concatenate([padded_bias(side) for side in sides])
        norms = np.concatenate([norm_rows(layer, FORMS[form]) for layer in layers])
        dtype, self.shape, sizes = (
            panels.dtype,
            (len(layers), hidden),
            (len(layers), inputs, hidden),
        )
        kernels, row = kernels_of(FORMS[form]), padded(3 * hidden, lanes_of(panels.itemsize))
        self._recur, self._step = kernels.recur, kernels.step
        # a read-only array, as of received bytes, would be another type and compile again
        self._x, self._h = np.empty(inputs, dtype), np.empty(len(layers) * hidden, dtype)
        self._recurrent, work = np.empty(len(layers) * row, dtype), np.empty(3 * row + STATS, dtype)
        self._weights = panels, biases, sizes
        self._fixed = panels, biases, norms, dtype.type(eps), sizes, work

    def prepare(self, h: Array, ahead: bool) -> None:
        """Multiply the state h (L, H) by its weights, for the step that follows.

        `ahead`: not at once, so bring the input weights into the cache for it.
        """
        self._h[:] = h.ravel()
        self._recur(self._h, self._recurrent, *self._weights, ahead)

    def step(self, x: Array) -> Array:
        """The states (L, H) after a bin x (I,), from the state that `prepare` was given."""
        self._x[:] = x
        after = np.empty_like(self._h)
        self._step(self._x, self._h, self._recurrent, after, *self._fixed)
        return after.reshape(self.shape)


class WindowKernel:
    """The outputs of a stack of layers over a window, from zero states, bin by bin.

    The first layer's input side of each bin is computed once and kept in one of `slots` rows of
    `projected`.
    """

    def __init__(self, layers: Layers, form: str, eps: float, slots: int):
        self._form, self._layers = FORMS[form], list[Any]()
        for inputs, recurrent in layers:
            sides = inputs, recurrent
            panels = [packed(side.weight, transposed=True) for side in sides]
            biases = [padded_bias(side) for side in sides]
            norms, columns = norm_rows(list(sides), self._form), inputs.weight.shape[1]
            self._layers.append((*panels, *biases, norms, columns))
        self._hidden, dtype = layers[0][1].weight.shape[1], self._layers[0][0].dtype
        width = 3 * self._hidden
        self._row, self._eps = padded(width, lanes_of(dtype.itemsize)), dtype.type(eps)
        self.projected = np.zeros((slots, self._row), dtype)
        self._x = np.empty(self._layers[0][-1], dtype)
        self._h, self._chunk = np.zeros(self._hidden, dtype), np.empty(CHUNK * self._row, dtype)
        self._memory = [np.empty(BLOCK * columns, dtype) for columns in (self._row, width, STATS)]
        self._total = np.empty(width, dtype)

    def put(self, x: Array, slot: int) -> None:
        """Project a bin x (I,) and keep the result."""
        panels, _, biases, *_, inputs = self._layers[0]
        self._x[:] = x
        sizes = (1, 1, inputs, self._hidden)
        shared_kernels().project(self._x, 1, sizes, panels, biases, self.projected[slot])

    def run(self, slots: Array) -> Array:
        """The last layer's outputs (T, H) over the bins in `slots` (T,), int64, in their order."""
        form, bins, nothing = kernels_of(self._form), len(slots), np.empty(0, np.int64)
        x, index, projected = self._x, slots, self.projected.reshape(-1)
        for panels_x, panels_h, biases_x, biases_h, norms, inputs in self._layers:
            y = np.empty(bins * self._hidden, x.dtype)
            form.forward(
                x, index, self._h, False, panels_x, panels_h, biases_x, biases_h, norms, self._eps,
                y, projected, *self._memory, False, (bins, 1, inputs, self._hidden), 0, 1,
                self._total,
            )  # fmt: skip
            x, index, projected = y, nothing, self._chunk
        return x.reshape(bins, self._hidden)
