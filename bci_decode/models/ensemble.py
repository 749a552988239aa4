"""Several decoders whose outputs are averaged.

Shapes: B windows, T bins, N units, D axes of the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bci_decode.models.decoder import Decoder, TrainedDecoder


class Ensemble(TrainedDecoder):
    """Counts (B, T, N) -> the mean (B, T, D) of the members' kinematics, and all their states.

    The members are decoders of one kind with different initial weights. A trainer gives each its
    own windows and its own loss, so that they make different errors, which the mean lowers.
    """

    def __init__(self, members: Sequence[Decoder]):
        super().__init__()
        if len(members) < 1:
            raise ValueError("an ensemble needs a member")
        self._members = nn.ModuleList(members)

    @property
    def members(self) -> list[Decoder]:
        return list(self._members)  # type: ignore[arg-type]

    def forward(
        self, counts: Tensor, state: Sequence[Any] | None = None, first_output: int = 0
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Kinematics of the bins from `first_output` on, and the state of every member."""
        states = [None] * len(self._members) if state is None else state
        pairs = [
            member(counts, own, first_output)
            for member, own in zip(self._members, states, strict=True)
        ]
        outputs, after = zip(*pairs, strict=True)
        return torch.stack(outputs).mean(0), after

    def forward_windows(self, counts: Tensor, windows: Tensor, first_output: int = 0) -> Tensor:
        """The same of counts[windows]: see `Decoder.forward_windows`."""
        outputs = [member.forward_windows(counts, windows, first_output) for member in self.members]
        return torch.stack(outputs).mean(0)
