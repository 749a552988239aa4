"""What the settings of a model, an optimizer and a schedule may be: the numbers in their yaml.

The keys of `config.py` have their ranges there. These parts are made from any class that a yaml
file names, PyTorch's too, which accept much that makes no sense or no end. A key that is not in
`RANGES` has no range: its class checks it, and it must be finite.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bci_decode.config import MAX_COUNT, check_value, range_text
from bci_decode.errors import BciDecodeError

MAX_WIDTH = 10_000  # of a layer; its weights alone are then 2 GB
MAX_LAYERS = 100
MAX_WEIGHTS = 250_000_000  # of a model: 1 GB, and four times as much in training
MAX_LR = 1000.0
KNOWN = ("bci_decode.", "torch.")  # whose classes' keys mean what RANGES says
GATES = 4  # matrices of a recurrent layer, at most


@dataclass(frozen=True)
class Range:
    """The values of a number and its ends: whole ones or any, null too.

    `many` are a list of such numbers, `one_or_many` a number or a list.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    whole: bool = False
    null: bool = False
    many: bool = False
    one_or_many: bool = False
    metadata: dict[str, Any] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        limits = {name: getattr(self, name) for name in ("low", "high", "above", "below")}
        object.__setattr__(self, "metadata", {"choices": (), "limits": limits})

    def check(self, name: str, value: Any) -> None:
        """Raise `BciDecodeError` where a value is not in the range."""
        if value is None and self.null:
            return
        if self.many and not (isinstance(value, list) and value):
            raise BciDecodeError(f"is {value!r}", field=name, remedy="give a list of numbers")
        listed = isinstance(value, list) and (self.many or self.one_or_many)
        for one in value if listed else [value]:
            self._check_one(name, one)

    def _check_one(self, name: str, value: Any) -> None:
        kinds = int if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            shown = "null" if value is None else repr(value)
            remedy = f"choose {'a whole' if self.whole else 'a'} number"
            remedy += f", {range_text(self.metadata['limits'])}"
            raise BciDecodeError(f"is {shown}", field=name, remedy=remedy)
        check_value(name, value, self.metadata)


COUNT = Range(low=1, high=MAX_COUNT, whole=True)
COUNT_OR_NONE = Range(low=0, high=MAX_COUNT, whole=True)
SHARE, PART, DECAY = Range(low=0, high=1), Range(low=0, below=1), Range(low=0, high=100)
WIDTH = Range(low=1, high=MAX_WIDTH, whole=True)
GAIN = Range(low=0, high=1000, null=True)
LR, LOWEST_LR = Range(above=0, high=MAX_LR), Range(low=0, high=MAX_LR, one_or_many=True)
EPS = Range(low=0, high=1)

RANGES: dict[str, dict[str, Range]] = {  # part -> last word of a key -> its range
    "model": {
        "hidden_size": WIDTH,
        "num_layers": Range(low=1, high=MAX_LAYERS, whole=True),
        "width": WIDTH,
        "unit_dropout": PART,
        "noise_width": Range(low=1, high=MAX_WIDTH, whole=True, null=True),
        "dropout": PART,
        "gain": GAIN,
        "initial_gain": GAIN,
        "eps": Range(above=0, high=1),
        "update_bias": Range(low=-100, high=100),
        "r_min": SHARE,
        "r_max": SHARE,
        "max_phase": Range(above=0, high=6.2832),  # radians: once around
        "history": Range(low=1, high=MAX_WIDTH, whole=True),
        "alpha": Range(low=0, high=1e12, null=True),
        "alphas": Range(low=0, high=1e12, many=True),
        "degree": Range(low=1, high=9, whole=True),
        "lag": Range(low=0, high=MAX_WIDTH, whole=True),
        "shrinkage": SHARE,
    },
    "optimizer": {
        "lr": LR,
        "weight_decay": DECAY,
        "momentum": PART,
        "dampening": SHARE,
        "betas": Range(low=0, below=1, many=True),
        "alpha": PART,
        "rho": PART,
        "eps": EPS,
        "lr_decay": DECAY,
        "momentum_decay": SHARE,
        "initial_accumulator_value": DECAY,
        "lambd": SHARE,
        "t0": Range(low=0, high=1e12),
    },
    "scheduler": {
        "factor": Range(above=0, high=1),
        "start_factor": Range(above=0, high=1),
        "end_factor": SHARE,
        "gamma": Range(above=0, high=10),
        "patience": COUNT_OR_NONE,
        "cooldown": COUNT_OR_NONE,
        "threshold": Range(low=0, high=1e6),
        "warmup": Range(low=0, high=MAX_COUNT),
        "epochs": COUNT,
        "T_max": COUNT,
        "T_0": COUNT,
        "T_mult": COUNT,
        "step_size": COUNT,
        "milestones": Range(low=0, high=MAX_COUNT, whole=True, many=True),
        "total_iters": COUNT,
        "total_steps": COUNT,
        "steps_per_epoch": COUNT,
        "pct_start": SHARE,
        "power": DECAY,
        "eta_min": LOWEST_LR,
        "min_lr": LOWEST_LR,
        "base_lr": LOWEST_LR,
        "max_lr": Range(above=0, high=MAX_LR, one_or_many=True),
        "eps": EPS,
    },
}


def check_part(part: str, settings: DictConfig | None, inputs: int = 1, members: int = 1) -> None:
    """Refuse settings of a part that make no sense, or a model that no memory would hold.

    `inputs` are those of a model, `members` how many of it are made.
    """
    values = OmegaConf.to_container(settings, resolve=True) if settings else {}
    if not isinstance(values, dict):
        raise BciDecodeError(f"is {values!r}", field=part, remedy=f"choose a file of conf/{part}/")
    if values and "_target_" not in values:
        strange = f"{part}.{next(iter(values))}"
        raise BciDecodeError("nothing reads this key", field=strange, remedy="remove it")
    _check_tree(part, values, RANGES[part])
    if part == "model" and isinstance(recurrent := values.get("recurrent"), dict):
        _check_weights(recurrent, inputs, members)


def _check_tree(prefix: str, values: dict[Any, Any], ranges: dict[str, Range]) -> None:
    known = str(values.get("_target_", KNOWN[0])).startswith(KNOWN)
    for name, value in values.items():
        key = f"{prefix}.{name}"
        if known and name in ranges:
            ranges[name].check(key, value)
        elif isinstance(value, dict):
            _check_tree(key, value, ranges)


def _check_weights(recurrent: dict[Any, Any], inputs: int, members: int) -> None:
    """Refuse recurrent layers with more weights than a decoder could use."""
    hidden, layers = recurrent.get("hidden_size", 1), recurrent.get("num_layers", 1)
    directions = 1 + bool(recurrent.get("bidirectional", False))
    columns = inputs + hidden + (layers - 1) * (directions + 1) * hidden  # of the matrices
    weights = members * GATES * directions * hidden * columns
    if weights > MAX_WEIGHTS:
        raise BciDecodeError(
            f"is {hidden} in {layers} layers of {members} models, up to {weights:.2g} weights",
            field="model.recurrent.hidden_size",
            remedy=f"choose less: a model may have {MAX_WEIGHTS:.2g} weights",
        )
