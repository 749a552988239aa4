"""One bin of a trained run as a function: counts and state in, kinematics and the next state out.

All state is in the arguments and results, so that the function can be run, exported and batched.

Shapes: B streams, N units, D axes of the target.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from bci_decode.data.parts import Window
from bci_decode.errors import BciDecodeError
from bci_decode.models.cascade import WienerCascade
from bci_decode.models.decoder import Decoder, TrainedDecoder, check_window
from bci_decode.models.heads import Float64Head
from bci_decode.models.kalman import KalmanFilter
from bci_decode.models.wiener import WienerFilter
from bci_decode.realtime.closed_form import CascadeStep, KalmanStep, WienerStep
from bci_decode.realtime.stages import (
    CarriedStep,
    LowPass,
    Mean,
    Scaling,
    Stage,
    State,
    Unscaling,
    WindowStep,
)
from bci_decode.runs.loaded_run import LoadedRun


class StepGraph(nn.Module):
    """Counts (B, N) and state -> kinematics (B, D), float64 in the target's unit, and the state.

    The counts are those of one bin, float32, in the order of the run's units. `names` are the names
    of the state's tensors. Raises `BciDecodeError` for a model that needs later bins.
    """

    def __init__(self, run: LoadedRun):
        super().__init__()
        check_causal(run)
        window = Window.from_config(run.config.window)
        counts, target = run.scaler("counts"), run.scaler("target")
        stages: dict[str, Stage] = {"scaling": Scaling(counts)}
        stages["model"] = model_step(run.model, window)
        if run.config.cutoff is not None:
            stages["filter"] = LowPass(run.config.cutoff, len(run.axes))
        stages["unscaling"] = Unscaling(target)
        self.stages = nn.ModuleDict(stages)
        self.eval().requires_grad_(False)
        self._starts = {name: stage.initial() for name, stage in stages.items()}

    @property
    def names(self) -> list[str]:
        return [f"{stage}.{name}" for stage, start in self._starts.items() for name in start]

    def initial(self) -> State:
        """The state of one stream before its first bin."""
        return tuple(tensor.clone() for start in self._starts.values() for tensor in start.values())

    def forward(self, counts: Tensor, *state: Tensor) -> State:
        """The kinematics, then the tensors of the next state."""
        x, rest, after = counts, list(state), []
        for name, stage in self.stages.items():
            size = len(self._starts[name])
            own, rest = tuple(rest[:size]), rest[size:]
            x, following = stage(x, own)
            after += following
        return x, *after


def check_causal(run: LoadedRun) -> None:
    """Refuse a model whose output for a bin depends on later bins."""
    model = run.model
    history = Window.from_config(run.config.window).history
    if not isinstance(model, TrainedDecoder):
        return
    check_window(model, history)
    if history is None and any(member.bidirectional for member in model.members):
        raise BciDecodeError(
            "the model is bidirectional: its output for a bin needs all later bins",
            file=run.source,
            remedy="train with bidirectional=false, or with data.window.kind=history",
        )


def model_step(model: Any, window: Window) -> Stage:
    """The stage of a model of any kind: scaled counts (B, N) -> scaled kinematics (B, D)."""
    if isinstance(model, TrainedDecoder):
        members = [_member_step(copy.deepcopy(member), window) for member in model.members]
        return members[0] if len(members) == 1 else Mean(members)
    steps = {WienerFilter: WienerStep, WienerCascade: CascadeStep, KalmanFilter: KalmanStep}
    if type(model) not in steps:
        raise BciDecodeError(
            f"{type(model).__name__} cannot be run bin by bin",
            field="model",
            remedy=f"choose a recurrent decoder or {', '.join(kind.__name__ for kind in steps)}",
        )
    return steps[type(model)](model)


def _member_step(decoder: Decoder, window: Window) -> Stage:
    # a copy with PyTorch's own operations: bits do not depend on which kernels are loaded
    for module in decoder.modules():
        if hasattr(module, "use_fused"):
            module.use_fused = False  # type: ignore[assignment]
    decoder.head = Float64Head(decoder.head)
    if window.history is None:
        return CarriedStep(decoder, window.step)
    return WindowStep(decoder, window.history, window.step)
