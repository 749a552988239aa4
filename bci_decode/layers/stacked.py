"""Stack one-directional recurrent layers into a module that is called as `torch.nn.GRU`.

Shapes: B sequences, T bins, I inputs, O output_size, L layers, D directions (1 or 2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import rnn

State = Tensor | tuple[Tensor, ...]
Shape = tuple[int, ...]


class StackedRecurrent(nn.Module):
    """Base class of recurrent layers; a subclass defines `_run_direction` and the attributes below.

    `state_shapes` lists, for each tensor of the state, its shape after (L D, B). A state of one
    tensor is passed as that tensor (as in `torch.nn.GRU`), one of several as a tuple (as in
    `torch.nn.LSTM`). By default the state and the output are one vector of `hidden_size`.
    """

    input_size: int
    hidden_size: int
    num_layers: int
    batch_first: bool
    dropout: float
    bidirectional: bool

    @property
    def output_size(self) -> int:
        """Columns of one direction's output; the next layer takes D times as many."""
        return self.hidden_size

    @property
    def state_shapes(self) -> tuple[Shape, ...]:
        return ((self.hidden_size,),)

    def _run_direction(
        self, x: Tensor, state: Any, suffix: str, index: Tensor | None
    ) -> tuple[Tensor, Any]:
        """Run one layer in one direction: y (T, B, O) and the state after the last bin.

        x is (T, B, I) or, with `index` (T, B), means x[index]. `state` is what the layer
        starts from, each tensor (B, ...), or None for zeros. `suffix` names the weights: l0,
        l0_reverse, l1, ... The input of a reverse direction is flipped already.
        """
        raise NotImplementedError

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """Outputs of the last layer at every bin, and the states of all layers after the last bin.

        input (T, B, I), with batch_first (B, T, I), or (T, I), or a PackedSequence; hx the initial
        states (L D, B, ...), without B for an input (T, I); None for zeros. Returns y, laid out as
        the input with D O columns, and the final states, laid out as hx.
        """
        if isinstance(input, rnn.PackedSequence):
            return self._forward_packed(input, hx)
        if not isinstance(input, Tensor) or input.dim() not in (2, 3):
            raise ValueError(
                f"{type(self).__name__} takes a PackedSequence or a tensor (T, B, I), "
                "(B, T, I) with batch_first, or (T, I)"
            )
        if input.dim() == 2:
            state = None if hx is None else _map_state(lambda h: h.unsqueeze(1), hx)
            y, final = self._run_layers(input.unsqueeze(1), state)
            return y.squeeze(1), _map_state(lambda h: h.squeeze(1), final)
        y, final = self._run_layers(input.transpose(0, 1) if self.batch_first else input, hx)
        return (y.transpose(0, 1) if self.batch_first else y), final

    def forward_windows(self, bins: Tensor, windows: Tensor) -> tuple[Tensor, Any]:
        """The same as `forward` of bins[windows]; a layer may project each bin only once.

        bins (n, I); windows (B, T) of indices from 0, or (T, B) without batch_first. The initial
        states are zeros.
        """
        if windows.numel() == 0:
            raise ValueError("the windows hold no bin")
        y, final = self._run_layers(bins, None, windows.t() if self.batch_first else windows)
        return (y.transpose(0, 1) if self.batch_first else y), final

    def prepare(self) -> None:
        """Load now what the first forward with gradients would load; here, nothing."""

    def flatten_parameters(self) -> None:
        """Do nothing: only cuDNN needs flat weights. Code written for `torch.nn.GRU` calls this."""

    def _forward_packed(self, packed: rnn.PackedSequence, hx: Any) -> tuple[Any, Any]:
        """Run sequences of equal length together, each to its own last bin."""
        data, batch_sizes, order, inverse = packed
        x, lengths = rnn.pad_packed_sequence(rnn.PackedSequence(data, batch_sizes))  # longest first
        if hx is not None and order is not None:
            hx = _map_state(lambda h: h.index_select(1, order), hx)
        outputs: list[Tensor] = []
        finals = []
        for length, count in zip(*lengths.unique_consecutive(return_counts=True), strict=True):
            rows = slice(len(outputs), len(outputs) + int(count))
            start = None if hx is None else _map_state(lambda h: h[:, rows], hx)  # noqa: B023
            y, final = self._run_layers(x[: int(length), rows], start)
            outputs += y.unbind(1)
            finals.append(final)
        final = _map_state(lambda *states: torch.cat(states, dim=1), *finals)
        if inverse is not None:
            final = _map_state(lambda h: h.index_select(1, inverse), final)
        return rnn.PackedSequence(
            rnn.pack_sequence(outputs).data, batch_sizes, order, inverse
        ), final

    def _run_layers(self, x: Tensor, state: Any, index: Tensor | None = None) -> tuple[Tensor, Any]:
        """Run all layers over x (T, B, I), or over x[index] with `index` (T, B)."""
        self._check(x, state, x.shape[1] if index is None else index.shape[1])
        finals: list[Any] = []
        for layer in range(self.num_layers):
            if layer:
                x, index = F.dropout(x, self.dropout, self.training), None
            outputs = []
            for direction in ("", "_reverse")[: 1 + self.bidirectional]:
                run = self._run_reversed if direction else self._run_direction
                start = None if state is None else _map_state(lambda h: h[len(finals)], state)
                y, final = run(x, start, f"l{layer}{direction}", index)
                outputs.append(y)
                finals.append(final)
            x = torch.cat(outputs, dim=-1) if self.bidirectional else outputs[0]
        return x, _map_state(lambda *states: torch.stack(states), *finals)

    def _run_reversed(
        self, x: Tensor, state: Any, suffix: str, index: Tensor | None
    ) -> tuple[Tensor, Any]:
        """Run one layer from the last bin to the first; y is in the order of the bins."""
        x, index = (x.flip(0), None) if index is None else (x, index.flip(0))
        y, final = self._run_direction(x, state, suffix, index)
        return y.flip(0), final

    def _check(self, x: Tensor, state: Any, batch: int) -> None:
        if x.shape[-1] != self.input_size:
            raise ValueError(
                f"the input has {x.shape[-1]} columns, the layer's input_size is {self.input_size}"
            )
        if len(x) == 0:
            raise ValueError("the input has no bin")
        if state is None:
            return
        needed = [
            (self.num_layers * (1 + self.bidirectional), batch, *s) for s in self.state_shapes
        ]
        given = [tuple(h.shape) for h in ((state,) if isinstance(state, Tensor) else state)]
        if given != needed:
            shapes = " and ".join(map(str, given)), " and ".join(map(str, needed))
            raise ValueError(f"hx has shape {shapes[0]}, this input needs {shapes[1]}")


def _map_state(function: Callable[..., Tensor], *states: Any) -> State:
    """Apply `function` to the states' tensors, place by place."""
    if isinstance(states[0], Tensor):
        return function(*states)
    return tuple(function(*tensors) for tensors in zip(*states, strict=True))
