"""Base class of recurrent layers that list their parameters' shapes."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import nn

from bci_decode.layers.stacked import Shape, StackedRecurrent
from bci_decode.layers.weights import layer_names


class ParametrizedRecurrent(StackedRecurrent):
    """Checks the arguments of `torch.nn.GRU` and makes the parameters of each layer.

    A subclass defines `_shapes` and `_run_direction`, and calls `_make_parameters` at the end of
    its constructor. `SHOWN` are attributes of its own that its representation has.
    """

    SHOWN: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
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

    def _shapes(self, inputs: int) -> dict[str, Shape | None]:
        """Name without suffix -> shape of each parameter of a layer; None for one left out."""
        raise NotImplementedError

    def _make_parameters(self, device: torch.device | str | None, dtype: torch.dtype | None):
        for suffix in layer_names(self):
            first = suffix.startswith("l0")
            inputs = self.input_size if first else self.output_size * (1 + self.bidirectional)
            for name, shape in self._shapes(inputs).items():
                parameter = None
                if shape is not None:
                    parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                self.register_parameter(f"{name}_{suffix}", parameter)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw weights and biases uniformly within 1 / sqrt(H), as `torch.nn.GRU` does.

        Gains of norms are `initial_gain` or else 1, their biases 0.
        """
        bound = 1.0 / math.sqrt(self.hidden_size)
        for name, parameter in self.named_parameters():
            if name.startswith("norm_gain"):
                parameter.fill_(getattr(self, "initial_gain", 1.0))
            elif name.startswith("norm_bias"):
                parameter.zero_()
            else:
                parameter.uniform_(-bound, bound)

    def extra_repr(self) -> str:
        names = ("num_layers", "bias", "batch_first", "dropout", "bidirectional", *self.SHOWN)
        options = (f"{name}={getattr(self, name)}" for name in names)
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *options])

    def __prepare_scriptable__(self) -> nn.Module:
        raise NotImplementedError(
            f"torch.jit.script cannot compile {type(self).__name__}: "
            "use torch.jit.trace, torch.export or torch.compile"
        )
