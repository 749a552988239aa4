"""Recurrent layers that are called as `torch.nn.GRU`."""

from bci_decode.layers.linear_recurrent import HGRN, LRU, MinGRU
from bci_decode.layers.lstm import LSTM, LayerNormLSTM
from bci_decode.layers.normalized import NormGRU
from bci_decode.layers.norms import HistoryNorm
from bci_decode.layers.recurrent import GRU, LayerNormGRU
from bci_decode.layers.residual import ResidualStack
from bci_decode.layers.simple import RNN, LayerNormRNN
from bci_decode.layers.stacked import StackedRecurrent

__all__ = [
    "GRU",
    "HGRN",
    "LRU",
    "LSTM",
    "RNN",
    "HistoryNorm",
    "LayerNormGRU",
    "LayerNormLSTM",
    "LayerNormRNN",
    "MinGRU",
    "NormGRU",
    "ResidualStack",
    "StackedRecurrent",
]
