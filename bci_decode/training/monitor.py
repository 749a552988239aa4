"""Columns of the history that show what an epoch of training does inside the recurrent layers."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from bci_decode.data.parts import Window
from bci_decode.layers.introspection import GATES, check_supported, pre_activations, share_outside
from bci_decode.layers.weights import SIDES, layer_names

MAX_WINDOWS, MAX_BINS = 256, 500  # of the input: gives some ten thousand values for each unit


def monitor_input(counts: Tensor, window: Window) -> Tensor:
    """What a decoder sees of a part, counts (T, N).

    Windows (B, T, N) spread over the part, or the beginning of the stream (1, T, N).
    """
    if window.history is None:
        return counts[None, :MAX_BINS]
    starts = np.linspace(0, len(counts) - window.span, MAX_WINDOWS).astype(int)
    bins = np.unique(starts)[:, None] + window.step * np.arange(window.length)
    return counts[torch.as_tensor(bins, device=counts.device)]


class LayerMonitor:
    """Adds columns for each layer to the history, without any effect on training.

    `saturated_l0_update` (reset, candidate): share of the pre-activations of input `x` outside
    (-4, 4). `grad_norm_l0_ih` (hh): mean over the epoch's steps of the gradient's norm before
    clipping, empty at epoch 0. `weight_norm_l0_ih` (hh): norm of the weights after the epoch.
    """

    def __init__(self, recurrent: nn.Module, x: Tensor):
        check_supported(recurrent)
        self.recurrent, self.x = recurrent, x
        layers = layer_names(recurrent)
        self.weights: dict[str, nn.Parameter] = {
            f"{name}_{side}": getattr(recurrent, f"weight_{side}_{name}")
            for name in layers
            for side in SIDES
        }
        self.names = [f"saturated_{name}_{gate}" for name in layers for gate in GATES]
        self.names += [
            f"{kind}_{name}" for kind in ("grad_norm", "weight_norm") for name in self.weights
        ]
        self._reset()

    def _reset(self) -> None:
        self.steps, self.norms = 0, torch.zeros(len(self.weights), device=self.x.device)

    @torch.no_grad()
    def after_backward(self) -> None:
        """Add the norms of a step's gradients."""
        norms = [weight.grad.norm() for weight in self.weights.values()]  # type: ignore[union-attr]
        self.norms += torch.stack(norms)
        self.steps += 1

    @torch.no_grad()
    def columns(self) -> dict[str, float]:
        """The values of `names` for the steps since the last call."""
        gradients = (
            (self.norms / self.steps).tolist() if self.steps else [math.nan] * len(self.weights)
        )
        self._reset()
        layers = pre_activations(self.recurrent, self.x)
        values = [share_outside(gates[gate]) for gates in layers.values() for gate in GATES]
        values += gradients + [float(weight.norm()) for weight in self.weights.values()]
        return dict(zip(self.names, values, strict=True))
