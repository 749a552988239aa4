"""Names for looking into recurrent layers, wherever the packages below have them."""

try:
    from bci_decode.layers.introspection import SATURATION_BAND, pre_activations, share_outside
    from bci_decode.training.monitor import monitor_input  # type: ignore[attr-defined]
except ImportError:
    from bci_decode.training.monitor import BAND as SATURATION_BAND
    from bci_decode.training.monitor import pre_activations, share_outside
    from bci_decode.training.monitor import watched_input as monitor_input

__all__ = ["SATURATION_BAND", "monitor_input", "pre_activations", "share_outside"]
