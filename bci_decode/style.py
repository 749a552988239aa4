"""The look of every picture: models, parts of the data, true and decoded movement.

All pictures are readable in gray.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bci_decode.errors import BciDecodeError
from bci_decode.files import written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Model:
    """What tables and figures show of a model: `name` is its yaml file in `conf/model/`."""

    name: str
    label: str
    color: str
    linestyle: Any
    family: str  # "recurrent" or "closed form"


# Dark against light and solid against dashed, so that gray prints tell them apart.
MODELS = {
    model.name: model
    for model in (
        Model("gru", "GRU", "#5cb85c", "--", "recurrent"),
        Model("lngru", "LN-GRU", "#1a3a9c", "-", "recurrent"),
        Model("lstm", "LSTM", "#8c564b", "--", "recurrent"),
        Model("lnlstm", "LayerNorm LSTM", "#4a2c25", "-", "recurrent"),
        Model("rnn", "RNN", "#e377c2", "--", "recurrent"),
        Model("lnrnn", "LayerNorm RNN", "#8a2a6c", "-", "recurrent"),
        Model("mingru", "minGRU", "#17becf", "-.", "recurrent"),
        Model("hgrn", "HGRN", "#0b6b75", (0, (5, 1, 1, 1, 1, 1)), "recurrent"),
        Model("lru", "LRU", "#9467bd", "-.", "recurrent"),
        Model("gru_prenorm", "GRU stack, pre-norm", "#bcbd22", "--", "recurrent"),
        Model("gru_postnorm", "GRU stack, post-norm", "#6b6b00", "-", "recurrent"),
        Model("wiener", "Wiener filter", "#b5460f", "-.", "closed form"),
        Model("cascade", "Wiener cascade", "#e08a3c", (0, (5, 1, 1, 1, 1, 1)), "closed form"),
        Model("kalman", "Kalman filter", "#5c2a6d", (0, (1, 1)), "closed form"),
        Model("kalman_velocity", "Kalman filter, velocity", "#b48ac4", (0, (3, 1)), "closed form"),
    )
}
FORMATS = ("png", "pdf", "svg")
LAYER_NORM = "lngru"  # the model that the studies set against the baseline
BASELINE = "gru"  # comparisons pair every other model with this one by default
# the end of the name of a decoder that reads its input from both ends
BIDIRECTIONAL = "-bidirectional"
OTHER_COLORS = (
    "#8c564b",
    "#9467bd",
    "#17becf",
    "#e377c2",
    "#7f7f7f",
    "#bcbd22",
    "#2f4b7c",
    "#d45087",
)
OTHER_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


def model_label(name: str) -> str:
    """The label of a model in tables and figures, such as "LN-GRU bidirectional"."""
    base = name.removesuffix(BIDIRECTIONAL)
    label = MODELS[base].label if base in MODELS else base
    return label + " bidirectional" * (base != name)


def model_order(names: Iterable[str]) -> list[str]:
    """Distinct names of models in the order of `MODELS`, then the others by name."""
    known = [name + end for name in MODELS for end in ("", BIDIRECTIONAL)]
    return sorted(
        set(names), key=lambda name: (known.index(name) if name in known else len(known), name)
    )


def model_looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """`color`, `linestyle` and `label` of each model.

    Those of `MODELS`, and distinct ones for all others.
    """
    looks, others = {}, 0
    for name in model_order(names):
        base = name.removesuffix(BIDIRECTIONAL)
        if base in MODELS:
            color, line = MODELS[base].color, MODELS[base].linestyle if base == name else ":"
        else:
            color, line = (
                OTHER_COLORS[others % len(OTHER_COLORS)],
                OTHER_LINES[others % len(OTHER_LINES)],
            )
            others += 1
        looks[name] = {"color": color, "linestyle": line, "label": model_label(name)}
    return looks


PARTS: dict[str, dict[str, Any]] = {
    "train": {"color": "0.6", "linestyle": "--", "label": "train, while learning"},
    "val": {"color": "#1a3a9c", "linestyle": "-", "label": "validation"},
    "test": {"color": "#b5460f", "linestyle": ":", "label": "test"},
}
PLATEAU: dict[str, Any] = {"color": "0.5", "linestyle": ":", "linewidth": 1, "zorder": 0}
TRUE: dict[str, Any] = {"color": "0.65", "linewidth": 2.5, "label": "true"}
DECODED: dict[str, Any] = {"color": "#1a3a9c", "linewidth": 1.2, "label": "decoded"}


def loss_limit(plateau: float, lowest: float, highest: float) -> float:
    """Upper end of a loss axis: a little above the target's variance, which is the plateau.

    If even the lowest loss is above that, as for positions far from 0, the axis ends above the
    highest loss.
    """
    limit = 1.25 * plateau
    return limit if lowest < limit else 1.1 * highest


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all, in the format that the name ends in, and close it."""
    import matplotlib.pyplot as plt

    kind = path.suffix.removeprefix(".")
    if kind not in FORMATS:
        remedy = f"end it with {', '.join('.' + known for known in FORMATS)}"
        raise BciDecodeError("is not the name of a figure", file=path, remedy=remedy)
    metadata = (
        {"Date": None} if kind == "svg" else {"CreationDate": None} if kind == "pdf" else None
    )
    with written_whole(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=200, metadata=metadata)
    plt.close(figure)
