"""The configuration keys: type, default, meaning and range of each, in one place.

`conf/` only states what differs from these defaults. A value of another type is refused by
OmegaConf, one outside its range by the dataclass that it belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import PurePath
from typing import Any, ClassVar

from bci_decode.errors import BciDecodeError

TARGETS = {"position": "mm", "velocity": "mm/s", "acceleration": "mm/s²"}  # target -> unit
UNITS = ("all", "sorted", "hash", "merged")
DIFFERENCES = ("bin", "central")
READ_OUTS = ("shared", "session")
MAX_COUNT = 1_000_000  # of epochs, windows or threads: more is surely a slip
MAX_BINS = 10_000_000  # of a window: two days at 20 ms
MAX_SECONDS = 86_400.0  # of any length of time: a day is more than a recording lasts
BRIDGED = 0.1  # s; across a shorter gap of a recording, a hand moves nearly straight
MAX_TIME = 1e10  # s on a recording's clock: that of Unix is at 2e9
MAX_RATE = 500.0  # Hz: half of the rate of the narrowest bins
MAX_SIZE = 1e6  # of a norm or a weight, without a unit
MAX_SD = 1000.0  # of noise in scaled counts, whose SD is about 1


def key(
    default: Any, meaning: str, *, choices=(), low=None, high=None, above=None, below=None
) -> Any:
    """A config key or a group of keys.

    `default` is its value or, for a group, its dataclass; `meaning` and the rest say what it means
    and may be. `low` and `high` belong to the range, `above` and `below` do not.
    """
    limits = {"low": low, "high": high, "above": above, "below": below}
    metadata = {"meaning": meaning, "choices": tuple(choices), "limits": limits}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class _Keys:
    """A group of keys that refuses values outside their ranges."""

    PREFIX: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for entry in fields(self):
            check_value(self.PREFIX + entry.name, getattr(self, entry.name), entry.metadata)


def check_value(name: str, value: Any, metadata: Any) -> None:
    """Refuse a value that is not finite, not among the choices, or out of its range."""
    if isinstance(value, float) and not math.isfinite(value):
        raise BciDecodeError(f"is {value}", field=name, remedy="give a finite number")
    if metadata["choices"] and value not in metadata["choices"]:
        *others, last = metadata["choices"]
        remedy = f"choose {', '.join(others)} or {last}"
        raise BciDecodeError(f"is {value!r}", field=name, remedy=remedy)
    limits = metadata["limits"]
    if value is None or all(limit is None for limit in limits.values()):
        return
    low, high, above, below = limits.values()
    if (
        (low is not None and value < low)
        or (high is not None and value > high)
        or (above is not None and value <= above)
        or (below is not None and value >= below)
    ):
        raise BciDecodeError(f"is {value}", field=name, remedy=f"choose {range_text(limits)}")


def range_text(limits: dict[str, Any]) -> str:
    """A range in words: "1 to 1000000", "0 or more, below 1"."""
    low, high, above, below = limits.values()
    if low is not None and high is not None:
        return f"{_number(low)} to {_number(high)}"
    lower = f"{low} or more" if low is not None else f"above {above}" if above is not None else ""
    upper = f"below {below}" if below is not None else ""
    upper = f"at most {_number(high)}" if high is not None else upper
    return ", ".join(part for part in (lower, upper) if part)


def _number(limit: float) -> str:
    return f"{limit:.10g}" if isinstance(limit, float) else str(limit)


@dataclass
class SplitConfig(_Keys):
    """Training part, then validation part, then test part, in the order of time.

    With `cuts` the split is forward-chained: the session's last `cuts` blocks of equal length are
    the test parts of as many runs, and each run learns from all bins before its block.
    """

    PREFIX: ClassVar[str] = "data.split."
    first_bins: int | None = key(
        None,
        "bins to train and validate on, the rest is the test part; null: the fractions below",
        low=1,
        high=MAX_BINS,
    )
    train: float = key(
        0.7, "fraction of the session to train on; not used with first_bins", low=0, below=1
    )
    val: float = key(
        0.1,
        "fraction of the session, of first_bins, or of the bins before a cut, to validate on; "
        "0: no validation part",
        low=0,
        below=1,
    )
    gap: float = key(0.64, "s left out between two parts", low=0, high=MAX_SECONDS)
    val_from_test: float = key(
        0.0,
        "fraction of the test part that selects the epoch of the holdout score; 0: none",
        low=0,
        below=1,
    )
    by: str = key(
        "time",
        "what train and val are fractions of: the session's time, or its reaches, in order; a "
        "reach begins where target_pos changes",
        choices=("time", "reaches"),
    )
    cuts: int | None = key(
        None, "blocks of forward-chained cross-validation; null: one test part", low=1, high=100
    )
    block: float = key(
        0.12, "fraction of the session in each scored block; only with cuts", above=0, below=1
    )
    cut: int | None = key(
        None, "the one cut to train, from 0; null: all, a run each", low=0, high=99
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cuts is None:
            if self.cut is not None:
                remedy = "add data.split=chained"
                raise BciDecodeError("is for chained splits", field="data.split.cut", remedy=remedy)
            return
        if self.cut is not None and self.cut >= self.cuts:
            raise BciDecodeError(
                f"is {self.cut} of {self.cuts} cuts",
                field="data.split.cut",
                remedy=f"choose 0 to {self.cuts - 1}, or null for all",
            )
        if self.by != "time":
            raise BciDecodeError(
                f"is {self.by} beside data.split.cuts",
                field="data.split.by",
                remedy="choose data.split.by=time, or data.split.cuts=null",
            )
        if self.first_bins is not None:
            raise BciDecodeError(
                "is set beside data.split.cuts",
                field="data.split.first_bins",
                remedy="set one of them to null",
            )


@dataclass
class ScaleConfig(_Keys):
    """Scaling, fitted on the training part."""

    PREFIX: ClassVar[str] = "data.scale."
    counts: str = key("zscore", "scaling of the spike counts", choices=("none", "zscore"))
    target: str = key(
        "zscore",
        "scaling of the target; per_sample: velocity in mm per 4 ms, by the constant 250",
        choices=("none", "zscore", "per_sample"),
    )


@dataclass
class WindowConfig(_Keys):
    """What the decoder sees of the past: see `data.parts.Window`."""

    PREFIX: ClassVar[str] = "data.window."
    kind: str = key(
        "sequence",
        "sequence: an output at every bin after burn_in; history: one output, at the last bin",
        choices=("sequence", "history"),
    )
    length: int = key(64, "bins", low=1, high=MAX_BINS)
    stride: int = key(16, "bins from one window's start to the next", low=1, high=MAX_BINS)
    burn_in: int = key(
        10, "bins at a sequence's start that are not learned from", low=0, high=MAX_BINS
    )
    grids: int = key(
        1,
        "grids of bins, bin_width / grids apart, one of which each training window is drawn from",
        low=1,
        high=100,
    )
    step: int = key(
        1, "bins from one bin of a window to the next; above 1 it skips bins", low=1, high=MAX_BINS
    )
    learn: int = key(
        1,
        "outputs of a history window that are learned from, its last ones; the last one decodes",
        low=1,
        high=MAX_BINS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "history" and self.learn > self.length:
            raise BciDecodeError(
                f"is {self.learn} of {self.length} bins",
                field="data.window.learn",
                remedy="learn from data.window.length outputs at most",
            )
        if self.kind == "sequence" and self.burn_in >= self.length:
            raise BciDecodeError(
                f"is {self.burn_in} of {self.length} bins",
                field="data.window.burn_in",
                remedy="leave bins to learn from",
            )


@dataclass
class DataConfig(_Keys):
    """From a session to arrays."""

    PREFIX: ClassVar[str] = "data."
    bin_width: float = key(0.064, "s", low=0.001, high=MAX_SECONDS)
    lag: float = key(
        0.0, "s, + where the hand follows the spikes", low=-MAX_SECONDS, high=MAX_SECONDS
    )
    delay: float = key(
        0.0,
        "s that a live decoder waits for later spikes before it decodes a bin",
        low=0,
        high=MAX_SECONDS,
    )
    target: str = key("velocity", "what is decoded", choices=tuple(TARGETS))
    source: str = key(
        "finger_pos",
        "the series of the file whose movement is decoded: finger_pos, cursor_pos, ...",
    )
    units: str = key(
        "all", "rows of a channel; merged: all rows of a channel together", choices=UNITS
    )
    area: str = key("all", "brain area, as the file names it: M1, S1, PMd, ...")
    min_rate: float = key(
        0.0, "Hz over the training part; slower units are left out", low=0, high=100_000.0
    )
    low_pass: float | None = key(
        None,
        "Hz, cut-off of a causal low-pass filter of the decoded target; null: none",
        above=0,
        high=MAX_RATE,
    )
    presence: float | None = key(
        None,
        "s; a unit's spikes count as 0 or 1 in each interval of this width, and a bin sums them; "
        "null: every spike counts",
        low=0.001,
        high=MAX_SECONDS,
    )
    count_window: float | None = key(
        None,
        "s up to a bin's end in which its spikes are counted; null: the bin itself",
        above=0,
        high=MAX_SECONDS,
    )
    difference: str = key(
        "bin",
        "velocity is the difference over the bin, or at its end the central difference of samples",
        choices=DIFFERENCES,
    )
    split: SplitConfig = key(SplitConfig, "")
    scale: ScaleConfig = key(ScaleConfig, "")
    window: WindowConfig = key(WindowConfig, "")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale.target == "per_sample" and self.target != "velocity":
            raise BciDecodeError(
                f"is per_sample, a unit of velocity, not of {self.target}",
                field="data.scale.target",
                remedy="choose none or zscore",
            )

    @property
    def cutoff(self) -> float | None:
        """The cut-off of the output filter in cycles per bin; None without one."""
        return None if self.low_pass is None else self.low_pass * self.bin_width

    def binning_kwargs(self) -> dict[str, Any]:
        """The keys that make the bins, as `data.binning.bin_session` takes them."""
        names = ("bin_width", "lag", "delay", "target", "source", "units", "area")
        counting = ("presence", "count_window", "difference")
        return {name: getattr(self, name) for name in names + counting}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DataConfig:
        """The configuration that `asdict` made the nested dictionary of."""
        groups = {"split": SplitConfig, "scale": ScaleConfig, "window": WindowConfig}
        nested = {name: group(**values[name]) for name, group in groups.items() if name in values}
        return cls(**values | nested)


@dataclass
class TrainerConfig(_Keys):
    """How long, in what order and on what a decoder is trained."""

    PREFIX: ClassVar[str] = "trainer."
    epochs: int = key(60, "passes over the training windows, at most", low=1, high=MAX_COUNT)
    batch_size: int = key(32, "windows", low=1, high=MAX_COUNT)
    shuffle: bool = key(True, "another order of the windows in every epoch")
    clip_norm: float | None = key(
        1.0, "largest norm of the gradient; null: not clipped", above=0, high=MAX_SIZE
    )
    patience: int | None = key(
        15, "epochs without a lower validation loss; null: all epochs", low=1, high=MAX_COUNT
    )
    select_on: str = key(
        "val",
        "part that selects the best epoch; last: the last epoch, whatever its scores; test: a "
        "leak, only to reproduce the source study",
        choices=("val", "last", "test"),
    )
    noise: float = key(
        0.0, "SD of white noise added to the scaled counts in training", low=0, high=MAX_SD
    )
    offset: float = key(
        0.0,
        "SD of a constant added to each unit's scaled counts in a training window",
        low=0,
        high=MAX_SD,
    )
    poisson: float = key(
        0.0,
        "probability that a count is replaced by a Poisson draw around it in training",
        low=0,
        high=1,
    )
    reconstruction: float = key(
        0.0,
        "weight of an auxiliary loss: the counts' Poisson likelihood from the states",
        low=0,
        high=MAX_SIZE,
    )
    ema: float = key(
        0.0,
        "decay per step of an average of the weights, which is scored and kept; 0: the weights",
        low=0,
        below=1,
    )
    device: str = key("auto", "where it runs", choices=("auto", "cpu", "cuda"))
    threads: int | None = key(
        1,
        "CPU threads; more gain little and lose much on a busy machine; null: all cores",
        low=1,
        high=MAX_COUNT,
    )
    profile: bool = key(False, "write profile.csv: where the time goes")
    monitor_layers: bool = key(
        False,
        "history.csv also gets gradient norms, weight norms and saturated gates of each layer",
    )


@dataclass
class DropoutConfig(_Keys):
    """Shares that recurrent models drop in training: the yaml files of `conf/model/` read them."""

    PREFIX: ClassVar[str] = "dropout."
    counts: float = key(0.3, "share of the counts that are set to 0 in training", low=0, below=1)
    layers: float = key(0.3, "share of the values between recurrent layers", low=0, below=1)


@dataclass
class TrajectoryConfig(_Keys):
    """The stretch of the test part that `trajectory.png` shows."""

    PREFIX: ClassVar[str] = "trajectory."
    start: float | None = key(
        None,
        "s on the recording's clock; null: the middle of the test part",
        low=-MAX_TIME,
        high=MAX_TIME,
    )
    seconds: float = key(10.0, "s that are shown", above=0, high=MAX_SECONDS)


@dataclass
class NamesConfig(_Keys):
    """Names of the chosen yaml files: they name the run's folder."""

    PREFIX: ClassVar[str] = "names."
    experiment: str = key("default", "set by experiment=")
    model: str = key("", "set by model=")
    swept: str = key("", "set by a sweep: the swept keys that nothing else in the folder names")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("experiment", "model"):
            check_folder_name(f"names.{name}", getattr(self, name))


def check_folder_name(field: str, name: str) -> None:
    """Refuse a name of folders that leads out of the folder that they are in."""
    parts = PurePath(name.replace("\\", "/")).parts
    leads_out = ".." in parts or name.startswith(("/", "\\"))
    plain = name.isprintable() and name.strip()
    if name and (leads_out or not plain):  # an empty one is not set: see `runs.compose`
        remedy = "give a name without .. and control characters: it names the run's folder"
        raise BciDecodeError(f"is {name[:60]!r}", field=field, remedy=remedy)


@dataclass
class MultiSessionConfig(_Keys):
    """What the sessions of one decoder share, beside its recurrent layers."""

    PREFIX: ClassVar[str] = "multi_session."
    read_out: str = key(
        "shared", "one read-out for all sessions, or one for each; with sessions=",
        choices=READ_OUTS,
    )  # fmt: skip


@dataclass
class TrainConfig(_Keys):
    """All keys of `conf/train.yaml`."""

    seed: int = key(0, "of weights, dropout and the order of windows", low=0, high=2**32 - 1)
    bidirectional: bool = key(False, "recurrent layers also read their input from its end")
    ensemble: int = key(
        1, "decoders that are trained together and whose outputs are averaged", low=1, high=100
    )
    overwrite: bool = key(False, "train again although the run is finished")
    sessions: list[str] | None = key(
        None,
        "sessions that one decoder learns from: names as session= takes them, files, and patterns "
        "of both; null: the one of session=",
    )
    init_from: str | None = key(
        None, "folder of a finished run whose weights the training starts from"
    )
    allow_test_selection: bool = key(
        False, "set by experiments that select the epoch on the test part"
    )
    logger: str = key(
        "none", "also log every epoch there", choices=("none", "tensorboard", "mlflow", "wandb")
    )
    figures: str = key(
        "png", "format of the figures; none: draws none", choices=("png", "pdf", "svg", "none")
    )
    data_dir: str = key("data", "folder of the recordings")
    output_dir: str = key("outputs", "folder of the runs")
    dropout: DropoutConfig = key(DropoutConfig, "")
    trajectory: TrajectoryConfig = key(TrajectoryConfig, "")
    names: NamesConfig = key(NamesConfig, "")
    multi_session: MultiSessionConfig = key(MultiSessionConfig, "")
    session: Any = key(None, "")
    data: DataConfig = key(DataConfig, "")
    model: Any = key(None, "")
    optimizer: Any = key(None, "")
    scheduler: Any = key(None, "")
    trainer: TrainerConfig = key(TrainerConfig, "")

    def __post_init__(self) -> None:
        super().__post_init__()
        unlimited = {"choices": (), "limits": dict.fromkeys(("low", "high", "above", "below"))}
        # also of the parts that have no dataclass
        for name, value in flatten(asdict(self)).items():
            check_value(name, value, unlimited)
        self._check_selection()

    def _check_selection(self) -> None:
        """Nothing is selected on the test part, except where an experiment says so."""
        on_test, split = self.trainer.select_on == "test", self.data.split
        if on_test and not self.allow_test_selection:
            raise BciDecodeError(
                "is test, which makes every score too good",
                field="trainer.select_on",
                remedy="choose val, or experiment=source_study, which reports a holdout score too",
            )
        if split.val_from_test and not on_test:
            raise BciDecodeError(
                "lies inside the test part, which trainer.select_on=val must not select on",
                field="data.split.val_from_test",
                remedy="set it to 0 and data.split.val=0.1",
            )


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {
        name: value
        for child, branch in tree.items()
        for name, value in flatten(branch, f"{prefix}{child}.").items()
    }


def default_settings() -> dict[str, Any]:
    """Keys and their defaults, {"data.lag": 0.0}, for runs of before a key existed."""
    keys = described_keys()
    return {name: default for name, default, _ in keys if not name.startswith("names.")}


def described_keys(group: type = TrainConfig, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Name, default and meaning, with the allowed values, of every key that has a dataclass."""
    for entry in fields(group):
        name = prefix + entry.name
        if entry.default_factory is not MISSING and is_dataclass(entry.default_factory):
            yield from described_keys(entry.default_factory, name + ".")
        elif entry.metadata["meaning"]:
            choices, limits = entry.metadata["choices"], range_text(entry.metadata["limits"])
            allowed = " | ".join(choices) or limits
            yield name, entry.default, entry.metadata["meaning"] + f" ({allowed})" * bool(allowed)
