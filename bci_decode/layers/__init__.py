"""Recurrent layers that are called as `torch.nn.GRU`."""

from bci_decode.layers.normalized import NormGRU
from bci_decode.layers.norms import HistoryNorm
from bci_decode.layers.recurrent import GRU, LayerNormGRU
from bci_decode.layers.stacked import StackedRecurrent

__all__ = ["GRU", "HistoryNorm", "LayerNormGRU", "NormGRU", "StackedRecurrent"]
