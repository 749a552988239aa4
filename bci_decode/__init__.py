"""bci_decode: decode hand movement from spikes.

The names below are imported when they are first used, so that `import bci_decode` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "read_session": "data.session",
    "Session": "data.session",
    "bin_session": "data.binning",
    "BinnedSession": "data.binning",
    "prepare": "data.dataset",
    "Dataset": "data.dataset",
    "simulated_session": "data.simulate",
    "inspect": "data.inspection",
    "GRU": "layers",
    "LayerNormGRU": "layers",
    "Decoder": "models.decoder",
    "WienerFilter": "models.wiener",
    "WienerCascade": "models.cascade",
    "KalmanFilter": "models.kalman",
    "Trainer": "training.trainer",
    "train": "runs.estimator",
    "RNNDecoder": "runs.estimator",
    "load_run": "runs.load",
    "load_joint": "runs.load_joint",
    "calibrate": "realtime.recalibration.calibrate",
    "LoadedRun": "runs.loaded_run",
    "JointRun": "runs.load_joint",
    "StreamingDecoder": "realtime.decoder",
    "SpikeBinner": "realtime.stream.binner",
    "BciDecodeError": "errors",
}
__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from bci_decode.data.binning import BinnedSession, bin_session
    from bci_decode.data.dataset import Dataset, prepare
    from bci_decode.data.inspection import inspect
    from bci_decode.data.session import Session, read_session
    from bci_decode.data.simulate import simulated_session
    from bci_decode.errors import BciDecodeError
    from bci_decode.layers import GRU, LayerNormGRU
    from bci_decode.models.cascade import WienerCascade
    from bci_decode.models.decoder import Decoder
    from bci_decode.models.kalman import KalmanFilter
    from bci_decode.models.wiener import WienerFilter
    from bci_decode.realtime.decoder import StreamingDecoder
    from bci_decode.realtime.recalibration.calibrate import calibrate
    from bci_decode.realtime.stream.binner import SpikeBinner
    from bci_decode.runs.estimator import RNNDecoder, train
    from bci_decode.runs.load import load_run
    from bci_decode.runs.load_joint import JointRun, load_joint
    from bci_decode.runs.loaded_run import LoadedRun
    from bci_decode.training.trainer import Trainer


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bci_decode' has no attribute {name!r}")
    return getattr(import_module(f"bci_decode.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
