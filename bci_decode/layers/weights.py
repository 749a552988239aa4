"""Names and weights of a recurrent layer, laid out as in `torch.nn.GRU`.

Shapes: I inputs, H hidden_size. Side "ih" maps the inputs, side "hh" the state before.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
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


def are_plain(weight: Tensor, x: Tensor, h: Tensor | None) -> bool:
    """Whether compiled kernels can take these tensors: of one type and device, not traced or cast.

    Subclasses of Tensor, autocast, torch.compile and torch.jit.trace need PyTorch's operations.
    """
    given = [weight, x] if h is None else [weight, x, h]
    return (
        all(type(a) in (Tensor, nn.Parameter) for a in given)
        and all(a.dtype == weight.dtype and a.device == weight.device for a in given)
        and not torch.is_autocast_enabled(weight.device.type)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )
