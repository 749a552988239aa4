"""The types of the config keys: what `conf/` may set, and what the functions that use them are handed.

The values stand in `conf/`; a key of another type or name is refused before anything runs.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from bci_decode.errors import BciDecodeError

TARGETS = {"position": "mm", "velocity": "mm/s", "acceleration": "mm/s²"}  # what can be decoded, and its unit


@dataclass
class SplitConfig:
    """Train, then validation, then test, in the order of time."""

    first_bins: int | None  # bins to train and validate on, the rest is the test part; null: fractions of the session
    train: float  # fraction of the session; not used with first_bins
    val: float  # fraction of the session, or of first_bins, from the end of them; 0: no validation part
    gap: float  # s left out between two parts
    # fraction of what follows the training part, from its beginning, to validate on though it stays in the test part;
    # what comes after it then gives an honest score beside one that chose on the test part; 0: none
    val_of_rest: float = 0.0


@dataclass
class ScaleConfig:
    """ "none" or "zscore", fitted on the training part."""

    counts: str
    target: str


@dataclass
class WindowConfig:
    """What the decoder sees of the past: see `dataset.Window`."""

    kind: str  # "history": one output, at the window's last bin; "sequence": an output at every bin after burn_in
    length: int  # bins
    stride: int  # bins from one window's start to the next
    burn_in: int  # bins at a sequence's start that warm the state up and are not learned from


@dataclass
class DataConfig:
    """From a session to arrays."""

    bin_width: float  # s
    lag: float  # s, + where the hand follows the spikes
    target: str  # position (mm), velocity (mm/s), acceleration (mm/s^2)
    source: str  # finger_pos, cursor_pos
    units: str  # all, sorted, hash, merged
    area: str  # all, M1, S1
    min_rate: float  # Hz, over the training part; slower units are left out
    split: SplitConfig
    scale: ScaleConfig
    window: WindowConfig

    def grid(self) -> dict[str, Any]:
        """The keys that make the bins, as `binning.bin_session` takes them."""
        names = ("bin_width", "lag", "target", "source", "units", "area")
        return {name: getattr(self, name) for name in names}


@dataclass
class TrainerConfig:
    """How long, in what order and on what a decoder is trained."""

    epochs: int
    batch_size: int  # windows
    shuffle: bool
    clip_norm: float | None  # largest gradient norm; null: not clipped
    patience: int | None  # epochs without a lower validation loss before it stops; null: never
    select_on: str  # val: lowest validation loss; test: highest test R2, a leak, only to reproduce the source study
    device: str  # auto, cpu, cuda
    threads: int | None  # CPU threads; null: all cores
    gemm: str  # auto: the fastest float32 product that is exact on this processor; default: PyTorch's own
    profile: bool  # write profile.csv: where the time goes
    watch: bool  # columns in history.csv about the recurrent layers: see `monitor.LayerMonitor`


@dataclass
class TrainConfig:
    """The whole of `conf/train.yaml`."""

    seed: int
    bidirectional: bool  # whether the recurrent layers read a window, or a sequence, from its end too
    overwrite: bool
    data_dir: str
    output_dir: str
    session: Any
    data: DataConfig
    model: Any
    optimizer: Any
    scheduler: Any
    trainer: TrainerConfig

    def check(self) -> None:
        """Refuse what is of the right type and yet no number: nan and inf anywhere, and seeds that PyTorch cannot take."""
        for key, value in flat(asdict(self)).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise BciDecodeError(f"is {value}", field=key, remedy="give a finite number")
        if not 0 <= self.seed < 2**32:
            raise BciDecodeError(f"is {self.seed}", field="seed", remedy="choose a whole number from 0 to 4294967295")


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {key: value for name, branch in tree.items() for key, value in flat(branch, f"{prefix}{name}.").items()}
