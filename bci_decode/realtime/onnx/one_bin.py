"""Recurrent layers as the formulas of a single bin, in operations that ONNX has.

What the state alone gives is in operations of its own, which can run before the counts are there.

Shapes: B streams, I inputs, H hidden_size, L layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bci_decode.layers.linear_recurrent import LRU
from bci_decode.layers.recurrent import LayerNormGRU, kernel_form
from bci_decode.layers.weights import SIDES, gate_weights

State = tuple[Tensor, ...]
Formula = Callable[[Any, Tensor, State, str], tuple[Tensor, State]]


class OneBin(nn.Module):
    """A layer of one direction, called as the layer itself but with one bin, and with its state.

    The state of an LRU is pairs of real numbers, its last dimension.
    """

    def __init__(self, layer: Any):
        super().__init__()
        self.layer, self.formula = layer, formula_of(layer)
        self.bin_dimension = 1 if layer.batch_first else 0
        self.bidirectional, self.hidden_size = False, layer.hidden_size

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """As `StackedRecurrent.state_shapes`."""
        if isinstance(self.layer, LRU):
            return ((self.hidden_size, 2),)
        return getattr(self.layer, "state_shapes", ((self.hidden_size,),))

    def one(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The outputs (B, H) of inputs (B, I), and the next state, each tensor (B, L, ...)."""
        assert self.formula is not None
        following = []
        for number in range(self.layer.num_layers):
            own = tuple(tensor[:, number] for tensor in state)
            x, after = self.formula(self.layer, x, own, f"l{number}")
            following.append(after)
        return x, tuple(torch.stack(tensors, 1) for tensors in zip(*following, strict=True))

    def forward(self, input: Tensor, hx: Any) -> tuple[Tensor, Any]:
        """The same for inputs with a dimension of one bin, and states (L, B, ...)."""
        state = (hx,) if isinstance(hx, Tensor) else hx
        state = tuple(tensor.transpose(0, 1) for tensor in state)
        y, state = self.one(input.select(self.bin_dimension, 0), state)
        state = tuple(tensor.transpose(0, 1) for tensor in state)
        return y.unsqueeze(self.bin_dimension), state[0] if isinstance(hx, Tensor) else state


def formula_of(layer: nn.Module) -> Formula | None:
    """The formula of a layer's bin; None if the layer's own code is exported."""
    if isinstance(layer, LayerNormGRU):
        return _layer_norm_gru if kernel_form(layer) == "apart" else None
    kinds: dict[type, Formula] = {nn.GRU: _gru, nn.LSTM: _lstm, nn.RNN: _rnn, LRU: _lru}
    return next((formula for kind, formula in kinds.items() if isinstance(layer, kind)), None)


def _gru(layer: Any, x: Tensor, state: State, suffix: str) -> tuple[Tensor, State]:
    (h,), sizes = state, [2 * layer.hidden_size, layer.hidden_size]
    u, a = _products(layer, x, h, suffix)
    (gates_u, new_u), (gates_a, new_a) = u.split(sizes, -1), a.split(sizes, -1)
    r, z = torch.sigmoid(gates_u + gates_a).chunk(2, -1)
    new = torch.tanh(new_u + r * new_a)
    h = new + z * (h - new)
    return h, (h,)


def _layer_norm_gru(layer: Any, x: Tensor, state: State, suffix: str) -> tuple[Tensor, State]:
    (h,), size = state, 2 * layer.hidden_size
    parts = []
    for side, values in zip(SIDES, _products(layer, x, h, suffix), strict=True):
        gain, shift = gate_weights(layer, side, suffix)[2:]
        for number, part in enumerate(values.split([size, layer.hidden_size], -1)):
            own = slice(size) if number == 0 else slice(size, None)
            weight, bias = (None if rows is None else rows[own] for rows in (gain, shift))
            parts.append(F.layer_norm(part, part.shape[-1:], weight, bias, layer.eps))
    gates_u, new_u, gates_a, new_a = parts
    z, r = torch.sigmoid(gates_u + gates_a).chunk(2, -1)
    h = h + z * (torch.tanh(new_u + r * new_a) - h)
    return h, (h,)


def _lstm(layer: Any, x: Tensor, state: State, suffix: str) -> tuple[Tensor, State]:
    h, cell = state
    u, a = _products(layer, x, h, suffix)
    i, f, g, o = (u + a).chunk(4, -1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(cell)
    if layer.proj_size:
        h = F.linear(h, getattr(layer, f"weight_hr_{suffix}"))
    return h, (h, cell)


def _rnn(layer: Any, x: Tensor, state: State, suffix: str) -> tuple[Tensor, State]:
    u, a = _products(layer, x, state[0], suffix)
    h = torch.tanh(u + a) if layer.nonlinearity == "tanh" else torch.relu(u + a)
    return h, (h,)


def _lru(layer: LRU, x: Tensor, state: State, suffix: str) -> tuple[Tensor, State]:
    nu, theta = (getattr(layer, f"{name}_log_{suffix}").exp() for name in ("nu", "theta"))
    radius = torch.exp(-nu)
    real, imaginary = radius * torch.cos(theta), radius * torch.sin(theta)
    turn = torch.stack([-imaginary, imaginary], -1)  # i (a + i b) = -b + i a
    (h,) = state  # (B, H, 2)
    h = real[:, None] * h + turn * h.flip(-1) + layer.project(x, suffix).unflatten(-1, (-1, 2))
    return layer.read_out(h.flatten(-2), x, suffix), (h,)


def _products(layer: Any, x: Tensor, h: Tensor, suffix: str) -> tuple[Tensor, Tensor]:
    """The linear maps of inputs and state, each (B, G H)."""
    inputs, recurrent = (gate_weights(layer, side, suffix) for side in SIDES)
    return F.linear(x, inputs.weight, inputs.bias), F.linear(h, recurrent.weight, recurrent.bias)
