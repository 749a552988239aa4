"""bci_decode: decode hand movement from spikes with a plain GRU and a LayerNorm GRU, side by side."""

__version__ = "0.1.0"
