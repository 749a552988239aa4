"""A decoder of many sessions: a read-in for each, one recurrent core.

Shapes: B windows, T bins, N units of a session, K outputs of a read-in, H of the core, D axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bci_decode.models.decoder import Decoder, TrainedDecoder


class ReadIn(nn.Module):
    """A linear map from a session's units to the inputs of a core: (..., N) -> (..., K).

    In training each window (B, T, N) loses a share `unit_dropout` of its units, in all of its bins,
    and the others count for more, so that the core relies on no single unit.
    """

    def __init__(self, inputs: int, width: int, unit_dropout: float = 0.0):
        super().__init__()
        self.output_size, self.unit_dropout = width, unit_dropout
        self.linear = nn.Linear(inputs, width)
        # z-scored counts come out with a variance of about 1, whatever the number of units
        nn.init.normal_(self.linear.weight, std=inputs**-0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, counts: Tensor) -> Tensor:
        if self.training and self.unit_dropout:
            kept = 1 - self.unit_dropout
            mask = torch.rand_like(counts[..., :1, :]) < kept
            counts = counts * mask / kept
        return self.linear(counts)


class MultiSessionDecoder(TrainedDecoder):
    """Decoders of several sessions that share their core, and their read-out if `shared_read_out`.

    `decoders` has an ordinary decoder with a `ReadIn` for each session, in the order of their
    numbers; core, dropout and norm of the first one take the place of the others'. The weights of
    the core are in `state_dict` once.
    """

    def __init__(self, decoders: Sequence[Decoder], shared_read_out: bool = True):
        super().__init__()
        first = decoders[0]
        for decoder in decoders[1:]:
            decoder.recurrent, decoder.norm = first.recurrent, first.norm
            decoder.dropout = first.dropout
            if shared_read_out:
                decoder.head = first.head
        self.decoders = tuple(decoders)  # a tuple: no submodules, or the core would be there twice
        self.recurrent, self.norm, self.dropout = first.recurrent, first.norm, first.dropout
        self.read_ins = nn.ModuleList(decoder.encoder for decoder in decoders)  # type: ignore[misc]
        own_heads = decoders[:1] if shared_read_out else decoders
        self.heads = nn.ModuleList(decoder.head for decoder in own_heads)

    @property
    def members(self) -> list[MultiSessionDecoder]:  # type: ignore[override]
        """All sessions together: they have one loss."""
        return [self]

    def train(self, mode: bool = True) -> MultiSessionDecoder:
        for decoder in self.decoders:
            decoder.training = mode
        super().train(mode)
        return self

    def session_decoder(self, number: int) -> Decoder:
        """The ordinary decoder of a session, which shares its weights with this one."""
        return self.decoders[number]

    def forward(  # type: ignore[override]
        self, counts: Sequence[Tensor], sessions: Sequence[int], first_output: int = 0
    ) -> list[Tensor]:
        """Kinematics (B, T - first_output, D) of windows (B, T, N) of each of `sessions`.

        All windows pass the core together, each from a zero state; none holds bins of two sessions.
        """
        decoders = [self.decoders[number] for number in sessions]
        encoded = [one.encode(own) for one, own in zip(decoders, counts, strict=True)]
        y, _ = self.recurrent(torch.cat(encoded))
        outputs = self.norm(y)[:, first_output:].split([len(own) for own in counts])
        return [one.read_out(own) for one, own in zip(decoders, outputs, strict=True)]
