"""Simple recurrent layers: h = tanh(W x + U h), without and with layer normalization.

Shapes: B sequences, T bins, I inputs, H hidden_size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bci_decode.layers.parametrized import ParametrizedRecurrent
from bci_decode.layers.stacked import Shape, StackedRecurrent
from bci_decode.layers.weights import SIDES, gate_weights


class RNN(StackedRecurrent, nn.RNN):
    """`torch.nn.RNN` (Elman 1990, with tanh) with `forward_windows`."""

    flatten_parameters = nn.RNN.flatten_parameters  # type: ignore[assignment]  # cuDNN needs it

    def forward(self, input: Any, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        """Same as `torch.nn.RNN`."""
        return nn.RNN.forward(self, input, hx)

    def forward_windows(self, bins: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
        return nn.RNN.forward(self, bins[windows])


class LayerNormRNN(ParametrizedRecurrent):
    """A simple recurrent layer with layer normalization (Ba, Kiros and Hinton 2016, eq. 3 and 4).

    In each bin, with one LN over the H summed inputs:

        h = tanh(LN(W x + U h))

    Arguments, call, shapes and names of weights are those of `torch.nn.RNN`. `bias` adds a bias
    inside each linear map, `affine` a gain and a bias after the normalization: `norm_gain_hh_l0`,
    `norm_bias_hh_l0`. `initial_gain` is the initial value of the gains: 1 in the paper.
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

    def _shapes(self, inputs: int) -> dict[str, Shape | None]:
        hidden = self.hidden_size
        return {
            "weight_ih": (hidden, inputs),
            "weight_hh": (hidden, hidden),
            "bias_ih": (hidden,) if self.bias else None,
            "bias_hh": (hidden,) if self.bias else None,
            "norm_gain_hh": (hidden,) if self.affine else None,
            "norm_bias_hh": (hidden,) if self.affine else None,
        }

    def _run_direction(
        self, x: Tensor, state: Tensor | None, suffix: str, index: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        inputs, recurrent = (gate_weights(self, side, suffix) for side in SIDES)
        weight, bias, gain, shift = recurrent
        u = F.linear(x, inputs.weight, inputs.bias)
        u = u if index is None else u[index]  # (T, B, H)
        h = u.new_zeros(u.shape[1:]) if state is None else state
        outputs = []
        for bin_ in u:
            a = bin_ + F.linear(h, weight, bias)
            h = torch.tanh(F.layer_norm(a, a.shape[-1:], gain, shift, self.eps))
            outputs.append(h)
        return torch.stack(outputs), h
