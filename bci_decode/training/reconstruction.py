"""An auxiliary loss: what is inside a decoder must also tell the counts that it was given."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from bci_decode.models.decoder import Decoder
from bci_decode.training.augmentation import Augmentation


class Reconstruction(nn.Module):
    """Poisson negative log-likelihood of the counts, whose log rates are linear in the states.

    With an encoder they are linear in its outputs. Each member of an ensemble has a map of its own,
    (H) -> (N), which no checkpoint for decoding holds. Source: AEGRU (arXiv 2410.22283).
    """

    def __init__(self, members: Sequence[Decoder], augment: Augmentation):
        super().__init__()
        widths = [one.width if one.encoder is None else one.inputs for one in members]
        sizes = zip(widths, members, strict=True)
        self.maps = nn.ModuleList(nn.Linear(width, one.input_size) for width, one in sizes)
        self.counts_of = augment.counts

    def forward(self, number: int, features: Tensor, scaled: Tensor) -> Tensor:
        """The mean loss of a member for what it holds (B, T, H) and scaled counts (B, T, N)."""
        log_rates = self.maps[number](features)
        return F.poisson_nll_loss(log_rates, self.counts_of(scaled), log_input=True)
