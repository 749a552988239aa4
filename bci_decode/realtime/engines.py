"""The engines of a live decoder: what runs the step of a trained run.

Shapes: N units, D axes of the target.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch

from bci_decode.realtime.fast import FastEngine, why_not_fast
from bci_decode.realtime.graph import StepGraph
from bci_decode.realtime.onnx.engine import OnnxEngine
from bci_decode.runs.loaded_run import LoadedRun

log = logging.getLogger(__name__)


class TorchEngine:
    """Runs `StepGraph` with PyTorch: every model that needs no later bins."""

    name = "torch"

    def __init__(self, run: LoadedRun):
        self._graph = StepGraph(run)
        self.reset()

    @property
    def state(self) -> dict[str, np.ndarray]:
        tensors = (tensor.numpy() for tensor in self._state)
        return dict(zip(self._graph.names, tensors, strict=True))

    @state.setter
    def state(self, state: dict[str, np.ndarray]) -> None:
        self._state = tuple(torch.from_numpy(state[name]) for name in self._graph.names)

    def reset(self) -> None:
        self._state = self._graph.initial()

    def step(self, counts: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            output, *state = self._graph(torch.from_numpy(counts)[None], *self._state)
        self._state = tuple(state)
        return output[0].numpy()

    def prepare(self) -> None:
        """Nothing: PyTorch's layers do a bin's products in one call."""


def fast_engine(run: LoadedRun) -> FastEngine | TorchEngine:
    """Compiled kernels where the model has them, otherwise PyTorch."""
    reason = why_not_fast(run)
    if reason is None:
        return FastEngine(run)
    engine = TorchEngine(run)  # first: it may refuse the model
    log.info("%s: the torch engine runs it: %s", run.source, reason)
    return engine


ENGINES: dict[str, Callable] = {"fast": fast_engine, "torch": TorchEngine, "onnx": OnnxEngine}
