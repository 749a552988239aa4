"""LSTM, and LSTM with layer normalization.

Shapes: B sequences, T bins, I inputs, H hidden_size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bci_decode.layers.parametrized import ParametrizedRecurrent
from bci_decode.layers.stacked import Shape, StackedRecurrent
from bci_decode.layers.weights import SIDES, GateWeights, gate_weights


class LSTM(StackedRecurrent, nn.LSTM):
    """`torch.nn.LSTM` with `forward_windows`; its state is (h, c), each (L D, B, H)."""

    flatten_parameters = nn.LSTM.flatten_parameters  # type: ignore[assignment]  # cuDNN needs it

    @property
    def output_size(self) -> int:
        return self.proj_size or self.hidden_size

    @property
    def state_shapes(self) -> tuple[Shape, ...]:
        return (self.output_size,), (self.hidden_size,)

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """Same as `torch.nn.LSTM`."""
        return nn.LSTM.forward(self, input, hx)

    def forward_windows(self, bins: Tensor, windows: Tensor) -> tuple[Tensor, Any]:
        return nn.LSTM.forward(self, bins[windows])


class LayerNormLSTM(ParametrizedRecurrent):
    """An LSTM with layer-normalized pre-activations and cell (Ba, Kiros and Hinton 2016).

    Equations 20 to 22 of the paper's supplement, in each bin, with one LN over the 4 H
    pre-activations of each side:

        i, f, g, o = LN(W_x x) + LN(W_h h)
        c          = sigmoid(f) c + sigmoid(i) tanh(g)
        h          = sigmoid(o) tanh(LN(c))

    The cell that is fed back is not normalized. Arguments, call, shapes, and names and rows of
    weights are those of `torch.nn.LSTM`; the state is (h, c). `bias` adds a bias inside each linear
    map. `affine` gives each LN a gain and a bias: `norm_gain_ih_l0` and so on (4 H),
    `norm_gain_cell_l0` (H). `initial_gain` is the initial value of all gains: 1 in the paper.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        affine: bool = True,
        eps: float = 1e-5,
        initial_gain: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        )
        self.affine, self.eps, self.initial_gain = affine, eps, initial_gain
        self._make_parameters(device, dtype)

    @property
    def state_shapes(self) -> tuple[Shape, ...]:
        return (self.hidden_size,), (self.hidden_size,)

    def _shapes(self, inputs: int) -> dict[str, Shape | None]:
        hidden, shapes = self.hidden_size, dict[str, Shape | None]()
        for side, columns in (("ih", inputs), ("hh", hidden)):
            shapes[f"weight_{side}"] = (4 * hidden, columns)
            shapes[f"bias_{side}"] = (4 * hidden,) if self.bias else None
        for place, size in (("ih", 4 * hidden), ("hh", 4 * hidden), ("cell", hidden)):
            shapes[f"norm_gain_{place}"] = (size,) if self.affine else None
            shapes[f"norm_bias_{place}"] = (size,) if self.affine else None
        return shapes

    def _run_direction(
        self, x: Tensor, state: Any, suffix: str, index: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        inputs, recurrent = (gate_weights(self, side, suffix) for side in SIDES)
        gain, shift = (getattr(self, f"norm_{kind}_cell_{suffix}") for kind in ("gain", "bias"))
        u = self._pre_activations(x, inputs)  # all bins at once
        u = u if index is None else u[index]  # (T, B, 4 H)
        h, c = state or (u.new_zeros(u.shape[1], self.hidden_size),) * 2
        outputs = []
        for bin_ in u:
            i, f, g, o = (bin_ + self._pre_activations(h, recurrent)).chunk(4, dim=-1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(F.layer_norm(c, c.shape[-1:], gain, shift, self.eps))
            outputs.append(h)
        return torch.stack(outputs), (h, c)

    def _pre_activations(self, values: Tensor, weights: GateWeights) -> Tensor:
        a = F.linear(values, weights.weight, weights.bias)
        return F.layer_norm(a, a.shape[-1:], weights.gain, weights.shift, self.eps)
