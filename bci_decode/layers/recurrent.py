"""GRU and LayerNorm GRU: the readable loop, and when compiled kernels replace it.

Shapes: B sequences, T bins, I inputs, H hidden_size.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bci_decode.layers import cpu, cuda
from bci_decode.layers.parametrized import ParametrizedRecurrent
from bci_decode.layers.stacked import Shape, StackedRecurrent
from bci_decode.layers.weights import GateWeights, gate_weights

PLACES = ("apart", "sum", "sum2")


class LayerNormGRU(ParametrizedRecurrent):
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

    `place` says what is normalized: "apart", each side by itself, as above; "sum", one LN over all
    3 H of W_x x + W_h h, W x + U h, where r multiplies the candidate's whole normalized value;
    "sum2", LN(W_x x + W_h h) for the gates and tanh(LN(W x + r * U h)). A norm of a sum has its
    gain and bias among the recurrent side's parameters.

    On a CPU compiled kernels run (see `layers.cpu`), and Triton's on a GPU for "apart" in float32,
    unless `use_fused` is False. They have no second derivatives and do not work under
    `torch.func`; the loop does both.
    """

    SHOWN = ("affine", "place")
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
        place: str = "apart",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        )
        if place not in PLACES:
            raise ValueError(f"place is {place!r}, choose {', '.join(PLACES)}")
        self.affine, self.eps, self.initial_gain, self.place = affine, eps, initial_gain, place
        self._make_parameters(device, dtype)

    def _shapes(self, inputs: int) -> dict[str, Shape | None]:
        rows, shapes = (3 * self.hidden_size,), dict[str, Shape | None]()
        for side, columns in (("ih", inputs), ("hh", self.hidden_size)):
            normed = self.affine and (side == "hh" or self.place == "apart")
            shapes[f"weight_{side}"] = (*rows, columns)
            shapes[f"bias_{side}"] = rows if self.bias else None
            shapes[f"norm_gain_{side}"] = rows if normed else None
            shapes[f"norm_bias_{side}"] = rows if normed else None
        return shapes

    def _run_direction(
        self, x: Tensor, state: Tensor | None, suffix: str, index: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Run the kernels, or else all arithmetic of the layer as a loop; tests compare them."""
        inputs, recurrent = (gate_weights(self, side, suffix) for side in ("ih", "hh"))
        form = kernel_form(self) if self.use_fused else None
        if form == "apart" and cuda.serves(x, state, recurrent.weight):
            from bci_decode.layers.cuda.autograd import fused_gru_cuda  # needs triton

            y = fused_gru_cuda(x if index is None else x[index], state, inputs, recurrent, self.eps)
            return y, y[-1]
        if form and cpu.serves(x, state, recurrent.weight, form):
            from bci_decode.layers.cpu.autograd import fused_gru  # needs numba

            y = fused_gru(x, state, inputs, recurrent, form, self.eps, index)
            return y, y[-1]
        if index is not None:
            x = x[index]
        h = x.new_zeros(x.shape[1], self.hidden_size) if state is None else state
        states = []
        for bin_ in self.project(x, inputs):  # all bins at once, then (B, 3 H)
            z, _, candidate = self.pre_activations(bin_, h, recurrent)
            z = torch.sigmoid(z)
            h = (1 - z) * h + z * torch.tanh(candidate)
            states.append(h)
        return torch.stack(states), h

    def prepare(self) -> None:
        """Compile the kernels that this layer runs, or load them; see `layers.cpu`."""
        form = kernel_form(self) if self.use_fused else None
        if form and self.weight_hh_l0.device.type == "cpu":
            cpu.prepare(form, self.weight_hh_l0.dtype)

    def project(self, x: Tensor, inputs: GateWeights) -> Tensor:
        """The input side of bins x (..., I): (..., 3 H), normalized if the sides are so apart."""
        u = F.linear(x, inputs.weight, inputs.bias)
        return self.normalize(u, inputs.gain, inputs.shift) if self.place == "apart" else u

    def pre_activations(
        self, u: Tensor, h: Tensor, recurrent: GateWeights
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The arguments of sigmoid (z, r) and of tanh, each (..., H), for the input side u."""
        weight, bias, gain, shift = recurrent
        a = F.linear(h, weight, bias)
        sizes = (2 * self.hidden_size, self.hidden_size)
        if self.place == "sum":
            total = F.layer_norm(u + a, (3 * self.hidden_size,), gain, shift, self.eps)
            z, r, candidate = total.chunk(3, dim=-1)
            return z, r, torch.sigmoid(r) * candidate
        if self.place == "sum2":
            (gates_u, new_u), (gates_a, new_a) = u.split(sizes, -1), a.split(sizes, -1)
            gains, shifts = (_parts(values, sizes) for values in (gain, shift))
            gates = F.layer_norm(gates_u + gates_a, sizes[:1], gains[0], shifts[0], self.eps)
            z, r = gates.chunk(2, dim=-1)
            new = new_u + torch.sigmoid(r) * new_a
            return z, r, F.layer_norm(new, sizes[1:], gains[1], shifts[1], self.eps)
        a = self.normalize(a, gain, shift)
        (gates_u, new_u), (gates_a, new_a) = u.split(sizes, -1), a.split(sizes, -1)
        z, r = (gates_u + gates_a).chunk(2, dim=-1)
        return z, r, new_u + torch.sigmoid(r) * new_a

    def normalize(self, a: Tensor, gain: Tensor | None, shift: Tensor | None) -> Tensor:
        """LN of a (..., 3 H): of both gates together (..., 2 H) and of the candidate (..., H).

        A subclass may define another normalization of each side; the loop then always runs.
        """
        sizes = (2 * self.hidden_size, self.hidden_size)
        parts = zip(a.split(sizes, -1), _parts(gain, sizes), _parts(shift, sizes), strict=True)
        return torch.cat([F.layer_norm(a, a.shape[-1:], g, s, self.eps) for a, g, s in parts], -1)


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
            return StackedRecurrent.forward(self, input, hx)
        return nn.GRU.forward(self, input, hx)

    def forward_windows(self, bins: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
        if self._fused(bins, None):
            return super().forward_windows(bins, windows)
        return nn.GRU.forward(self, bins[windows])

    prepare = LayerNormGRU.prepare

    def _fused(self, x: Tensor, h: Tensor | None) -> bool:
        return self.use_fused and cpu.serves(x, h, self.weight_hh_l0, "plain")

    def _run_direction(
        self, x: Tensor, state: Tensor | None, suffix: str, index: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        from bci_decode.layers.cpu.autograd import fused_gru

        inputs, recurrent = (gate_weights(self, side, suffix) for side in ("ih", "hh"))
        y = fused_gru(x, state, inputs, recurrent, "plain", index=index)
        return y, y[-1]

    def __prepare_scriptable__(self) -> nn.GRU:
        """For torch.jit.script: a `torch.nn.GRU` that shares this layer's weights."""
        gru = copy.copy(self)
        gru.__class__ = nn.GRU  # type: ignore[assignment]
        return gru


def kernel_form(layer: GRU | LayerNormGRU) -> str | None:
    """The kernels that compute the layer: "plain", or the place of its norm.

    None for a subclass with arithmetic of its own.
    """
    if isinstance(layer, GRU):
        return "plain"
    own = ("normalize", "project", "pre_activations")
    inherited = all(getattr(type(layer), n) is getattr(LayerNormGRU, n) for n in own)
    return layer.place if inherited else None


def _parts(values: Tensor | None, sizes: tuple[int, int]) -> tuple[Tensor | None, ...]:
    return (None, None) if values is None else values.split(sizes)
