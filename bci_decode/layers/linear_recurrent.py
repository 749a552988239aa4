"""Recurrent layers that are linear in their state: minGRU, LRU and HGRN.

Training takes all bins at once (`layers.scan`); a bin more costs O(H), and the linear maps, which
see the bin and not the state.

Shapes: B sequences, T bins, I inputs, H hidden_size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bci_decode.layers.parametrized import ParametrizedRecurrent
from bci_decode.layers.scan import linear_scan
from bci_decode.layers.stacked import Shape


class MinGRU(ParametrizedRecurrent):
    """A GRU whose gate and candidate see only the input (Feng et al. 2024).

    In each bin:

        z = sigmoid(W_z x)
        c = W x, or with `positive` g(W x)        g(a) = a + 1/2 from 0 on, sigmoid(a) below
        h = (1 - z) h + z c

    `positive` keeps all states above 0, as the paper's log-space form does. Arguments, call and
    shapes are those of `torch.nn.GRU`. W_z over W is `weight_ih_l0` (2 H, I).
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
        positive: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        )
        self.positive = positive
        self._make_parameters(device, dtype)

    def _shapes(self, inputs: int) -> dict[str, Shape | None]:
        rows = 2 * self.hidden_size
        return {"weight_ih": (rows, inputs), "bias_ih": (rows,) if self.bias else None}

    def _run_direction(
        self, x: Tensor, state: Tensor | None, suffix: str, index: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        z, c = _project(self, x, suffix, index).chunk(2, dim=-1)
        z = torch.sigmoid(z)
        if self.positive:
            c = torch.where(c < 0, torch.sigmoid(c), c + 0.5)
        h = linear_scan(1 - z, z * c, state)
        return h, h[-1]


class HGRN(ParametrizedRecurrent):
    """A gated linear recurrence with forget gates bounded below (Qin, Yang and Zhong 2023).

    The real-valued form of the paper's HGRU. In each bin, in layer l:

        c, f, g = W x
        f       = bound_l + (1 - bound_l) sigmoid(f)
        h       = f h + (1 - f) silu(c)
        y       = V LN(sigmoid(g) h)

    bound_l is the sum of softmax(Gamma) over layers 2 to l, in each column: 0 in the first layer,
    and larger in the layers above, which so keep what is past for longer. Gamma is learned; its row
    of a layer is `bound_l0` (H). Arguments, call and shapes are those of `torch.nn.GRU`. W is
    `weight_ih_l0` (3 H, I), V `weight_ho_l0` (H, H).
    """

    needs_stack = True  # the lower bounds differ from layer to layer

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
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        )
        self.eps = eps
        self._make_parameters(device, dtype)

    def _shapes(self, inputs: int) -> dict[str, Shape | None]:
        hidden = self.hidden_size
        return {
            "weight_ih": (3 * hidden, inputs),
            "bias_ih": (3 * hidden,) if self.bias else None,
            "weight_ho": (hidden, hidden),
            "bias_ho": (hidden,) if self.bias else None,
            "norm_gain": (hidden,),
            "norm_bias": (hidden,),
            "bound": (hidden,),
        }

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw weights as `torch.nn.GRU` does; the bounds rise evenly from layer to layer."""
        super().reset_parameters()
        for name, parameter in self.named_parameters():
            if name.startswith("bound"):
                parameter.zero_()

    def lower_bound(self, suffix: str) -> Tensor:
        """The lowest value of a layer's forget gates, (H,); `suffix` is l0, l0_reverse, l1, ..."""
        number, _, direction = suffix[1:].partition("_")
        end = f"_{direction}" if direction else ""
        rows = [getattr(self, f"bound_l{layer}{end}") for layer in range(self.num_layers)]
        return torch.stack(rows).softmax(0)[1 : int(number) + 1].sum(0)

    def _run_direction(
        self, x: Tensor, state: Tensor | None, suffix: str, index: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        c, f, g = _project(self, x, suffix, index).chunk(3, dim=-1)
        bound = self.lower_bound(suffix)
        f = bound + (1 - bound) * torch.sigmoid(f)
        h = linear_scan(f, (1 - f) * F.silu(c), state)
        gain, shift = (getattr(self, f"norm_{kind}_{suffix}") for kind in ("gain", "bias"))
        y = F.layer_norm(torch.sigmoid(g) * h, h.shape[-1:], gain, shift, self.eps)
        weight, bias = (getattr(self, f"{kind}_ho_{suffix}") for kind in ("weight", "bias"))
        return F.linear(y, weight, bias), h[-1]


class LRU(ParametrizedRecurrent):
    """The linear recurrent unit: H complex numbers that turn and fade (Orvieto et al. 2023).

    In each bin, with elementwise products of complex numbers:

        h = lambda h + gamma B x         lambda = exp(-exp(nu) + i exp(theta))
        y = Re(C h) + D x

    At first the |lambda| lie between `r_min` and `r_max`, evenly over the ring's area, their phases
    between 0 and `max_phase` (radians per bin), and gamma = sqrt(1 - |lambda|^2) gives h the
    variance of B x whatever lambda is. nu, theta and log gamma are learned: `nu_log_l0`,
    `theta_log_l0`, `gamma_log_l0` (H).

    `glu` adds the rest of the branch of the paper's block, which makes the layer nonlinear:
    y = U a * sigmoid(V a) with a = gelu(y). Around it the paper has a norm and a residual
    connection: `ResidualStack` with norm="pre", see `conf/model/lru.yaml`.

    Arguments, call and shapes are those of `torch.nn.GRU`, but that the state is complex. All
    parameters are real: `weight_ih_l0` (2 H, I) has in turn rows of Re B and Im B, `weight_ho_l0`
    (H, 2 H) columns of Re C and -Im C. D is diagonal, `skip_l0` (H), as in the authors' code;
    where I is not H there is none. U over V is `weight_glu_l0` (2 H, H). `bias` adds `bias_ho_l0`
    to y and `bias_glu_l0` to U a and V a; the paper has only the latter.
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
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
        glu: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        )
        if not 0 <= r_min < r_max <= 1:
            raise ValueError(f"r_min {r_min} and r_max {r_max} must be 0 <= r_min < r_max <= 1")
        if not 0 < max_phase <= 2 * math.pi:
            raise ValueError(f"max_phase is {max_phase}, it must be above 0 and at most 2 pi")
        self.r_min, self.r_max, self.max_phase, self.glu = r_min, r_max, max_phase, glu
        self._make_parameters(device, dtype)

    def _shapes(self, inputs: int) -> dict[str, Shape | None]:
        hidden = self.hidden_size
        return {
            "nu_log": (hidden,),
            "theta_log": (hidden,),
            "gamma_log": (hidden,),
            "weight_ih": (2 * hidden, inputs),
            "weight_ho": (hidden, 2 * hidden),
            "bias_ho": (hidden,) if self.bias else None,
            "skip": (hidden,) if inputs == hidden else None,
            "weight_glu": (2 * hidden, hidden) if self.glu else None,
            "bias_glu": (2 * hidden,) if self.glu and self.bias else None,
        }

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw lambda on the ring, the maps so that each keeps the variance, and biases of 0."""
        for name, parameter in self.named_parameters():
            kind = name.rpartition("_l")[0]
            if kind == "nu_log":
                share = torch.rand_like(parameter).clamp(1e-6, 1 - 1e-6)
                square = share * (self.r_max**2 - self.r_min**2) + self.r_min**2
                parameter.copy_(torch.log(-0.5 * torch.log(square)))
            elif kind == "theta_log":
                phase = self.max_phase * torch.rand_like(parameter).clamp(min=1e-6)
                parameter.copy_(torch.log(phase))
            elif kind.startswith("bias"):
                parameter.zero_()
            elif kind == "gamma_log":
                nu_log = getattr(self, name.replace("gamma", "nu"))
                parameter.copy_(0.5 * torch.log(-torch.expm1(-2 * nu_log.exp())))
            elif kind == "skip":
                parameter.normal_()
            else:  # half the variance for each of the two parts, in rows of B and columns of C
                columns = parameter.shape[1]
                variance = 1 / (2 * columns) if kind == "weight_ih" else 2 / columns
                parameter.normal_(0, math.sqrt(variance))

    def eigenvalues(self, suffix: str) -> Tensor:
        """The complex lambda of a layer, (H,); `suffix` is l0, l0_reverse, l1, ..."""
        nu, theta = (getattr(self, f"{name}_log_{suffix}").exp() for name in ("nu", "theta"))
        return torch.polar(torch.exp(-nu), theta)

    def _run_direction(
        self, x: Tensor, state: Any, suffix: str, index: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        x = x if index is None else x[index]
        inputs = torch.view_as_complex(self.project(x, suffix).unflatten(-1, (-1, 2)))
        h = linear_scan(self.eigenvalues(suffix), inputs, state)
        return self.read_out(torch.view_as_real(h).flatten(-2), x, suffix), h[-1]

    def project(self, x: Tensor, suffix: str) -> Tensor:
        """gamma B x of bins x (T, B, I), as pairs of real numbers (T, B, 2 H)."""
        gamma = getattr(self, f"gamma_log_{suffix}").exp().repeat_interleave(2)
        return F.linear(x, gamma[:, None] * getattr(self, f"weight_ih_{suffix}"))

    def read_out(self, pairs: Tensor, x: Tensor, suffix: str) -> Tensor:
        """The outputs (T, B, H) of the states, as pairs (T, B, 2 H), and of the bins x."""
        parameters = {name: getattr(self, f"{name}_{suffix}") for name in self._shapes(1)}
        y = F.linear(pairs, parameters["weight_ho"], parameters["bias_ho"])
        if parameters["skip"] is not None:
            y = torch.addcmul(y, parameters["skip"], x)
        if self.glu:
            y = F.glu(F.linear(F.gelu(y), parameters["weight_glu"], parameters["bias_glu"]))
        return y


def _project(layer: Any, x: Tensor, suffix: str, index: Tensor | None) -> Tensor:
    """The input map of bins x, of each bin once: (T, B, rows)."""
    u = F.linear(x, getattr(layer, f"weight_ih_{suffix}"), getattr(layer, f"bias_ih_{suffix}"))
    return u if index is None else u[index]
