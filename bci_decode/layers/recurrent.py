"""GRU and LayerNorm GRU: the readable loop, and when a fused path replaces it.

Shapes: B sequences, T bins, I inputs, H hidden_size.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bci_decode.layers import cuda
from bci_decode.layers.cpu.autograd import fused_gru
from bci_decode.layers.stacked import StackedRecurrent
from bci_decode.layers.weights import gate_weights, layer_names


class LayerNormGRU(StackedRecurrent):
    """A GRU with layer-normalized pre-activations (Ba, Kiros and Hinton 2016, supplement).

    In each bin, with one LN over both gates' 2 H pre-activations and one over the candidate's H:

        z, r      = sigmoid(LN(W_x x) + LN(W_h h))            update and reset gate
        candidate = tanh(LN(W x) + r * LN(U h))
        h         = (1 - z) h + z candidate

    z is the share of the NEW candidate; in `torch.nn.GRU` it is the share of the old state.
    Arguments, call, shapes and the order of the parameters are those of `torch.nn.GRU`. W_x over W
    is `weight_ih_l0` (3 H, I), W_h over U is `weight_hh_l0` (3 H, H), with rows z, r, candidate.

    `bias` adds a bias inside each linear map, `affine` a gain and a bias after each normalization
    (the paper: affine without bias; the source study: bias without affine). `initial_gain` is the
    initial value of the gains: 1 in the paper. A smaller one keeps gates and tanh away from
    saturation at first (Cooijmans et al. 2017 use 0.1 for batch normalization inside an LSTM).

    On a CPU, and in float32 on a GPU that has Triton, a fused path runs unless `use_fused` is
    False. It has no second derivatives and does not work under `torch.func`; the loop does both.
    """

    use_fused = True
    weight_hh_l0: nn.Parameter

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
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} is {size}, it must be 1 or more")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout is {dropout}, it must be a probability")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first = bias, batch_first
        self.dropout, self.bidirectional = dropout, bidirectional
        self.affine, self.eps, self.initial_gain = affine, eps, initial_gain
        rows, options = 3 * hidden_size, {"device": device, "dtype": dtype}
        for suffix in layer_names(self):
            inputs = input_size if suffix.startswith("l0") else hidden_size * (1 + bidirectional)
            for side, columns in (("ih", inputs), ("hh", hidden_size)):
                self._add(f"weight_{side}_{suffix}", (rows, columns), True, options)
                self._add(f"bias_{side}_{suffix}", (rows,), bias, options)
                self._add(f"norm_gain_{side}_{suffix}", (rows,), affine, options)
                self._add(f"norm_bias_{side}_{suffix}", (rows,), affine, options)
        self.reset_parameters()

    def _add(self, name: str, shape: tuple[int, ...], wanted: bool, options: dict) -> None:
        parameter = nn.Parameter(torch.empty(shape, **options)) if wanted else None
        self.register_parameter(name, parameter)

    def reset_parameters(self) -> None:
        """Draw weights and biases uniformly within 1 / sqrt(H), as `torch.nn.GRU` does."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for name, parameter in self.named_parameters():
            if name.startswith("norm_gain"):
                nn.init.constant_(parameter, self.initial_gain)
            elif name.startswith("norm_bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.uniform_(parameter, -bound, bound)

    def _run_direction(
        self, x: Tensor, state: Tensor | None, suffix: str, index: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """All arithmetic of the layer; `fused_gru` does the same faster, and tests compare them."""
        inputs, recurrent = (gate_weights(self, side, suffix) for side in ("ih", "hh"))
        bins = len(x if index is None else index)
        fused = self.use_fused and type(self).normalize is LayerNormGRU.normalize
        if fused and cuda.fused_supported(x, state, recurrent.weight):
            from bci_decode.layers.cuda.autograd import fused_gru_cuda  # needs triton

            y = fused_gru_cuda(x if index is None else x[index], state, inputs, recurrent, self.eps)
            return y, y[-1]
        if fused and _fused_supported(x, state, recurrent.weight) and _fused_worthwhile(bins):
            y = fused_gru(x, state, inputs, recurrent, self.eps, index)
            return y, y[-1]
        if index is not None:
            x = x[index]
        h = x.new_zeros(x.shape[1], self.hidden_size) if state is None else state
        weight, bias, gain, shift = recurrent
        projected = F.linear(x, inputs.weight, inputs.bias)  # all bins at once
        gates_x, candidate_x = self.normalize(projected, inputs.gain, inputs.shift)
        states = []
        for gate_x, new_x in zip(gates_x, candidate_x, strict=True):  # (B, 2 H), (B, H)
            gate_h, new_h = self.normalize(F.linear(h, weight, bias), gain, shift)
            z, r = torch.sigmoid(gate_x + gate_h).chunk(2, dim=-1)
            candidate = torch.tanh(new_x + r * new_h)
            h = (1 - z) * h + z * candidate
            states.append(h)
        return torch.stack(states), h

    def normalize(
        self, a: Tensor, gain: Tensor | None, shift: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """LN of a (..., 3 H): of both gates together (..., 2 H) and of the candidate (..., H).

        A subclass may define another normalization; the loop then always runs.
        """
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
        options = (f"{name}={getattr(self, name)}" for name in names)
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *options])

    def __prepare_scriptable__(self) -> nn.Module:
        raise NotImplementedError(
            f"torch.jit.script cannot compile {type(self).__name__}: "
            "use torch.jit.trace, torch.export or torch.compile"
        )


class GRU(StackedRecurrent, nn.GRU):
    """`torch.nn.GRU` with `forward_windows`, and faster on CPU: same parameters, same results.

    Do not change the outputs in place before the backward. There are no second derivatives and no
    `torch.func`; for those load the weights into `torch.nn.GRU`.
    """

    use_fused = True
    weight_hh_l0: nn.Parameter
    flatten_parameters = nn.GRU.flatten_parameters  # type: ignore[assignment]  # cuDNN needs it

    def forward(self, input: Any, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        """Same as `torch.nn.GRU`."""
        if isinstance(input, Tensor) and self._fused(input, hx):
            bins = input.shape[-2 if self.batch_first or input.dim() == 2 else 0]
            if _fused_worthwhile(bins):
                return StackedRecurrent.forward(self, input, hx)
        return nn.GRU.forward(self, input, hx)

    def forward_windows(self, bins: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
        if self._fused(bins, None):
            return super().forward_windows(bins, windows)
        return nn.GRU.forward(self, bins[windows])

    def _fused(self, x: Tensor, h: Tensor | None) -> bool:
        return self.use_fused and _fused_supported(x, h, self.weight_hh_l0)

    def _run_direction(
        self, x: Tensor, state: Tensor | None, suffix: str, index: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        inputs, recurrent = (gate_weights(self, side, suffix) for side in ("ih", "hh"))
        y = fused_gru(x, state, inputs, recurrent, None, index)
        return y, y[-1]

    def __prepare_scriptable__(self) -> nn.GRU:
        """For torch.jit.script: a `torch.nn.GRU` that shares this layer's weights."""
        gru = copy.copy(self)
        gru.__class__ = nn.GRU  # type: ignore[assignment]
        return gru


def _fused_supported(x: Tensor, h: Tensor | None, weight: Tensor) -> bool:
    """Whether all tensors are plain, on the CPU, of the weights' type, and not traced or cast."""
    given = [weight, x] if h is None else [weight, x, h]
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.float64)
        and all(type(a) in (Tensor, nn.Parameter) for a in given)
        and all(a.dtype == weight.dtype and a.device == weight.device for a in given)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def _fused_worthwhile(bins: int) -> bool:
    """Whether the fused path repays its preparation: not for a few bins without gradients."""
    return torch.is_grad_enabled() or bins > 4
