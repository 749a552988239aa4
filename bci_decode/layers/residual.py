"""Deep stacks of recurrent layers with residual connections and layer normalization.

Shapes: B sequences, T bins, I inputs, H hidden_size, D directions, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bci_decode.errors import BciDecodeError
from bci_decode.layers.stacked import Shape, StackedRecurrent, _map_state

MIN_LAYERS, MAX_LAYERS = 2, 8
NORMS, INITS = ("pre", "post"), ("default", "admin")
PROFILE_SHAPE = (64, 32)  # bins and sequences of noise that Admin measures


class ResidualStack(StackedRecurrent):
    """One-layer recurrences f_1 to f_L, each with a residual connection and a LayerNorm.

    A linear map takes the inputs to x of D H columns. Then in each layer

        norm="pre":   x = x + f(LN(x))           trains at any depth (Xiong et al. 2020)
        norm="post":  x = LN(omega * x + f(x))   omega = 1 is the original form

    `init="admin"` makes omega, (D H) in each layer, a parameter that starts from a profile, so that
    deep post-norm stacks train too (Liu et al. 2020, "Understanding the difficulty of training
    transformers"). The profile is taken at construction, on white noise of unit variance with
    omega = 1: omega_1 = 1, and omega_l is the SD of the sum of the stack's x and of all f below l,
    as if nothing had normalized it.

    `layer(D H, H, bidirectional=...)` makes one layer: a class of this package, `torch.nn.GRU`, ...
    `dropout` falls on each f. Call, shapes and the order of the states are those of a
    `torch.nn.GRU` of L layers. The input map is `weight_ih_l0` (D H, I) and `bias_ih_l0`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 2,
        *,
        layer: Callable[..., nn.Module],
        norm: str = "pre",
        init: str = "default",
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        _check_options(num_layers, norm, init, dropout)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.norm, self.init, self.dropout = norm, init, dropout
        self.batch_first, self.bidirectional = batch_first, bidirectional
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        width = hidden_size * (1 + bidirectional)
        self.weight_ih_l0 = nn.Parameter(torch.empty(width, input_size, **options))
        self.bias_ih_l0 = nn.Parameter(torch.empty(width, **options))
        bound = 1 / math.sqrt(input_size)
        for parameter in (self.weight_ih_l0, self.bias_ih_l0):
            nn.init.uniform_(parameter, -bound, bound)
        self.layers = nn.ModuleList(
            layer(width, hidden_size, bidirectional=bidirectional, **options)
            for _ in range(num_layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width, **options) for _ in range(num_layers))
        self.omegas = nn.ParameterList(
            torch.ones(width, **options) for _ in range(num_layers * (init == "admin"))
        )
        if any(getattr(one, "needs_stack", False) for one in self.layers):
            raise BciDecodeError(
                f"{type(self.layers[0]).__name__} bounds its gates by its place in its own stack",
                field="model.recurrent.layer",
                remedy="choose another layer, or model=hgrn without a residual stack",
            )
        if init == "admin":
            self._profile()

    @property
    def state_shapes(self) -> tuple[Shape, ...]:
        return getattr(self.layers[0], "state_shapes", ((self.hidden_size,),))

    def prepare(self) -> None:
        for layer in self.layers:
            if isinstance(layer, StackedRecurrent):
                layer.prepare()

    def _run_layers(self, x: Tensor, state: Any, index: Tensor | None = None) -> tuple[Tensor, Any]:
        self._check(x, state, x.shape[1] if index is None else index.shape[1])
        x = F.linear(x, self.weight_ih_l0, self.bias_ih_l0)
        x = x if index is None else x[index]  # (T, B, D H)
        directions, finals = 1 + self.bidirectional, []
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            own = slice(number * directions, (number + 1) * directions)
            start = None if state is None else _map_state(lambda h: h[own], state)  # noqa: B023
            y, final = layer(norm(x) if self.norm == "pre" else x, start)
            y = F.dropout(y, self.dropout, self.training)
            x = x + y if self.norm == "pre" else norm(self._scaled(x, number) + y)
            finals.append(final)
        return x, _map_state(lambda *states: torch.cat(states), *finals)

    def _scaled(self, x: Tensor, number: int) -> Tensor:
        return self.omegas[number] * x if len(self.omegas) else x

    @torch.no_grad()
    def _profile(self) -> None:
        """Set each omega from the variances of the input map's and the layers' outputs."""
        noise = torch.randn(
            *PROFILE_SHAPE, self.input_size, generator=torch.Generator().manual_seed(0)
        )
        x = F.linear(noise.to(self.weight_ih_l0), self.weight_ih_l0, self.bias_ih_l0)
        training, variance = self.training, x.var()
        self.eval()
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            if number:
                self.omegas[number].fill_(variance.sqrt())
            y = layer(x)[0]
            variance = variance + y.var()
            x = norm(x + y)
        self.train(training)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, norm={self.norm}, init={self.init}"


def _check_options(num_layers: int, norm: str, init: str, dropout: float) -> None:
    if not MIN_LAYERS <= num_layers <= MAX_LAYERS:
        raise ValueError(f"num_layers is {num_layers}, choose {MIN_LAYERS} to {MAX_LAYERS}")
    if norm not in NORMS:
        raise ValueError(f"norm is {norm!r}, choose {', '.join(NORMS)}")
    if init not in INITS:
        raise ValueError(f"init is {init!r}, choose {', '.join(INITS)}")
    if init == "admin" and norm != "post":
        raise ValueError("init 'admin' scales the residual of norm 'post', not of 'pre'")
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout is {dropout}, it must be a probability")
