"""What LayerNorm does to pre-activations of any distribution, and where a gate does not learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Generator, Tensor

from bci_decode.layers.introspection import SATURATION_BAND, share_outside
from bci_decode.studies.figures import draw_distributions, draw_functions
from bci_decode.studies.invariance import invariance_table, layer_norm, paper_layout
from bci_decode.studies.tables import append_table, save_table

UNITS, SEED = 1024, 0  # hidden units, drawn for each distribution
DISTRIBUTIONS: dict[str, Callable[[Generator], Tensor]] = {
    "mean 7, SD 1": lambda random: 7 + torch.randn(UNITS, generator=random),
    "mean 0, SD 10": lambda random: 10 * torch.randn(UNITS, generator=random),
}


def functions(folder: Path) -> str:
    """Draw sigmoid and tanh with their derivatives."""
    draw_functions(folder / "functions.png", SATURATION_BAND)
    return f"functions.png: sigmoid, tanh and their derivatives, ±{SATURATION_BAND:g} shaded"


def distributions(folder: Path) -> str:
    """Draw and tabulate two extreme distributions of pre-activations before and after LayerNorm."""
    random = torch.Generator().manual_seed(SEED)
    before = {name: draw(random) for name, draw in DISTRIBUTIONS.items()}
    after = {name: normalized(values) for name, values in before.items()}
    rows = [
        {"pre-activations": name, "when": when}
        | {"mean": round(float(values.mean()), 3), "SD": round(float(values.std()), 3)}
        | {f"share outside ±{SATURATION_BAND:g}": share_outside(values)}
        for name in before
        for when, values in (("before", before[name]), ("after LayerNorm", after[name]))
    ]
    drawn, normal = (
        {name: values.numpy() for name, values in moment.items()} for moment in (before, after)
    )
    title = f"{UNITS} hidden units drawn, seed {SEED}"
    draw_distributions(folder / "distributions.png", drawn, normal, title, SATURATION_BAND)
    return save_table(folder, "distributions", pd.DataFrame(rows))


def normalized(values: Tensor) -> Tensor:
    """The pre-activations (H,) of one bin after the layer's own LayerNorm.

    The layer's linear map is the identity, so that it normalizes exactly these values.
    """
    return layer_norm(torch.eye(len(values)), values[None], eps=1e-5)[0]


def invariance(folder: Path) -> str:
    """Tabulate Table 1 of Ba, Kiros and Hinton 2016, measured."""
    table = invariance_table()
    save_table(folder, "invariance", table)
    known = table[table["paper"] != ""]
    agree = int((known["found"] == known["paper"]).sum())
    change = "in brackets the largest relative change of an output"
    text = f"{agree} of {len(known)} cells as in the paper; {change}.\n"
    return append_table(folder, "invariance", paper_layout(table).reset_index(), text)
