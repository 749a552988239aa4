"""Names and weights of a recurrent layer, laid out as in `torch.nn.GRU`.

Shapes: I inputs, H hidden_size. Side "ih" maps the inputs, side "hh" the state before.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

SIDES = ("ih", "hh")


class GateWeights(NamedTuple):
    """One side of a gated layer: weight (3 H, .); bias, norm gain and norm bias (3 H), or None."""

    weight: Tensor
    bias: Tensor | None
    gain: Tensor | None
    shift: Tensor | None


def layer_names(layer: nn.Module) -> list[str]:
    """The suffixes of the weights of each layer and direction, in order: l0, l0_reverse, l1, ..."""
    directions = ("", "_reverse")[: 1 + bool(layer.bidirectional)]
    numbers = range(int(layer.num_layers))  # type: ignore[arg-type]
    return [f"l{number}{direction}" for number in numbers for direction in directions]


def gate_weights(layer: nn.Module, side: str, suffix: str) -> GateWeights:
    """One side's parameters of a `torch.nn.GRU` or `LayerNormGRU`; None for those it lacks."""
    names = ("weight", "bias", "norm_gain", "norm_bias")
    parameters: list[Any] = [getattr(layer, f"{name}_{side}_{suffix}", None) for name in names]
    return GateWeights(*parameters)
