"""Weights of PyTorch's layers as the flat arrays that the compiled kernels read.

Shapes: H hidden_size.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from bci_decode.layers.cpu.kernels import shared_kernels
from bci_decode.layers.cpu.product import lanes_of, padded
from bci_decode.layers.cpu.rows import PLAIN
from bci_decode.layers.weights import GateWeights

Array = np.ndarray


def flat(tensor: Tensor) -> Array:
    """The numbers of a tensor in one row, shared with it if they lie so."""
    return tensor.detach().contiguous().view(-1).numpy()


def packed(weight: Tensor, transposed: bool) -> Array:
    """The weight (outputs, inputs) as panels: of W^T for products with inputs, or else of W."""
    outputs, inputs = weight.shape
    depth, columns = (inputs, outputs) if transposed else (outputs, inputs)
    values = flat(weight)
    panels = np.empty(depth * padded(columns, lanes_of(values.itemsize)), values.dtype)
    shared_kernels().packed(values, outputs, inputs, transposed, panels)
    return panels


def padded_bias(side: GateWeights) -> Array:
    """The bias, or zeros, as a padded row."""
    width, dtype = len(side.weight), flat(side.weight).dtype
    row = np.zeros(padded(width, lanes_of(dtype.itemsize)), dtype)
    if side.bias is not None:
        row[:width] = flat(side.bias)
    return row


def norm_rows(sides: list[GateWeights], form: int) -> Array:
    """Gain and bias of the norms of both sides, 12 H; nothing for the plain form."""
    width, dtype = len(sides[0].weight), flat(sides[0].weight).dtype
    rows = np.ones((4 * (form != PLAIN), width), dtype)
    rows[1::2] = 0
    given = [values for side in sides for values in (side.gain, side.shift)]
    for row, values in zip(rows, given, strict=False):
        if values is not None:
            row[:] = flat(values)
    return rows.reshape(-1)
