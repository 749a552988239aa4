"""Recurrent layers that are called exactly like `torch.nn.GRU`."""

from bci_decode.layers.recurrent import GRU, HistoryNorm, LayerNormGRU

__all__ = ["GRU", "HistoryNorm", "LayerNormGRU"]
