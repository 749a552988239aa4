"""The decoder: a recurrent layer and a head, from spike counts to kinematics.

Shapes: B windows, T bins, N units, H outputs of the recurrent layer, D axes of the target.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bci_decode.errors import BciDecodeError


class Decoder(nn.Module):
    """Counts (B, T, N) -> kinematics (B, T, D) and the recurrent state; both in the data set's scaled units.

    `recurrent(input_size, batch_first=True)` makes a layer with the call of `torch.nn.GRU`, `head(H, D)` what maps its
    outputs to the axes, and `norm`, if any, stands between the two. Plain and LayerNorm decoders differ only in what
    is put into these sockets.
    """

    def __init__(
        self,
        recurrent: Callable[..., nn.Module],
        head: Callable[[int, int], nn.Module],
        norm: nn.Module | None = None,
        dropout: float = 0.0,
        *,
        input_size: int,
        output_size: int,
    ):
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}, it must be 0 or more and below 1")
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()  # nn.Dropout(0) still draws and multiplies
        self.recurrent = recurrent(input_size, batch_first=True)
        self.bidirectional = bool(self.recurrent.bidirectional)
        self.norm = norm or nn.Identity()
        self.head = head(int(self.recurrent.hidden_size) * (1 + self.bidirectional), output_size)  # type: ignore[arg-type]

    @property
    def needs_window(self) -> bool:
        """Whether an output is causal only at a window's last bin, so that no state can be carried instead."""
        return not getattr(self.norm, "causal", True)

    def forward(self, counts: Tensor, state: Tensor | None = None, first_output: int = 0) -> tuple[Tensor, Tensor]:
        """Kinematics of the bins from `first_output` on, (B, T - first_output, D), and the state after the last."""
        y, state = self.recurrent(self.dropout(counts), state)
        return self.head(self.norm(y)[:, first_output:]), state


class MLPHead(nn.Sequential):
    """One hidden layer of `width` with a ReLU, all axes together: (..., H) -> (..., D)."""

    def __init__(self, inputs: int, outputs: int, width: int):
        super().__init__(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))


class PerAxisHead(nn.Module):
    """An `MLPHead` of its own for every axis: (..., H) -> (..., D)."""

    def __init__(self, inputs: int, outputs: int, width: int):
        super().__init__()
        self.axes = nn.ModuleList(MLPHead(inputs, 1, width) for _ in range(outputs))

    def forward(self, y: Tensor) -> Tensor:
        return torch.cat([axis(y) for axis in self.axes], dim=-1)


@torch.no_grad()
def decode_stream(decoder: Decoder, counts: Tensor, history: int | None, batch: int = 256) -> Tensor:
    """Decode a whole stream (T, N) -> (T, D) as a live decoder would: bin t from bins up to t alone, none left out.

    With `history` every bin is decoded from the last `history` bins, starting from a zero state; the stream's first
    bins from as many as there are. Without, the state is carried from the first bin to the last; a bidirectional
    decoder then reads the whole stream for every bin, as no live one could.
    """
    decoder.eval()
    if history is None:
        return decoder(counts[None])[0][0]
    first = [decoder(counts[None, : t + 1], first_output=t)[0][0] for t in range(min(history - 1, len(counts)))]
    windows = counts.unfold(0, history, 1).transpose(1, 2) if len(counts) >= history else counts.new_empty(0)
    rest = [decoder(part, first_output=history - 1)[0][:, 0] for part in windows.split(batch)] if len(windows) else []
    return torch.cat(first + rest)


def check_window(decoder: Decoder, history: int | None) -> None:
    """Refuse a decoder that only windows keep causal where the state is carried through sequences."""
    if decoder.needs_window and history is None:
        raise BciDecodeError(
            f"{type(decoder.norm).__name__} looks ahead inside a sequence",
            field="model.norm",
            remedy="set data.window.kind=history",
        )
