"""Run a recurrent layer one bin at a time, as a live decoder does."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from bci_decode.layers.cpu import prepare
from bci_decode.layers.recurrent import GRU, LayerNormGRU, kernel_form
from bci_decode.layers.weights import SIDES, GateWeights, gate_weights


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
        self._kernel = self._compiled()

    def step(self, x: np.ndarray, h: np.ndarray, prepared: bool = False) -> np.ndarray:
        """The state (L, H) after a bin x (I,), from the state h before it; row -1 is the output.

        x and h are arrays of the layer's type; the result is a new array. `prepared` says that
        `prepare` was called with this h, and nothing since.
        """
        self._check(x, (self._inputs,))
        self._check(h, self._shape)
        if self._kernel is None:
            return self._step_of_layer(x, h)
        if not prepared:
            self._kernel.prepare(h, ahead=False)
        return self._kernel.step(x)

    def prepare(self, h: np.ndarray) -> None:
        """Do what the step from the state h can do without its x: half of its products or more."""
        self._check(h, self._shape)
        if self._kernel is not None:
            self._kernel.prepare(h, ahead=True)

    def _check(self, values: np.ndarray, shape: tuple[int, ...]) -> None:
        if values.shape != shape or values.dtype != self._dtype:
            raise ValueError(
                f"takes x and h of {self._dtype}, x ({self._inputs},), h {self._shape}; "
                f"given {values.dtype} {values.shape}"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_kernel"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._kernel = self._compiled()

    def _compiled(self) -> Any:
        """The compiled step, or None where the layer itself has to run."""
        layer, form = self._layer, kernel_form(self._layer) or ""
        if not layer.use_fused or not prepare(form, layer.weight_hh_l0.dtype):
            return None
        from bci_decode.layers.cpu.steps import StepKernel

        return StepKernel(_sides(layer), form, getattr(layer, "eps", 0.0))

    def _step_of_layer(self, x: np.ndarray, h: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            state = torch.from_numpy(h.copy())[:, None]
            return self._layer(torch.from_numpy(x.copy())[None, None], state)[1][:, 0].numpy()


class WindowStepper:
    """Runs a unidirectional `GRU` or `LayerNormGRU` over the last bins, from zeros at each bin.

    A bin's output is that of the last `history` bins that are `step` apart, the first bins have as
    many as there are. The layer's bits are those of `forward_windows`. Compiled kernels must work
    (`layers.cpu.prepare`). Use it in one thread at a time.
    """

    def __init__(self, layer: GRU | LayerNormGRU, history: int, step: int = 1):
        _check_layer(layer)
        from bci_decode.layers.cpu.steps import WindowKernel

        form = kernel_form(layer) or ""
        self._history, self._step = history, step
        self._slots = (history - 1) * step + 1
        self._kernel = WindowKernel(_sides(layer), form, getattr(layer, "eps", 0.0), self._slots)
        self.reset()

    def reset(self) -> None:
        """Forget all bins."""
        self._kernel.projected[:] = 0
        self._bins = 0

    @property
    def state(self) -> dict[str, np.ndarray]:
        """The input side of the last bins, and how many bins there have been."""
        return {"projected": self._kernel.projected, "bins": np.array(self._bins)}

    @state.setter
    def state(self, state: dict[str, np.ndarray]) -> None:
        self._kernel.projected[:] = state["projected"]
        self._bins = int(state["bins"])

    def step(self, x: np.ndarray) -> np.ndarray:
        """The outputs (bins of the window, H) after a bin x (I,); row -1 is that of the bin."""
        newest = self._bins
        self._kernel.put(x, newest % self._slots)
        self._bins += 1
        length = min(self._history, newest // self._step + 1)
        bins = newest - self._step * np.arange(length - 1, -1, -1)
        return self._kernel.run(bins % self._slots)


def why_not_stepped(layer: Any) -> str | None:
    """Why a layer is not one that `Stepper` and `WindowStepper` run; None if it is."""
    if not isinstance(layer, (GRU, LayerNormGRU)):
        return f"not {type(layer).__name__}"
    if layer.bidirectional:
        return "a bidirectional layer reads later bins"
    if layer.weight_hh_l0.device.type != "cpu":
        return f"this one is on {layer.weight_hh_l0.device}; move a copy to the CPU"
    if layer.weight_hh_l0.dtype not in (torch.float32, torch.float64):
        return f"this one has {layer.weight_hh_l0.dtype}; convert a copy to float32"
    if kernel_form(layer) is None:
        return f"{type(layer).__name__} has arithmetic of its own"
    return None


def _check_layer(layer: Any) -> None:
    problem = why_not_stepped(layer)
    if problem is not None:
        raise ValueError(
            "can step only a unidirectional GRU or LayerNormGRU on the CPU in float32 or float64: "
            + problem
        )


def _sides(layer: GRU | LayerNormGRU) -> list[list[GateWeights]]:
    """The weights of both sides of each layer."""
    suffixes = [f"l{number}" for number in range(layer.num_layers)]
    return [[gate_weights(layer, side, suffix) for side in SIDES] for suffix in suffixes]
