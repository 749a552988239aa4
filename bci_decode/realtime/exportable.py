"""The step of a run in operations that ONNX has: no complex numbers, no lengths that data decide.

Shapes: B streams, T bins of a window, N units, I inputs, H hidden_size, L layers, D axes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bci_decode.errors import BciDecodeError
from bci_decode.layers.linear_recurrent import LRU
from bci_decode.layers.norms import HistoryNorm
from bci_decode.layers.stacked import Shape, StackedRecurrent
from bci_decode.layers.weights import SIDES, gate_weights
from bci_decode.models.decoder import Decoder
from bci_decode.realtime.graph import StepGraph
from bci_decode.realtime.stages import CarriedStep, Stage, State, WindowStep


def make_exportable(graph: StepGraph) -> None:
    """Put stages and layers that can be exported into a graph; its results stay the same.

    The states keep their names, shapes and values. Raises `BciDecodeError` where a model has no
    step of fixed operations.
    """
    for stage in list(graph.modules()):
        if isinstance(stage, CarriedStep | WindowStep):
            _check(stage.decoder, isinstance(stage, WindowStep))
            _fix_numbers(stage.decoder)
            _replace(stage.decoder, nn.RNNBase, OneBin)
            _replace(stage.decoder, LRU, RealLRU)
        if isinstance(stage, CarriedStep):
            stage.complex = [False] * len(stage.complex)
    _replace(graph, WindowStep, ScannedWindow)


def _check(decoder: Decoder, in_window: bool) -> None:
    if in_window and decoder.bidirectional:
        raise BciDecodeError(
            "a bidirectional model cannot be exported: it runs through each window backward too",
            field="bidirectional",
            remedy="use engine=torch, or train with bidirectional=false",
        )
    for name, module in decoder.named_modules():
        if getattr(module, "per_step", False) and not hasattr(module, "norms"):
            raise BciDecodeError(
                "cannot be exported: it has other statistics in each bin of a stream",
                field=f"{type(module).__name__} ({name})",
                remedy="use engine=torch, or train with model.recurrent.norm=batch_shared",
            )


def _fix_numbers(decoder: nn.Module) -> None:
    """Make Python numbers of the buffers that norms read as such; training alone changes them."""
    for module in decoder.modules():
        for name in ("last", "sequences"):
            if name in module._buffers:
                setattr(module, name, int(module._buffers.pop(name)))  # type: ignore[arg-type]


def _replace(parent: nn.Module, kind: Any, make: Any) -> None:
    """Replace the modules of a kind by what `make` makes of them."""
    for module in list(parent.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, kind):
                setattr(module, name, make(child))


class OneBin(StackedRecurrent):
    """A `torch.nn.GRU`, LSTM or RNN of one direction, bin by bin as its definition has it.

    As single operations, what a state gives can be computed before the counts are there; the
    exporter's own form is one operation for a layer.
    """

    def __init__(self, layer: nn.RNNBase):
        super().__init__()
        self.input_size, self.hidden_size = layer.input_size, layer.hidden_size
        self.num_layers, self.batch_first = layer.num_layers, layer.batch_first
        self.dropout, self.bidirectional, self.mode = 0.0, False, layer.mode
        self.projected = layer.proj_size
        for name, parameter in layer.named_parameters():
            self.register_parameter(name, parameter)

    @property
    def output_size(self) -> int:
        return self.projected or self.hidden_size

    @property
    def state_shapes(self) -> tuple[Shape, ...]:
        one = (self.output_size,)
        return (one, (self.hidden_size,)) if self.mode == "LSTM" else (one,)

    def _run_direction(
        self, x: Tensor, state: Any, suffix: str, index: Tensor | None
    ) -> tuple[Tensor, Any]:
        if state is None:
            state = tuple(x.new_zeros(x.shape[1], *shape) for shape in self.state_shapes)
            state = state if self.mode == "LSTM" else state[0]
        outputs = []
        for bin_ in x:
            state = self._next(bin_, state, suffix)
            outputs.append(state[0] if self.mode == "LSTM" else state)
        return torch.stack(outputs), state

    def _next(self, x: Tensor, state: Any, suffix: str) -> Any:
        inputs, recurrent = (gate_weights(self, side, suffix) for side in SIDES)
        h, cell = state if self.mode == "LSTM" else (state, None)
        u, a = F.linear(x, *inputs[:2]), F.linear(h, *recurrent[:2])
        if self.mode == "GRU":
            sizes = [2 * self.hidden_size, self.hidden_size]
            (gates_u, new_u), (gates_a, new_a) = u.split(sizes, -1), a.split(sizes, -1)
            r, z = torch.sigmoid(gates_u + gates_a).split(self.hidden_size, -1)
            new = torch.tanh(new_u + r * new_a)
            return new + z * (h - new)
        if self.mode == "LSTM":
            i, f, g, o = (u + a).split(self.hidden_size, -1)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(cell)
            return (F.linear(h, getattr(self, f"weight_hr_{suffix}")) if self.projected else h), cell
        return torch.tanh(u + a) if self.mode == "RNN_TANH" else torch.relu(u + a)


class RealLRU(StackedRecurrent):
    """An `LRU` of one direction whose state is pairs of real numbers (L, B, H, 2)."""

    def __init__(self, layer: LRU):
        super().__init__()
        self.input_size, self.hidden_size = layer.input_size, layer.hidden_size
        self.num_layers, self.batch_first = layer.num_layers, layer.batch_first
        self.dropout, self.bidirectional, self.layer = 0.0, False, layer
        for number in range(self.num_layers):
            real = torch.view_as_real(layer.eigenvalues(f"l{number}").detach())  # (H, 2)
            self.register_buffer(f"real_l{number}", real[:, :1].clone())
            turned = real[:, 1:] * torch.tensor([-1.0, 1.0])  # i (a + i b) = -b + i a
            self.register_buffer(f"turned_l{number}", turned)

    @property
    def state_shapes(self) -> tuple[Shape, ...]:
        return ((self.hidden_size, 2),)

    def _run_direction(
        self, x: Tensor, state: Any, suffix: str, index: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        layer = self.layer
        real, turned = (getattr(self, f"{name}_{suffix}") for name in ("real", "turned"))
        h = x.new_zeros(x.shape[1], *self.state_shapes[0]) if state is None else state
        pairs = []
        for inputs in layer.project(x, suffix).unflatten(-1, (-1, 2)):
            h = real * h + turned * h.flip(-1) + inputs
            pairs.append(h)
        return layer.read_out(torch.stack(pairs).flatten(-2), x, suffix), h


class ScannedWindow(Stage):
    """`WindowStep` whose bins are run one by one; a state before the first bin stays at zero.

    The loop is an ONNX Scan, whose graph does not grow with the window.
    """

    def __init__(self, stage: WindowStep):
        super().__init__()
        self.history, self.step, self.span = stage.history, stage.step, stage.span
        self._start, decoder = stage.initial(), stage.decoder
        self.norm = decoder.norm if isinstance(decoder.norm, HistoryNorm) else None
        if self.norm is not None:
            decoder.norm = nn.Identity()
        self.head, decoder.head = decoder.head, nn.Identity()
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
