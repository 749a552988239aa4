"""What goes on inside a recurrent layer: its pre-activations, and what an epoch of training does to its weights.

Shapes: B sequences, T bins, I inputs, H hidden_size. A layer, or a direction of it, has the name that its weights end in:
l0, l0_reverse, l1, ...
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bci_decode.data.dataset import Window
from bci_decode.errors import BciDecodeError
from bci_decode.layers import LayerNormGRU

GATES = ("update", "reset", "candidate")
SIDES = ("ih", "hh")  # the input's weights, the recurrent ones
BAND = 4.0  # beyond it sigmoid's slope is below a fourteenth of its greatest, tanh's below a seven hundredth
MOST_WINDOWS, MOST_BINS = (
    256,
    500,
)  # that an epoch's shares are taken from: some ten thousand values for each unit


def layer_names(recurrent: nn.Module) -> list[str]:
    """The suffixes of a layer's weights, in their order: l0, l0_reverse, l1, ..."""
    ways = ("", "_reverse")[: 1 + bool(recurrent.bidirectional)]
    return [f"l{layer}{way}" for layer in range(int(recurrent.num_layers)) for way in ways]  # type: ignore[arg-type]


@torch.no_grad()
def pre_activations(recurrent: nn.Module, x: Tensor) -> dict[str, dict[str, Tensor]]:
    """What goes into sigmoid (update, reset) and tanh (candidate) of every layer, from a zero state, without dropout.

    `recurrent` is a `torch.nn.GRU` or a `LayerNormGRU`, x what it takes. Of each layer by name, of each of `GATES` an
    array laid out as x, (..., H). Both kinds of layer obey, with h the state of the bin before,

        h_next = (1 - sigmoid(update)) h + sigmoid(update) tanh(candidate),

    so torch's update pre-activation, whose sigmoid is the share of the OLD state, has its sign turned. `candidate` is the
    whole of tanh's argument, the reset gate's product in it.
    """
    _check(recurrent)
    batched, batch_first = x.dim() == 3, bool(recurrent.batch_first)
    x = (x.transpose(0, 1) if batch_first else x) if batched else x.unsqueeze(1)  # (T, B, I)
    found: dict[str, dict[str, Tensor]] = {}
    outputs: list[Tensor] = []  # of the layer's directions so far
    for name in layer_names(recurrent):
        if not name.endswith("_reverse"):
            x, outputs = (torch.cat(outputs, dim=-1) if outputs else x), []
        seen = x.flip(0) if name.endswith("_reverse") else x
        layer = _alone(recurrent, name, x.shape[-1])
        y = layer(seen)[0]  # (T, B, H)
        gates = _gates(layer, seen, torch.cat([torch.zeros_like(y[:1]), y[:-1]]))
        if name.endswith("_reverse"):
            y, gates = y.flip(0), [a.flip(0) for a in gates]
        outputs.append(y)
        laid_out = (
            (a.transpose(0, 1) if batch_first else a) if batched else a.squeeze(1) for a in gates
        )
        found[name] = dict(zip(GATES, laid_out, strict=True))
    return found


def _check(recurrent: nn.Module) -> None:
    if not isinstance(recurrent, (nn.GRU, LayerNormGRU)):
        raise BciDecodeError(
            f"knows torch.nn.GRU and LayerNormGRU, not {type(recurrent).__name__}",
            field="trainer.monitor_layers",
            remedy="set it to false, or choose another model.recurrent",
        )


def _alone(recurrent: nn.Module, name: str, inputs: int) -> nn.Module:
    """One layer in one direction as a layer of its own, since the whole returns the states of its last layer only."""
    options: dict[str, Any] = {"bias": recurrent.bias}
    if isinstance(recurrent, LayerNormGRU):
        options |= {"affine": recurrent.affine, "eps": recurrent.eps}
    with torch.random.fork_rng(
        devices=()
    ):  # the weights it starts with are not to use up training's random numbers
        alone = type(recurrent)(inputs, recurrent.hidden_size, **options)
    weights = recurrent.state_dict()
    alone.to(next(recurrent.parameters()))
    alone.load_state_dict(
        {f"{key.removesuffix(name)}l0": weights[key] for key in weights if key.endswith(f"_{name}")}
    )
    return alone


def _gates(layer: nn.Module, x: Tensor, h: Tensor) -> list[Tensor]:
    """`GATES` of one layer for inputs x (T, B, I) and the states before them h (T, B, H): all bins at once."""
    of_x, of_h = (
        _linear(layer, side, a).chunk(3, dim=-1) for side, a in zip(SIDES, (x, h), strict=True)
    )
    if isinstance(layer, LayerNormGRU):
        update, reset = of_x[0] + of_h[0], of_x[1] + of_h[1]
    else:  # torch's rows: reset, update, candidate
        update, reset = -(of_x[1] + of_h[1]), of_x[0] + of_h[0]
    return [update, reset, of_x[2] + torch.sigmoid(reset) * of_h[2]]


def _linear(layer: nn.Module, side: str, a: Tensor) -> Tensor:
    """The linear map of one side and, of a LayerNormGRU, the normalisations after it, the layer's own: (..., 3 H)."""
    if isinstance(layer, LayerNormGRU):
        weight, bias, gain, shift = layer._side(side, "l0")
        return torch.cat(layer._norm(F.linear(a, weight, bias), gain, shift), dim=-1)
    return F.linear(a, getattr(layer, f"weight_{side}_l0"), getattr(layer, f"bias_{side}_l0", None))


def share_outside(values: Tensor, band: float = BAND) -> float:
    """The share of values below -band or above it."""
    return float((values.abs() > band).double().mean())


def watched_input(counts: Tensor, window: Window) -> Tensor:
    """What a decoder sees of a part, counts (T, N): windows (B, T, N) spread over it, or the stream's beginning (1, T, N)."""
    if window.history is None:
        return counts[None, :MOST_BINS]
    starts = np.unique(np.linspace(0, len(counts) - window.length, MOST_WINDOWS).astype(int))
    return counts[torch.as_tensor(starts[:, None] + np.arange(window.length), device=counts.device)]


class Watch:
    """Columns for the history, of each layer: `outside_l0_update` (and reset, candidate), the share of pre-activations
    outside (-4, 4); `grad_norm_l0_ih` (and hh), the mean over the epoch's steps of the gradient's norm before any
    clipping, empty at epoch 0; `weight_norm_l0_ih` (and hh), the norm of the weights at the epoch's end.

    `x` is what the shares are taken from. Watching changes nothing of what is learned.
    """

    def __init__(self, recurrent: nn.Module, x: Tensor):
        _check(recurrent)
        self.recurrent, self.x = recurrent, x
        layers = layer_names(recurrent)
        weights = {
            f"{name}_{side}": getattr(recurrent, f"weight_{side}_{name}")
            for name in layers
            for side in SIDES
        }
        self.weights: dict[str, nn.Parameter] = weights
        self.names = [f"outside_{name}_{gate}" for name in layers for gate in GATES]
        self.names += [
            f"{what}_{name}" for what in ("grad_norm", "weight_norm") for name in weights
        ]
        self._forget()

    def _forget(self) -> None:
        self.steps, self.norms = 0, torch.zeros(len(self.weights), device=self.x.device)

    @torch.no_grad()
    def after_backward(self) -> None:
        """Take note of a step's gradients."""
        self.norms += torch.stack([weight.grad.norm() for weight in self.weights.values()])  # type: ignore[union-attr]
        self.steps += 1

    @torch.no_grad()
    def columns(self) -> dict[str, float]:
        """What has been seen since the last call."""
        gradients = (
            (self.norms / self.steps).tolist() if self.steps else [math.nan] * len(self.weights)
        )
        self._forget()
        found = pre_activations(self.recurrent, self.x)
        values = [share_outside(gates[gate]) for gates in found.values() for gate in GATES]
        values += gradients + [float(weight.norm()) for weight in self.weights.values()]
        return dict(zip(self.names, values, strict=True))
