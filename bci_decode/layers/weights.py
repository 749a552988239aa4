"""Names and weights of a recurrent layer, laid out as in `torch.nn.GRU`.

Shapes: I inputs, H hidden_size. Side "ih" maps the inputs, side "hh" the state before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

SIDES = ("ih", "hh")


class GateWeights(NamedTuple):
    """One side of a layer: weight (G H, .); bias, norm gain and norm bias (G H), or None.

    G is 3 in a GRU, 4 in an LSTM, 1 in a simple RNN.
    """

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
    """One side's parameters of a recurrent layer; None for those it lacks."""
    names = ("weight", "bias", "norm_gain", "norm_bias")
    parameters: list[Any] = [getattr(layer, f"{name}_{side}_{suffix}", None) for name in names]
    return GateWeights(*parameters)


def as_torchs(side: GateWeights) -> GateWeights:
    """Rows z, r, candidate in the order of `torch.nn.GRU`, whose z is the share of the OLD state.

    Without gain and norm bias, which that layer lacks.
    """
    weight, bias = (_turned(rows) for rows in side[:2])
    assert weight is not None
    return GateWeights(weight, bias, None, None)


def _turned(rows: Tensor | None) -> Tensor | None:
    if rows is None:
        return None
    z, r, candidate = rows.chunk(3)
    return torch.cat([r, -z, candidate])


def with_norms(
    inputs: GateWeights, recurrent: GateWeights, norms: Mapping[str, Any]
) -> tuple[GateWeights, GateWeights]:
    """Both sides with the gains and biases of LayerNorms, as the compiled kernels take them.

    The names of the norms on the input side begin with "input"; all others, also those of a sum,
    belong to the recurrent side.
    """
    of_input = [norm for name, norm in norms.items() if name.startswith("input")]
    others = [norm for name, norm in norms.items() if not name.startswith("input")]
    return _with_gains(inputs, of_input), _with_gains(recurrent, others)


def _with_gains(side: GateWeights, norms: list[Any]) -> GateWeights:
    return side._replace(
        gain=_joined(norm.gain for norm in norms), shift=_joined(norm.bias for norm in norms)
    )


def _joined(values: Iterable[Tensor | None]) -> Tensor | None:
    given = [value for value in values if value is not None]
    return torch.cat(given) if given else None
