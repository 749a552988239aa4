"""Recurrent layers that are called exactly like `torch.nn.GRU`.

Shapes: B sequences, T bins, I inputs, H hidden_size, L layers, S directions (1 or 2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bci_decode.layers.cpu.autograd import recur
from bci_decode.layers.cpu.layer_norm import Side


class _Stacked(nn.Module):
    """Layers and directions over each other, called as `torch.nn.GRU` is; a subclass brings `_one_way`."""

    _fast = True  # False: never `recur`; for tests, benchmarks, second derivatives and torch.func

    input_size: int
    hidden_size: int
    num_layers: int
    batch_first: bool
    dropout: float
    bidirectional: bool
    weight_hh_l0: nn.Parameter

    def _one_way(self, x: Tensor, h: Tensor | None, suffix: str, index: Tensor | None) -> Tensor:
        """States (T, B, H) of one layer in one direction, over x (T, B, I), or over x[index] for an index (T, B)."""
        raise NotImplementedError

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """input (T, B, I), or (B, T, I) with batch_first, or (T, I); hx (L S, B, H) or (L S, H), zeros if not given.

        Returns y (T, B, S H), laid out as the input, the last layer's states at every bin, and h (L S, B, H) after the
        last. Packed sequences are not taken.
        """
        x, h = self._time_major(input, hx)
        y, final = self._layers(x, h, None)
        if input.dim() == 2:
            return y.squeeze(1), final.squeeze(1)
        return (y.transpose(0, 1) if self.batch_first else y), final

    def forward_windows(self, bins: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` returns for bins[windows], a bin that many windows share being projected once.

        bins (n, I), windows (B, T) of indices into them from 0 on, or (T, B) without batch_first; from zero states.
        """
        if windows.numel() == 0:
            raise ValueError("the windows hold no bin")
        index = windows.t() if self.batch_first else windows
        y, final = self._layers(bins, None, index)
        return (y.transpose(0, 1) if self.batch_first else y), final

    def _layers(self, x: Tensor, h: Tensor | None, index: Tensor | None) -> tuple[Tensor, Tensor]:
        """All layers over x (T, B, I), or over x[index] for an index (T, B)."""
        finals: list[Tensor] = []
        for layer in range(self.num_layers):
            if layer:
                x, index = F.dropout(x, self.dropout, self.training), None
            ways = [self._one_way(x, None if h is None else h[len(finals)], f"l{layer}", index)]
            finals.append(ways[0][-1])
            if self.bidirectional:
                flipped = (x.flip(0), None) if index is None else (x, index.flip(0))
                state = None if h is None else h[len(finals)]
                ways.append(self._one_way(flipped[0], state, f"l{layer}_reverse", flipped[1]))
                finals.append(ways[1][-1])
                ways[1] = ways[1].flip(0)
            x = torch.cat(ways, dim=-1) if self.bidirectional else ways[0]
        return x, torch.stack(finals)

    def _time_major(self, x: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x as (T, B, I) and h as (L S, B, H), checked, whatever layout they came in."""
        if not isinstance(x, Tensor) or x.dim() not in (2, 3):
            raise ValueError(f"{type(self).__name__} takes a tensor (T, B, I), (B, T, I) with batch_first, or (T, I)")
        if x.dim() == 2:
            x, h = x.unsqueeze(1), h if h is None else h.unsqueeze(1)
        elif self.batch_first:
            x = x.transpose(0, 1)
        states = (self.num_layers * (1 + self.bidirectional), x.shape[1], self.hidden_size)
        if x.shape[-1] != self.input_size:
            raise ValueError(f"the input has {x.shape[-1]} columns, the layer's input_size is {self.input_size}")
        if len(x) == 0:
            raise ValueError("the input has no bin")
        if h is not None and tuple(h.shape) != states:
            raise ValueError(f"hx has shape {tuple(h.shape)}, this input needs {states}")
        return x, h


class LayerNormGRU(_Stacked):
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

    def _one_way(self, x: Tensor, h: Tensor | None, suffix: str, index: Tensor | None) -> Tensor:
        """The arithmetic of the layer: all of it is here. `recur` does the same on CPU, faster, and is held against it."""
        fast = self._fast and type(self)._norm is LayerNormGRU._norm  # a subclass may have put another one there
        if fast and _can_recur(x, h, self.weight_hh_l0) and _pays(len(x if index is None else index)):
            return recur(x, h, Side(*self._side("ih", suffix)), Side(*self._side("hh", suffix)), self.eps, index)
        if index is not None:
            x = x[index]
        if h is None:
            h = x.new_zeros(x.shape[1], self.hidden_size)
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


class GRU(_Stacked, nn.GRU):
    """`torch.nn.GRU`, its parameters, checkpoints and results, faster on CPU and with `forward_windows`.

    The outputs are not to be changed in place before the backward, and there is no second derivative nor torch.func: for
    those take `torch.nn.GRU`, into which the weights load.
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """As `torch.nn.GRU`, packed sequences included."""
        if self._fast and isinstance(input, Tensor) and _can_recur(input, hx, self.weight_hh_l0):
            bins = input.shape[-2 if self.batch_first or input.dim() == 2 else 0]
            return _Stacked.forward(self, input, hx) if _pays(bins) else nn.GRU.forward(self, input, hx)
        return nn.GRU.forward(self, input, hx)

    def forward_windows(self, bins: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
        if self._fast and _can_recur(bins, None, self.weight_hh_l0):
            return super().forward_windows(bins, windows)
        return nn.GRU.forward(self, bins[windows])

    def _one_way(self, x: Tensor, h: Tensor | None, suffix: str, index: Tensor | None) -> Tensor:
        inputs, recurrent = (
            Side(getattr(self, f"weight_{side}_{suffix}"), getattr(self, f"bias_{side}_{suffix}", None), None, None)
            for side in ("ih", "hh")
        )
        return recur(x, h, inputs, recurrent, None, index)


def _can_recur(x: Tensor, h: Tensor | None, weight: Tensor) -> bool:
    """Whether `recur` does what the operations one by one would: plain tensors on the CPU, in the weights' precision,
    neither traced nor cast. Elsewhere the layers run as PyTorch runs them."""
    given = [tensor for tensor in (x, h) if tensor is not None]
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.float64)
        and type(weight) in (Tensor, nn.Parameter)
        and all(
            type(a) in (Tensor, nn.Parameter) and a.dtype == weight.dtype and a.device == weight.device for a in given
        )
        and not (torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or torch.jit.is_tracing())
    )


def _pays(bins: int) -> bool:
    """A few bins without gradients are done before `recur` has laid out its buffers."""
    return torch.is_grad_enabled() or bins > 4


class HistoryNorm(nn.Module):
    """LayerNorm of a window's outputs over bins and columns together, without gain or bias (the source study's).

    (B, T, H) -> (B, T, H). An output depends on every bin of its window, so only the last one's is causal.
    """

    causal = False

    def forward(self, y: Tensor) -> Tensor:
        return F.layer_norm(y, y.shape[-2:])
