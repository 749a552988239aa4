"""Stages of the step of a live decoder: scaling, recurrent decoders, ensembles, the filter.

Shapes: B streams, N units, D axes of the target, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bci_decode.data.parts import Scaler
from bci_decode.evaluation.filters import bessel_sections
from bci_decode.models.decoder import Decoder

State = tuple[Tensor, ...]


class Stage(nn.Module):
    """A part of the step with a state: `forward(x, state)` gives its output and the next state.

    `initial` gives the state of one stream before the first bin, by name, each tensor (1, ...);
    that of B streams is (B, ...), all of them after the same number of bins.
    """

    def initial(self) -> dict[str, Tensor]:
        return {}

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        raise NotImplementedError


class Scaling(Stage):
    """Scale counts as in training."""

    mean: Tensor
    std: Tensor

    def __init__(self, scaler: Scaler):
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(scaler.mean.astype(np.float32)))
        self.register_buffer("std", torch.from_numpy(scaler.std.astype(np.float32)))

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return (x - self.mean) / self.std, ()


class Unscaling(Stage):
    """Take the scaling of the target back."""

    mean: Tensor
    std: Tensor

    def __init__(self, scaler: Scaler):
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(scaler.mean))
        self.register_buffer("std", torch.from_numpy(scaler.std))

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return x.double() * self.std + self.mean, ()


class CarriedStep(Stage):
    """A recurrent decoder whose state is carried from bin to bin.

    With a window's `step` above 1, the stream is as many streams, each of every `step`-th bin: the
    state is a queue, whose first entry is that of the stream of the current bin.
    """

    def __init__(self, decoder: Decoder, step: int):
        super().__init__()
        self.decoder, self.step = decoder, step

    def initial(self) -> dict[str, Tensor]:
        with torch.no_grad():  # the state before a sequence is zeros in every layer
            after = self.decoder(torch.zeros(1, 1, self.decoder.input_size))[1]
        self.single, tensors = isinstance(after, Tensor), _as_tuple(after)
        self.complex = [tensor.is_complex() for tensor in tensors]
        zeros = [torch.zeros_like(tensor) for tensor in self._outside(tensors)]
        if self.step > 1:
            zeros = [torch.stack([tensor] * self.step, 1) for tensor in zeros]
        return {f"state{number}": tensor for number, tensor in enumerate(zeros)}

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        own = tuple(tensor[:, 0] for tensor in state) if self.step > 1 else state
        y, following = self.one(x, own)
        if self.step > 1:
            following = tuple(
                torch.cat([queue[:, 1:], new[:, None]], 1)
                for queue, new in zip(state, following, strict=True)
            )
        return y, following

    def one(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The outputs of a bin (B, N), and the state (B, L, ...) after it."""
        y, after = self.decoder(x[:, None], self._inside(state))
        return y[:, 0], self._outside(_as_tuple(after))

    def _outside(self, tensors: State) -> State:
        """A layer's state (L, B, ...) as real tensors (B, L, ...)."""
        return tuple(
            torch.view_as_real(tensor.transpose(0, 1)) if is_complex else tensor.transpose(0, 1)
            for tensor, is_complex in zip(tensors, self.complex, strict=True)
        )

    def _inside(self, tensors: State) -> Any:
        """The state as the layer takes it."""
        state = tuple(
            torch.view_as_complex(tensor.contiguous()).transpose(0, 1)
            if is_complex
            else tensor.transpose(0, 1).contiguous()
            for tensor, is_complex in zip(tensors, self.complex, strict=True)
        )
        return state[0] if self.single else state


def _as_tuple(state: Any) -> State:
    return (state,) if isinstance(state, Tensor) else tuple(state)


class WindowStep(Stage):
    """A decoder that decodes each bin from the last `history` bins, `step` apart, from zero states.

    The state is the scaled counts of the bins, the newest last, and how many there have been.
    """

    def __init__(self, decoder: Decoder, history: int, step: int):
        super().__init__()
        self.decoder, self.history, self.step = decoder, history, step
        self.span = (history - 1) * step + 1

    def initial(self) -> dict[str, Tensor]:
        bins = torch.zeros(1, self.span, self.decoder.input_size)
        return {"bins": bins, "seen": torch.zeros(1, dtype=torch.int64)}

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        bins, seen = torch.cat([state[0][:, 1:], x[:, None]], 1), state[1]
        length = min(self.history, int(seen[0]) // self.step + 1)
        newest_first = torch.arange(length) * self.step
        window = bins[:, self.span - 1 - newest_first.flip(0)]
        y, _ = self.decoder(window, first_output=length - 1)
        return y[:, 0], (bins, torch.clamp(seen + 1, max=self.span))


class Mean(Stage):
    """The mean of the outputs of an ensemble's members."""

    def __init__(self, members: Sequence[Stage]):
        super().__init__()
        self.members = nn.ModuleList(members)
        self._starts = [member.initial() for member in members]

    def initial(self) -> dict[str, Tensor]:
        starts = self._starts
        self.sizes = [len(start) for start in starts]
        return {f"{i}.{name}": t for i, start in enumerate(starts) for name, t in start.items()}

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        outputs, following, first = [], [], 0
        for member, size in zip(self.members, self.sizes, strict=True):
            y, after = member(x, state[first : first + size])
            outputs.append(y)
            following += after
            first += size
        return torch.stack(outputs).mean(0), tuple(following)


class LowPass(Stage):
    """The causal Bessel filter of the outputs: see `evaluation.filters`."""

    sections: Tensor
    start: Tensor

    def __init__(self, cutoff: float, axes: int):
        super().__init__()
        sections, start = bessel_sections(cutoff)
        self.axes = axes
        self.register_buffer("sections", torch.from_numpy(sections))  # b0, b1, b2, 1, a1, a2
        self.register_buffer("start", torch.from_numpy(start))  # (sections, 2) for an input of 1

    def initial(self) -> dict[str, Tensor]:
        delays = torch.zeros(1, *self.start.shape, self.axes, dtype=torch.float64)
        return {"delays": delays, "seen": torch.zeros(1, dtype=torch.int64)}

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, (delays, seen) = x.double(), state
        at_rest = self.start[..., None] * y[:, None, None]  # as if y had been there for ever
        delays = torch.where((seen == 0)[:, None, None, None], at_rest, delays)
        following = []
        for number, (b0, b1, b2, _, a1, a2) in enumerate(self.sections):
            first, second = delays[:, number].unbind(1)
            out = b0 * y + first
            following.append(torch.stack([b1 * y - a1 * out + second, b2 * y - a2 * out], 1))
            y = out
        return y, (torch.stack(following, 1), torch.ones_like(seen))
