"""The step of a run in operations that ONNX has: no complex numbers, no lengths that data decide.

Shapes: B streams, T bins of a window, N units, H outputs of a layer, D axes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bci_decode.errors import BciDecodeError
from bci_decode.layers.norms import HistoryNorm
from bci_decode.models.decoder import Decoder
from bci_decode.models.heads import Float64Head
from bci_decode.realtime.graph import StepGraph
from bci_decode.realtime.onnx.one_bin import OneBin, formula_of
from bci_decode.realtime.stages import CarriedStep, Stage, State, WindowStep, _as_tuple


def make_exportable(graph: StepGraph) -> None:
    """Put stages and layers that can be exported into a graph; its results stay the same.

    The states keep their names, shapes and values. Raises `BciDecodeError` where a model has no
    step of fixed operations.
    """
    for parent, name, stage in _children(graph, WindowStep):
        setattr(parent, name, ScannedWindow(stage))
    for parent, name, stage in _children(graph, CarriedStep):
        _check(stage.decoder)
        _fix_numbers(stage.decoder)
        setattr(parent, name, CarriedBin(stage))


def _children(root: nn.Module, kind: type) -> list[tuple[nn.Module, str, Any]]:
    """The modules of a kind, each with its parent and its name there."""
    return [
        (parent, name, child)
        for parent in root.modules()
        for name, child in parent.named_children()
        if isinstance(child, kind)
    ]


def _check(decoder: Decoder) -> None:
    if decoder.bidirectional:
        raise BciDecodeError(
            "a bidirectional model cannot be exported: it runs through each window backward too",
            field="bidirectional",
            remedy="use engine=torch, or train with bidirectional=false",
        )
    if any(getattr(module, "per_step", False) for module in decoder.modules()):
        raise BciDecodeError(
            "cannot be exported: its norm has other statistics in each bin of a stream",
            field="model.recurrent.norm",
            remedy="use engine=torch, or train with model.recurrent.norm=batch_shared",
        )


def _fix_numbers(decoder: nn.Module) -> None:
    """Make Python numbers of the buffers that norms read as such; training alone changes them."""
    for module in decoder.modules():
        for name in ("last", "sequences"):
            if name in module._buffers:
                setattr(module, name, int(module._buffers.pop(name)))  # type: ignore[arg-type]


class CarriedBin(CarriedStep):
    """`CarriedStep` whose layers are formulas of one bin, where there are such."""

    def __init__(self, stage: CarriedStep):
        nn.Module.__init__(self)
        self.decoder, self.step, self.single = stage.decoder, stage.step, stage.single
        self.complex = [False] * len(stage.complex)
        for parent, name, layer in _children(self.decoder, nn.Module):
            if formula_of(layer) is not None:
                setattr(parent, name, OneBin(layer))
        alone = isinstance(self.decoder.recurrent, OneBin)
        self.plain = alone and isinstance(self.decoder.norm, nn.Identity)

    def one(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        decoder = self.decoder
        if self.plain:
            layer: Any = decoder.recurrent
            y, following = layer.one(decoder.encode(x), state)
            return decoder.head(y), following
        outputs, after = decoder.features(decoder.encode(x[:, None]), self._inside(state))
        return decoder.head(outputs[:, 0]), self._outside(_as_tuple(after))


class ScannedWindow(Stage):
    """`WindowStep` whose bins are run one by one; the state before the first bin stays as it is.

    The loop is an ONNX Scan, so that the graph does not grow with the window.
    """

    def __init__(self, stage: WindowStep):
        super().__init__()
        self.history, self.step, self.span = stage.history, stage.step, stage.span
        self._start, decoder = stage.initial(), stage.decoder
        self.norm = decoder.norm if isinstance(decoder.norm, HistoryNorm) else None
        if self.norm is not None:
            decoder.norm = nn.Identity()
        self.head, decoder.head = decoder.head, Float64Head(nn.Identity())  # the last bin's alone
        self.carried = CarriedStep(decoder, 1)
        self._carry = tuple(self.carried.initial().values())

    def initial(self) -> dict[str, Tensor]:
        return self._start

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        bins, seen = torch.cat([state[0][:, 1:], x[:, None]], 1), state[1]
        window = bins[:, :: self.step].transpose(0, 1)  # (T, B, N), the oldest first
        ages = torch.arange(self.history - 1, -1, -1) * self.step
        there = ages[:, None] <= seen  # (T, B)
        carry = tuple(start.expand(x.shape[0], *start.shape[1:]).clone() for start in self._carry)
        outputs = _scan(self.carried, carry, window, there)  # (T, B, H)
        last = outputs[-1] if self.norm is None else _normalized(outputs, there)
        return self.head(last), (bins, torch.clamp(seen + 1, max=self.span))


def _scan(step: Stage, carry: State, window: Tensor, there: Tensor) -> Tensor:
    from torch._higher_order_ops.scan import scan

    def one(carry: State, inputs: State) -> tuple[State, Tensor]:
        x, present = inputs
        y, after = step(x, carry)
        shaped = (present.reshape(-1, *[1] * (new.dim() - 1)) for new in after)
        kept = zip(shaped, after, carry, strict=True)
        # the operator wants results that share no memory with each other, nor another layout
        following = tuple(
            torch.where(p, new.contiguous(), old).clone(memory_format=torch.contiguous_format)
            for p, new, old in kept
        )
        return following, y.clone()

    return scan(one, carry, (window, there))[1]


def _normalized(outputs: Tensor, there: Tensor) -> Tensor:
    """The last of a window's outputs (T, B, H), as `HistoryNorm` makes it of those `there`."""
    weights = there[:, :, None].to(outputs.dtype)
    count = weights.sum((0, 2)) * outputs.shape[2]  # (B,)
    mean = ((outputs * weights).sum((0, 2)) / count)[:, None]
    variance = ((outputs - mean).square() * weights).sum((0, 2)) / count
    return (outputs[-1] - mean) / torch.sqrt(variance[:, None] + HISTORY_EPS)


HISTORY_EPS = 1e-5  # the default of F.layer_norm, which HistoryNorm calls
