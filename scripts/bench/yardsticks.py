"""What the recurrent layers are measured against, besides torch.nn.GRU.

Shapes: B sequences, T bins, I inputs, H hidden, L layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from timing import Shape
from torch import Tensor, nn

from bci_decode.layers import LayerNormGRU
from bci_decode.layers.weights import SIDES, gate_weights

Array = np.ndarray


class CellLoop(nn.Module):
    """The usual LayerNorm GRU: nn.Linear and nn.LayerNorm in a Python loop over bins."""

    def __init__(self, inputs: int, hidden: int, layers: int):
        super().__init__()
        self.hidden = hidden
        sizes = [inputs] + [hidden] * (layers - 1)
        self.layers = nn.ModuleList(nn.ModuleDict(self._parts(size)) for size in sizes)

    def _parts(self, inputs: int) -> dict[str, nn.Module]:
        return {
            "x": nn.Linear(inputs, 3 * self.hidden, bias=False),
            "h": nn.Linear(self.hidden, 3 * self.hidden, bias=False),
            **{f"{side}_gates": nn.LayerNorm(2 * self.hidden) for side in "xh"},
            **{f"{side}_candidate": nn.LayerNorm(self.hidden) for side in "xh"},
        }

    def cell(self, layer: nn.ModuleDict, x: Tensor, h: Tensor) -> Tensor:
        sizes = (2 * self.hidden, self.hidden)
        gates_x, candidate_x = layer["x"](x).split(sizes, dim=-1)
        gates_h, candidate_h = layer["h"](h).split(sizes, dim=-1)
        gates = torch.sigmoid(layer["x_gates"](gates_x) + layer["h_gates"](gates_h))
        z, r = gates.chunk(2, dim=-1)
        new_h = r * layer["h_candidate"](candidate_h)
        candidate = torch.tanh(layer["x_candidate"](candidate_x) + new_h)
        return (1 - z) * h + z * candidate

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.layers:
            h, states = x.new_zeros(x.shape[1], self.hidden), []
            for bin_ in x:
                h = self.cell(layer, bin_, h)  # type: ignore[arg-type]
                states.append(h)
            x = torch.stack(states)
        return x, h


class NumpyStepper:
    """One bin of a `LayerNormGRU` (norms apart, with gain, maps without bias) in NumPy."""

    def __init__(self, layer: LayerNormGRU):
        self.hidden, self.eps = layer.hidden_size, layer.eps
        self.layers = [
            [_arrays(layer, side, number) for side in SIDES] for number in range(layer.num_layers)
        ]

    def step(self, x: Array, h: Array) -> Array:
        """The states (L, H) after a bin x (I,), from h before it."""
        after = np.empty_like(h)
        for (inputs, recurrent), before, new in zip(self.layers, h, after, strict=True):
            u, a = self._side(x, *inputs), self._side(before, *recurrent)
            gates, candidate = u[: 2 * self.hidden], u[2 * self.hidden :]
            gates += a[: 2 * self.hidden]
            gates *= 0.5  # sigmoid(v) = (1 + tanh(v / 2)) / 2
            np.tanh(gates, out=gates)
            gates *= 0.5
            gates += 0.5
            z, r = gates[: self.hidden], gates[self.hidden :]
            r *= a[2 * self.hidden :]
            candidate += r
            np.tanh(candidate, out=candidate)
            np.subtract(candidate, before, out=new)
            new *= z
            new += before
            x = new
        return after

    def _side(self, values: Array, weight: Array, gain: Array, shift: Array, out: Array) -> Array:
        """The normalized map of one side (3 H,)."""
        np.dot(weight, values, out=out)
        for part in (out[: 2 * self.hidden], out[2 * self.hidden :]):
            part -= np.add.reduce(part) / part.size
            part *= 1 / np.sqrt(np.dot(part, part) / part.size + self.eps)
        out *= gain
        out += shift
        return out


def _arrays(layer: LayerNormGRU, side: str, number: int) -> list[Any]:
    """Weight, gain and shift of one side, copied, and a row (3 H,) to write to."""
    weight, _, gain, shift = gate_weights(layer, side, f"l{number}")
    assert gain is not None and shift is not None
    arrays = [values.detach().numpy().copy() for values in (weight, gain, shift)]
    return [*arrays, np.empty_like(arrays[1])]


def products(shape: Shape) -> Callable[[], None]:
    """A function that runs the matrix products of a training step by PyTorch and nothing else."""
    batch, bins, hidden, inputs, layers = shape
    wide = 3 * hidden
    h, a = torch.zeros(batch, hidden), torch.zeros(batch, wide)
    rows_h, rows = (torch.zeros(bins * batch, columns) for columns in (hidden, wide))
    weight, back, d_weight = (
        torch.zeros(size) for size in ((hidden, wide), (wide, hidden), (wide, hidden))
    )
    sides = [inputs] + [hidden] * (layers - 1)
    xs = [torch.zeros(bins * batch, columns) for columns in sides]
    weights, d_weights = ([torch.zeros(wide, columns) for columns in sides] for _ in range(2))

    def run() -> None:
        for number, x in enumerate(xs):
            torch.mm(x, weights[number].t(), out=rows)
            for _ in range(bins):
                torch.mm(h, weight, out=a)
                torch.mm(a, back, out=h)
            torch.mm(rows.t(), rows_h, out=d_weight)
            torch.mm(rows.t(), x, out=d_weights[number])
            if number:
                torch.mm(rows, weights[number], out=x)

    return run
