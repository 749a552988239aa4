"""Recurrent layers that are called exactly like `torch.nn.GRU`.

Shapes: B sequences, T bins, I inputs, H hidden_size, L layers, S directions (1 or 2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNormGRU(nn.Module):
    """A GRU whose pre-activations are layer-normalised, after Ba, Kiros and Hinton 2016 (supplement).

    Per bin, with LN over the two gates' 2 H pre-activations together and over the candidate's H:

        z, r      = sigmoid(LN(W_x x) + LN(W_h h))            update and reset gate
        candidate = tanh(LN(W x) + r * LN(U h))
        h         = (1 - z) h + z candidate

    z is the share of the NEW candidate, opposite to torch.nn.GRU's. Arguments, call, shapes and the order of the
    layers' parameters are those of `torch.nn.GRU`; W_x over W is `weight_ih_l0` (3 H, I), W_h over U `weight_hh_l0`
    (3 H, H), rows z, r, candidate. `bias` adds a bias inside each linear map, `affine` a gain and a bias after each
    normalisation (the paper: affine without bias; the source study: bias without affine). `initial_gain` is where the
    gains start: 1 in the paper; a smaller one keeps the gates and tanh away from saturation at first (Cooijmans et
    al. 2017 advise 0.1 for batch normalisation inside an LSTM).
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
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if size < 1:
                raise ValueError(f"{name} is {size}, it must be 1 or more")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout is {dropout}, it must be a probability")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, dropout, bidirectional
        self.affine, self.eps, self.initial_gain = affine, eps, initial_gain
        options = {"device": device, "dtype": dtype}
        directions = 1 + bidirectional
        for suffix in self._suffixes():
            inputs = input_size if suffix.startswith("l0") else hidden_size * directions
            for side, columns in (("ih", inputs), ("hh", hidden_size)):
                self._add(f"weight_{side}_{suffix}", (3 * hidden_size, columns), True, options)
                self._add(f"bias_{side}_{suffix}", (3 * hidden_size,), bias, options)
                self._add(f"norm_gain_{side}_{suffix}", (3 * hidden_size,), affine, options)
                self._add(f"norm_bias_{side}_{suffix}", (3 * hidden_size,), affine, options)
        self.reset_parameters()

    def _suffixes(self) -> list[str]:
        """One for each layer and direction: l0, l0_reverse, l1, ..."""
        ways = ("", "_reverse")[: 1 + self.bidirectional]
        return [f"l{layer}{way}" for layer in range(self.num_layers) for way in ways]

    def _add(self, name: str, shape: tuple[int, ...], wanted: bool, options: dict) -> None:
        self.register_parameter(name, nn.Parameter(torch.empty(shape, **options)) if wanted else None)

    def reset_parameters(self) -> None:
        """Weights and biases uniform within 1 / sqrt(H), as in `torch.nn.GRU`; the norms' biases 0."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for name, parameter in self.named_parameters():
            if name.startswith("norm_gain"):
                nn.init.constant_(parameter, self.initial_gain)
            elif name.startswith("norm_bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.uniform_(parameter, -bound, bound)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """input (T, B, I), or (B, T, I) with batch_first, or (T, I); hx (L S, B, H) or (L S, H), zeros if not given.

        Returns y (T, B, S H), laid out as the input, the last layer's states at every bin, and h (L S, B, H) after the
        last. Packed sequences are not taken.
        """
        x, h = self._time_major(input, hx)
        finals: list[Tensor] = []
        for layer in range(self.num_layers):
            if layer:
                x = F.dropout(x, self.dropout, self.training)
            ways = [self._one_way(x, h[len(finals)], f"l{layer}")]
            finals.append(ways[0][-1])
            if self.bidirectional:
                ways.append(self._one_way(x.flip(0), h[len(finals)], f"l{layer}_reverse"))
                finals.append(ways[1][-1])
                ways[1] = ways[1].flip(0)
            x = torch.cat(ways, dim=-1) if self.bidirectional else ways[0]
        final = torch.stack(finals)
        if input.dim() == 2:
            return x.squeeze(1), final.squeeze(1)
        return (x.transpose(0, 1) if self.batch_first else x), final

    def _time_major(self, x: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        """x as (T, B, I) and h as (L S, B, H), checked, whatever layout they came in."""
        if not isinstance(x, Tensor) or x.dim() not in (2, 3):
            raise ValueError("LayerNormGRU takes a tensor (T, B, I), (B, T, I) with batch_first, or (T, I)")
        if x.dim() == 2:
            x, h = x.unsqueeze(1), h if h is None else h.unsqueeze(1)
        elif self.batch_first:
            x = x.transpose(0, 1)
        states = (self.num_layers * (1 + self.bidirectional), x.shape[1], self.hidden_size)
        if x.shape[-1] != self.input_size:
            raise ValueError(f"the input has {x.shape[-1]} columns, the layer's input_size is {self.input_size}")
        if len(x) == 0:
            raise ValueError("the input has no bin")
        if h is None:
            h = x.new_zeros(states)
        elif tuple(h.shape) != states:
            raise ValueError(f"hx has shape {tuple(h.shape)}, this input needs {states}")
        return x, h

    def _one_way(self, x: Tensor, h: Tensor, suffix: str) -> Tensor:
        """States (T, B, H) of one layer in one direction. The arithmetic of the layer: all of it is here."""
        weight, bias, gain, shift = self._side("hh", suffix)
        weight_x, bias_x, gain_x, shift_x = self._side("ih", suffix)
        gates_x, candidate_x = self._norm(F.linear(x, weight_x, bias_x), gain_x, shift_x)  # all bins at once
        states = []
        for gate_x, new_x in zip(gates_x, candidate_x, strict=True):  # (B, 2 H), (B, H)
            gate_h, new_h = self._norm(F.linear(h, weight, bias), gain, shift)
            z, r = torch.sigmoid(gate_x + gate_h).chunk(2, dim=-1)
            candidate = torch.tanh(new_x + r * new_h)
            h = (1 - z) * h + z * candidate
            states.append(h)
        return torch.stack(states)

    def _side(self, side: str, suffix: str) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Weight, bias, and the norm's gain and bias, of the input ("ih") or the recurrent ("hh") side."""
        weight, bias, gain, shift = (
            getattr(self, f"{name}_{side}_{suffix}") for name in ("weight", "bias", "norm_gain", "norm_bias")
        )
        return weight, bias, gain, shift

    def _norm(self, a: Tensor, gain: Tensor | None, shift: Tensor | None) -> tuple[Tensor, Tensor]:
        """LN of a (..., 3 H), the two gates together (..., 2 H) and the candidate alone (..., H)."""
        sizes = (2 * self.hidden_size, self.hidden_size)
        gains = (None, None) if gain is None else gain.split(sizes)
        shifts = (None, None) if shift is None else shift.split(sizes)
        gates, candidate = a.split(sizes, dim=-1)
        return (
            F.layer_norm(gates, sizes[:1], gains[0], shifts[0], self.eps),
            F.layer_norm(candidate, sizes[1:], gains[1], shifts[1], self.eps),
        )

    def extra_repr(self) -> str:
        names = ("num_layers", "bias", "batch_first", "dropout", "bidirectional", "affine")
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *(f"{n}={getattr(self, n)}" for n in names)])


class HistoryNorm(nn.Module):
    """LayerNorm of a window's outputs over bins and columns together, without gain or bias (the source study's).

    (B, T, H) -> (B, T, H). An output depends on every bin of its window, so only the last one's is causal.
    """

    causal = False

    def forward(self, y: Tensor) -> Tensor:
        return F.layer_norm(y, y.shape[-2:])
