"""The decoder: a recurrent layer and a head, from spike counts to kinematics.

Shapes: B windows, T bins, N units, H outputs of the recurrent layer, D axes of the target.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bci_decode.errors import BciDecodeError
from bci_decode.models.heads import in_float64

# windows per bin, from which projecting each bin once pays for gathering the projections
MIN_OVERLAP = 1.5


class TrainedDecoder(nn.Module):
    """What is trained in epochs: counts (B, T, N) -> kinematics (B, T, D) and the state.

    A subclass defines `forward`, `forward_windows` and `members`, as `Decoder` has them.
    """

    @property
    def members(self) -> list[Decoder]:
        """The decoders that are trained, each with a loss of its own."""
        raise NotImplementedError

    def forward_windows(self, counts: Tensor, windows: Tensor, first_output: int = 0) -> Tensor:
        """Kinematics (B, T - first_output, D) of counts (n, N) in windows (B, T) of indices."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def needs_window(self) -> bool:
        """Whether an output is causal only at a window's last bin.

        Then no state can be carried from window to window.
        """
        return any(not getattr(member.norm, "causal", True) for member in self.members)


class Decoder(TrainedDecoder):
    """Counts (B, T, N) -> kinematics (B, T, D) and the recurrent state.

    Counts and kinematics are in the data set's scaled units. `recurrent(input_size,
    batch_first=True)` makes a layer with the call of `torch.nn.GRU`, `head(H, D)` makes the module
    that maps its outputs to the axes, and `norm`, if any, is between the two. Plain and LayerNorm
    decoders differ only in what is put into these sockets. `encoder(N)`, if any, makes a module
    with an `output_size` that maps the counts of each bin before the recurrent layer.
    """

    def __init__(
        self,
        recurrent: Callable[..., nn.Module],
        head: Callable[[int, int], nn.Module],
        norm: nn.Module | None = None,
        dropout: float = 0.0,
        encoder: Callable[[int], nn.Module] | None = None,
        *,
        input_size: int,
        output_size: int,
    ):
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}, it must be 0 or more and below 1")
        # nn.Dropout(0) still draws and multiplies
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.encoder = encoder(input_size) if encoder else None
        self.inputs = input_size if self.encoder is None else int(self.encoder.output_size)  # type: ignore[arg-type]
        self.recurrent = recurrent(self.inputs, batch_first=True)
        self.bidirectional = bool(self.recurrent.bidirectional)
        self.norm = norm or nn.Identity()
        self.input_size = input_size
        self.head = head(self.width, output_size)

    @property
    def members(self) -> list[Decoder]:
        return [self]

    @property
    def width(self) -> int:
        """Columns of the recurrent layer's outputs, of both directions together."""
        layer = self.recurrent
        width = layer.output_size if hasattr(layer, "output_size") else layer.hidden_size
        return int(width) * (1 + self.bidirectional)  # type: ignore[arg-type]

    def forward(
        self, counts: Tensor, state: Tensor | None = None, first_output: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Kinematics (B, T - first_output, D) of the bins from `first_output` on, and the state."""
        y, state = self.features(self.encode(counts), state)
        return self.read_out(y[:, first_output:]), state

    def encode(self, counts: Tensor) -> Tensor:
        """What the recurrent layer gets of counts (B, T, N)."""
        return self._encoded(self.dropout(counts))

    def features(self, encoded: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the head gets of every bin (B, T, H), and the state."""
        y, state = self.recurrent(encoded, state)
        return self.norm(y), state

    def forward_windows(self, counts: Tensor, windows: Tensor, first_output: int = 0) -> Tensor:
        """Kinematics (B, T - first_output, D) of counts (n, N) in windows (B, T) of indices.

        Each window starts from a zero state. The result is that of counts[windows]; but where
        windows lie so close together that they share bins, a layer with a method `forward_windows`
        projects each bin once on a CPU. In training, dropout of the counts and an encoder work on
        each window separately.
        """
        drops = isinstance(self.dropout, nn.Dropout) or self.encoder is not None
        drops = drops and self.training
        # no layer gains on a GPU, which training would have to wait for to read `first` and `last`
        may_share = hasattr(self.recurrent, "forward_windows") and windows.device.type == "cpu"
        if drops or not may_share:
            return self(counts[windows], first_output=first_output)[0]
        first, last = (int(end) for end in torch.aminmax(windows))
        if windows.numel() <= MIN_OVERLAP * (last + 1 - first):
            return self(counts[windows], first_output=first_output)[0]
        bins = self._encoded(counts[first : last + 1])
        y, _ = self.recurrent.forward_windows(bins, windows - first)  # type: ignore[operator]
        return self.read_out(self.norm(y)[:, first_output:])

    def read_out(self, y: Tensor) -> Tensor:
        """The head's kinematics of y (B, T, H).

        Evaluation sums in float64: an axis is a small difference of large sums, whose rounding in
        float32 is most of the error of a decoded stream.
        """
        return self.head(y) if self.training else in_float64(self.head, y)

    def _encoded(self, counts: Tensor) -> Tensor:
        return counts if self.encoder is None else self.encoder(counts)


def check_decoder(decoder: TrainedDecoder, inputs: int, outputs: int) -> None:
    """Refuse a decoder whose parts do not fit: two bins of silence must come out as kinematics.

    Any module can be put into the sockets, so what it returns is known only from a pass.
    """
    training = decoder.training
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        try:
            y, _ = decoder.eval()(torch.zeros(1, 2, inputs))
        finally:
            decoder.train(training)
    wanted = (1, 2, outputs)
    if not isinstance(y, Tensor) or y.shape != wanted:
        given = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise BciDecodeError(
            f"gives {given} for one window of two bins, not {wanted}",
            field="model",
            remedy="choose a model.head that maps to the axes of the target",
        )


def check_window(decoder: TrainedDecoder, history: int | None) -> None:
    """Refuse a decoder that is causal in windows alone where the state is carried on."""
    if decoder.needs_window and history is None:
        raise BciDecodeError(
            f"{type(decoder.members[0].norm).__name__} looks ahead inside a sequence",
            field="model.norm",
            remedy="set data.window.kind=history",
        )
