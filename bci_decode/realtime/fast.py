"""The fast engine of a live decoder: compiled kernels for GRU and LayerNorm GRU, NumPy around.

Shapes: N units, D axes of the target, L layers, H hidden_size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from bci_decode.data.parts import Window
from bci_decode.evaluation.filters import bessel_sections
from bci_decode.layers import cpu
from bci_decode.layers.cpu.stepper import Stepper, WindowStepper, why_not_stepped
from bci_decode.layers.norms import HistoryNorm
from bci_decode.layers.recurrent import kernel_form
from bci_decode.models.decoder import Decoder, TrainedDecoder
from bci_decode.realtime.graph import check_causal
from bci_decode.runs.loaded_run import LoadedRun

Arrays = dict[str, np.ndarray]


def why_not_fast(run: LoadedRun) -> str | None:
    """Why the compiled kernels cannot run the model; None if they can."""
    if not isinstance(run.model, TrainedDecoder):
        return f"{type(run.model).__name__} has no compiled kernels"
    history = Window.from_config(run.config.window).history
    for member in run.model.members:
        if member.encoder is not None:
            return "it has an encoder"
        allowed = (nn.Identity,) if history is None else (nn.Identity, HistoryNorm)
        if not isinstance(member.norm, allowed):
            return f"it has {type(member.norm).__name__} after the recurrent layer"
        reason = why_not_stepped(member.recurrent)
        if reason is not None:
            return reason
        form, dtype = kernel_form(member.recurrent) or "", member.recurrent.weight_hh_l0.dtype  # type: ignore[arg-type, union-attr]
        if not (member.recurrent.use_fused and cpu.prepare(form, dtype)):  # type: ignore[arg-type]
            return "the compiled kernels do not work here"
    return None


class FastEngine:
    """The step of a run with compiled kernels: see `decoder.Engine`.

    Every array of the state is read and replaced by the members, so the state can be taken and set
    between any two bins.
    """

    name = "fast"

    def __init__(self, run: LoadedRun):
        check_causal(run)
        counts, target = run.scaler("counts"), run.scaler("target")
        self._mean, self._std = (a.astype(np.float32) for a in (counts.mean, counts.std))
        self._target_mean, self._target_std = target.mean, target.std
        window = Window.from_config(run.config.window)
        self._members = [_member(member, window) for member in run.model.members]
        self._filter = None if run.config.cutoff is None else LowPass(run.config.cutoff)
        self.reset()

    @property
    def state(self) -> Arrays:
        named = {f"{i}.{n}": a for i, m in enumerate(self._members) for n, a in m.state.items()}
        return named if self._filter is None else {**named, **self._filter.state}

    @state.setter
    def state(self, state: Arrays) -> None:
        for number, member in enumerate(self._members):
            member.state = {name: state[f"{number}.{name}"] for name in member.state}
        if self._filter is not None:
            self._filter.state = {name: state[name] for name in self._filter.state}

    def reset(self) -> None:
        for part in (*self._members, self._filter):
            if part is not None:
                part.reset()

    def step(self, counts: np.ndarray) -> np.ndarray:
        scaled = counts - self._mean
        scaled /= self._std
        output = self._members[0].step(scaled)
        for member in self._members[1:]:
            output += member.step(scaled)
        if len(self._members) > 1:
            output /= len(self._members)
        if self._filter is not None:
            output = self._filter.step(output)
        output *= self._target_std
        output += self._target_mean
        return output

    def prepare(self) -> None:
        for member in self._members:
            member.prepare()


def _member(decoder: Decoder, window: Window) -> CarriedMember | WindowMember:
    if window.history is None:
        return CarriedMember(decoder, window.step)
    return WindowMember(decoder, window.history, window.step)


class CarriedMember:
    """A decoder whose state is carried: `step` states (L, H) take turns, see `graph.CarriedStep`.

    Those of the state's array are in the order of their turns.
    """

    def __init__(self, decoder: Decoder, step: int):
        self._stepper, self._head = Stepper(decoder.recurrent), _head(decoder.head)  # type: ignore[arg-type]
        layer: Any = decoder.recurrent
        self._shape = step, layer.num_layers, layer.hidden_size
        self.reset()

    @property
    def state(self) -> Arrays:
        return {"h": np.stack(self._states)}

    @state.setter
    def state(self, state: Arrays) -> None:
        self._states, self._prepared = list(state["h"]), False

    def reset(self) -> None:
        self.state = {"h": np.zeros(self._shape, np.float32)}

    def step(self, x: np.ndarray) -> np.ndarray:
        """Scaled kinematics (D,) of scaled counts (N,)."""
        h = self._stepper.step(x, self._states.pop(0), self._prepared)
        self._states.append(h)
        self._prepared = False
        return self._head(h[-1])

    def prepare(self) -> None:
        self._stepper.prepare(self._states[0])
        self._prepared = True


class WindowMember:
    """A decoder that decodes each bin from its last bins; their projections are kept."""

    def __init__(self, decoder: Decoder, history: int, step: int):
        self._stepper = WindowStepper(decoder.recurrent, history, step)  # type: ignore[arg-type]
        self._norm, self._head = isinstance(decoder.norm, HistoryNorm), _head(decoder.head)

    @property
    def state(self) -> Arrays:
        return self._stepper.state

    @state.setter
    def state(self, state: Arrays) -> None:
        self._stepper.state = state

    def reset(self) -> None:
        self._stepper.reset()

    def step(self, x: np.ndarray) -> np.ndarray:
        """Scaled kinematics (D,) of scaled counts (N,)."""
        y = self._stepper.step(x)  # (bins, H)
        last = y[-1]
        if self._norm:
            last = (last - y.mean()) / np.sqrt(y.var() + 1e-5)
        return self._head(last)

    def prepare(self) -> None:
        """Nothing: every step starts from zeros."""


class LowPass:
    """The causal Bessel filter of the outputs, bin by bin: see `evaluation.filters`."""

    def __init__(self, cutoff: float):
        self._sections, self._start = bessel_sections(cutoff)
        from scipy.signal import sosfilt

        self._sosfilt = sosfilt

    def reset(self) -> None:
        delays = np.zeros((*self._start.shape, 2))
        self.state: Arrays = {"delays": delays, "seen": np.array(0)}

    def step(self, output: np.ndarray) -> np.ndarray:
        delays = self.state["delays"]
        if not self.state["seen"]:  # the first bin: as if its output had been there for ever
            delays = self._start[:, :, None] * output
        filtered, delays = self._sosfilt(self._sections, output[None], axis=0, zi=delays)
        self.state = {"delays": delays, "seen": np.array(1)}
        return filtered[0]


def _head(head: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    """A function from the outputs of a layer (H,) to the axes (D,), in float64."""
    if type(head) is nn.Linear and head.bias is not None:
        weight, bias = (p.detach().double().numpy() for p in (head.weight, head.bias))
        return lambda y: weight.dot(y.astype(np.float64)) + bias
    exact = copy.deepcopy(head).eval().double()

    def run(y: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return exact(torch.from_numpy(y.astype(np.float64))[None])[0].numpy()

    return run
