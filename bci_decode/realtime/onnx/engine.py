"""Run the step of a run with onnxruntime, as an engine of a live decoder.

Shapes: N units, D axes of the target.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from bci_decode.realtime.onnx.decoder import (
    COUNTS,
    NEXT,
    OUTPUT,
    Arrays,
    initial_state,
    session_of,
)
from bci_decode.realtime.onnx.model import onnx_model
from bci_decode.realtime.onnx.parts import parts
from bci_decode.runs.loaded_run import LoadedRun


class OnnxEngine:
    """Runs the step of a run with onnxruntime: see `decoder.Engine`.

    The model is cut in two where that pays: what needs the state alone, which `prepare` may
    compute before the counts are there, and the rest. Both cases give the same numbers.
    """

    name = "onnx"

    def __init__(self, run: LoadedRun):
        model = onnx_model(run)
        early, late = parts(model)
        self._early = None if early is None else session_of(early.SerializeToString())
        self._late = session_of(late.SerializeToString())
        props = {prop.key: prop.value for prop in model.metadata_props}
        self._start = initial_state(json.loads(props["state"]))
        self._outputs = [OUTPUT, *(f"{NEXT}{name}" for name in self._start)]
        self._early_inputs = _names(self._early.get_inputs()) if self._early else []
        self._early_outputs = _names(self._early.get_outputs()) if self._early else []
        late_inputs = _names(self._late.get_inputs())
        self._passed_on = [name for name in self._start if name in late_inputs]
        self.reset()

    @property
    def state(self) -> Arrays:
        return self._state

    @state.setter
    def state(self, state: Arrays) -> None:
        self._state: Arrays = dict(state)
        self._prepared: Arrays | None = None

    def reset(self) -> None:
        self.state = self._start

    def step(self, counts: np.ndarray) -> np.ndarray:
        self.prepare()
        feeds: Any = self._prepared
        feeds[COUNTS] = counts[None]
        output, *after = self._late.run(self._outputs, feeds)
        self.state = dict(zip(self._start, after, strict=True))
        return output[0].astype(np.float64)

    def prepare(self) -> None:
        if self._prepared is not None:
            return
        state = self._state
        feeds = {name: state[name] for name in self._passed_on}
        if self._early is not None:
            inputs = {name: state[name] for name in self._early_inputs}
            values = self._early.run(self._early_outputs, inputs)
            feeds.update(zip(self._early_outputs, values, strict=True))
        self._prepared = feeds


def _names(values: Any) -> list[str]:
    return [value.name for value in values]
