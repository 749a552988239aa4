"""The pre-activations inside a recurrent layer.

Shapes: B sequences, T bins, I inputs, H hidden_size. Each layer and direction is named as the
suffix of its weights: l0, l0_reverse, l1, ...
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bci_decode.errors import BciDecodeError
from bci_decode.layers.recurrent import LayerNormGRU
from bci_decode.layers.weights import SIDES, gate_weights, layer_names

GATES = ("update", "reset", "candidate")
SATURATION_BAND = 4.0  # beyond it sigmoid's slope is < 1/14 of its largest, tanh's < 1/700


@torch.no_grad()
def pre_activations(recurrent: nn.Module, x: Tensor) -> dict[str, dict[str, Tensor]]:
    """The arguments of sigmoid (update, reset) and tanh (candidate) of each layer and direction.

    `recurrent` is a `torch.nn.GRU` or a `LayerNormGRU`, x an input of it. Starts from zero states
    and uses no dropout. Returns for each layer name and each of `GATES` an array laid out as x,
    (..., H). For both kinds of layer, with h the state of the bin before,

        h_next = (1 - sigmoid(update)) h + sigmoid(update) tanh(candidate),

    so the sign of torch's update gate is changed, whose sigmoid is the share of the OLD state.
    `candidate` is all of tanh's argument, including the product with the reset gate.
    """
    check_supported(recurrent)
    batched, batch_first = x.dim() == 3, bool(recurrent.batch_first)
    x = (x.transpose(0, 1) if batch_first else x) if batched else x.unsqueeze(1)  # (T, B, I)
    result: dict[str, dict[str, Tensor]] = {}
    outputs: list[Tensor] = []  # of the layer's directions so far
    for name in layer_names(recurrent):
        reverse = name.endswith("_reverse")
        if not reverse:
            x, outputs = (torch.cat(outputs, dim=-1) if outputs else x), []
        seen = x.flip(0) if reverse else x
        layer = _extract_layer(recurrent, name, x.shape[-1])
        y = layer(seen)[0]  # (T, B, H)
        gates = _gates(layer, seen, torch.cat([torch.zeros_like(y[:1]), y[:-1]]))
        if reverse:
            y, gates = y.flip(0), [a.flip(0) for a in gates]
        outputs.append(y)
        as_x = (
            (a.transpose(0, 1) if batch_first else a) if batched else a.squeeze(1) for a in gates
        )
        result[name] = dict(zip(GATES, as_x, strict=True))
    return result


def check_supported(recurrent: nn.Module) -> None:
    """Refuse layers other than `torch.nn.GRU` and `LayerNormGRU`."""
    if not isinstance(recurrent, (nn.GRU, LayerNormGRU)):
        raise BciDecodeError(
            f"knows torch.nn.GRU and LayerNormGRU, not {type(recurrent).__name__}",
            field="trainer.monitor_layers",
            remedy="set it to false, or choose model=gru or model=lngru",
        )


def share_outside(values: Tensor, band: float = SATURATION_BAND) -> float:
    """The share of values below -band or above band."""
    return float((values.abs() > band).double().mean())


def _extract_layer(recurrent: nn.Module, name: str, inputs: int) -> nn.Module:
    """One layer in one direction as a module: a stack returns only its last layer's states."""
    options: dict[str, Any] = {"bias": recurrent.bias}
    if isinstance(recurrent, LayerNormGRU):
        options |= {name: getattr(recurrent, name) for name in ("affine", "eps", "place")}
    with torch.random.fork_rng(devices=()):  # its initial weights must not use training's numbers
        layer = type(recurrent)(inputs, recurrent.hidden_size, **options)
    weights = recurrent.state_dict()
    layer.to(next(recurrent.parameters()))
    own = [key for key in weights if key.endswith(f"_{name}")]
    layer.load_state_dict({f"{key.removesuffix(name)}l0": weights[key] for key in own})
    return layer


def _gates(layer: nn.Module, x: Tensor, h: Tensor) -> list[Tensor]:
    """`GATES` of one layer for inputs x (T, B, I) and the states before them h (T, B, H)."""
    inputs, recurrent = (gate_weights(layer, side, "l0") for side in SIDES)
    if isinstance(layer, LayerNormGRU):
        update, reset, candidate = layer.pre_activations(layer.project(x, inputs), h, recurrent)
        return [update, reset, candidate]
    of_x = F.linear(x, inputs.weight, inputs.bias).chunk(3, -1)  # torch's rows: reset, update
    of_h = F.linear(h, recurrent.weight, recurrent.bias).chunk(3, -1)
    reset = of_x[0] + of_h[0]
    return [-(of_x[1] + of_h[1]), reset, of_x[2] + torch.sigmoid(reset) * of_h[2]]
