"""Run a recurrent layer one bin at a time, as a live decoder does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bci_decode.layers.cpu import prepare
from bci_decode.layers.recurrent import GRU, LayerNormGRU, kernel_form
from bci_decode.layers.weights import SIDES, gate_weights


class Stepper:
    """Runs a unidirectional `GRU` or `LayerNormGRU` on the CPU one bin at a time.

    A step gives the same bits as the layer's pass over the whole sequence. Weights are copied at
    construction; build a new Stepper after further training. Use a Stepper in one thread at a time.
    Without numba it calls a copy of the layer, which takes several times as long.
    """

    def __init__(self, layer: GRU | LayerNormGRU):
        _check_layer(layer)
        self._layer = copy.deepcopy(layer).requires_grad_(False)
        self._inputs, self._shape = layer.input_size, (layer.num_layers, layer.hidden_size)
        self._dtype = layer.weight_hh_l0.detach().numpy().dtype
        self._run = self._runner()

    def step(self, x: np.ndarray, h: np.ndarray) -> np.ndarray:
        """The state (L, H) after a bin x (I,), from the state h before it; row -1 is the output.

        x and h are arrays of the layer's type; the result is a new array.
        """
        if (
            h.shape != self._shape
            or h.dtype != self._dtype
            or x.dtype != self._dtype
            or x.shape != (self._inputs,)
        ):
            raise ValueError(
                f"takes x and h of {self._dtype}, x ({self._inputs},), h {self._shape}; "
                f"given x {x.dtype} {x.shape}, h {h.dtype} {h.shape}"
            )
        return self._run(x, h)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_run"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._run = self._runner()

    def _runner(self) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        layer, form = self._layer, kernel_form(self._layer) or ""
        if not layer.use_fused or not prepare(form, layer.weight_hh_l0.dtype):
            return self._step_of_layer
        from bci_decode.layers.cpu.autograd import step_kernel

        suffixes = [f"l{number}" for number in range(layer.num_layers)]
        sides = [[gate_weights(layer, side, suffix) for side in SIDES] for suffix in suffixes]
        return step_kernel(sides, form, getattr(layer, "eps", 0.0))

    def _step_of_layer(self, x: np.ndarray, h: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            state = torch.from_numpy(h.copy())[:, None]
            return self._layer(torch.from_numpy(x.copy())[None, None], state)[1][:, 0].numpy()


def _check_layer(layer: Any) -> None:
    if not isinstance(layer, (GRU, LayerNormGRU)):
        problem = f"not {type(layer).__name__}"
    elif layer.bidirectional:
        problem = "a bidirectional layer reads later bins"
    elif layer.weight_hh_l0.device.type != "cpu":
        problem = f"this one is on {layer.weight_hh_l0.device}; move a copy to the CPU"
    elif layer.weight_hh_l0.dtype not in (torch.float32, torch.float64):
        problem = f"this one has {layer.weight_hh_l0.dtype}; convert a copy to float32"
    elif kernel_form(layer) is None:
        problem = f"{type(layer).__name__} has arithmetic of its own"
    else:
        return
    raise ValueError(
        "can step only a unidirectional GRU or LayerNormGRU on the CPU in float32 or float64: "
        + problem
    )
