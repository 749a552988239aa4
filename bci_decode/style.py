"""The look of every picture: models, parts of the data, true and decoded movement; all readable in grey."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from bci_decode.files import written_whole

# one look for each model everywhere; dark against light and solid against dashed, so that grey prints tell them apart
MODELS: dict[str, dict[str, Any]] = {
    "gru": {"color": "#5cb85c", "linestyle": "--", "label": "GRU"},
    "lngru": {"color": "#1a3a9c", "linestyle": "-", "label": "LN-GRU"},
    "gru-bidirectional": {"color": "#5cb85c", "linestyle": "-.", "label": "GRU bidirectional"},
    "lngru-bidirectional": {"color": "#1a3a9c", "linestyle": ":", "label": "LN-GRU bidirectional"},
}
PARTS: dict[str, dict[str, Any]] = {
    "train": {"color": "0.6", "linestyle": "--", "label": "train, while learning"},
    "val": {"color": "#1a3a9c", "linestyle": "-", "label": "validation"},
    "test": {"color": "#b5460f", "linestyle": ":", "label": "test"},
}
PLATEAU: dict[str, Any] = {"color": "0.5", "linestyle": ":", "linewidth": 1, "zorder": 0}
TRUE: dict[str, Any] = {"color": "0.65", "linewidth": 2.5, "label": "true"}
DECODED: dict[str, Any] = {"color": "#1a3a9c", "linewidth": 1.2, "label": "decoded"}


def loss_limit(plateau: float, lowest: float, highest: float) -> float:
    """Where a loss axis ends: a little above the target's variance, or above all where even the lowest loss is not below
    that (of positions far from 0, say)."""
    limit = 1.25 * plateau
    return limit if lowest < limit else 1.1 * highest


def save_figure(figure: plt.Figure, path: Path) -> None:
    """As PNG, whole or not at all; the figure is closed."""
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)
