"""Normalizations of a recurrent layer's outputs.

Shapes: B windows, T bins, H columns.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class HistoryNorm(nn.Module):
    """LayerNorm over the bins and columns of a window together, without gain or bias.

    (B, T, H) -> (B, T, H), as in the source study. Each output depends on every bin of its window,
    so only the last one is causal.
    """

    causal = False

    def forward(self, y: Tensor) -> Tensor:
        return F.layer_norm(y, y.shape[-2:])
