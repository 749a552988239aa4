"""Changes to which a normalized layer is invariant: Table 1 of Ba et al. 2016, measured.

Shapes: B cases, I inputs, H hidden units. A layer maps cases x (B, I) by weights (H, I) to
normalized pre-activations (B, H).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bci_decode.layers import LayerNormGRU
from bci_decode.layers.introspection import pre_activations

EPS = 1e-20  # beside variances of about 1: in float64 nothing
# relative to the largest output: rounding of float64 is far below it, every real change far above
INVARIANT = 1e-9


def layer_norm(weight: Tensor, x: Tensor, eps: float = EPS) -> Tensor:
    """LayerNorm without gain and bias, by the `LayerNormGRU`.

    It is the candidate's pre-activation LN(W x) + r LN(U h) with h = 0.
    """
    return _candidate(weight, x, bias=False, eps=eps)


def layer_norm_of_the_study(weight: Tensor, x: Tensor) -> Tensor:
    """The same of the source study's layer, LN(W x + b), with initial biases and the usual eps."""
    return _candidate(weight, x, bias=True)


def _candidate(weight: Tensor, x: Tensor, **options) -> Tensor:
    units, inputs = weight.shape
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)  # the same biases before a change and after it
        layer = LayerNormGRU(inputs, units, affine=False, dtype=weight.dtype, **options)
    with torch.no_grad():
        layer.get_parameter("weight_ih_l0")[2 * units :] = weight
        if layer.bias:  # the recurrent side says nothing here
            layer.get_parameter("bias_hh_l0").zero_()
    return pre_activations(layer, x[None])["l0"]["candidate"][0]  # one bin of B sequences


def batch_norm(weight: Tensor, x: Tensor) -> Tensor:
    """PyTorch's, by the statistics of these cases, without gain and bias."""
    return F.batch_norm(x @ weight.T, None, None, training=True, eps=EPS)


def weight_norm(weight: Tensor, x: Tensor) -> Tensor:
    """PyTorch's: only the direction of a unit's weights counts, a gain, here 1, is their length."""
    linear = nn.utils.parametrizations.weight_norm(
        nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    )
    with torch.no_grad():
        linear.parametrizations.weight.original0.fill_(1.0)  # type: ignore[union-attr]
        linear.parametrizations.weight.original1.copy_(weight)  # type: ignore[union-attr]
        return linear(x)


STUDY = "layer norm, as in the study (bias, eps 1e-5)"
NORMS = {
    "batch norm": batch_norm,
    "weight norm": weight_norm,
    "layer norm": layer_norm,
    STUDY: layer_norm_of_the_study,
}
YES, NO = "invariant", "no"
# as printed in the paper: rows in the order of NORMS, columns in that of `changes`
PAPER = {
    "batch norm": (YES, NO, YES, YES, YES, NO),
    "weight norm": (YES, NO, YES, NO, NO, NO),
    "layer norm": (YES, YES, NO, YES, NO, YES),
    STUDY: ("",) * 6,  # the paper has no such row
}


def changes(
    inputs: int, random: np.random.Generator
) -> dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """The paper's six re-parameterisations of weights (H, I) and cases (B, I).

    Added vectors are drawn, factors are 2.5.
    """
    incoming, shift = (torch.as_tensor(random.normal(size=inputs)) for _ in range(2))

    def first(a: Tensor) -> Tensor:
        """2.5 for the first row, 1 for the others."""
        return torch.where(torch.arange(len(a)) == 0, 2.5, 1.0)[:, None].to(a)

    return {
        "weight matrix re-scaling": lambda weight, x: (2.5 * weight, x),
        "weight matrix re-centering": lambda weight, x: (weight + incoming, x),
        "weight vector re-scaling": lambda weight, x: (first(weight) * weight, x),
        "dataset re-scaling": lambda weight, x: (weight, 2.5 * x),
        "dataset re-centering": lambda weight, x: (weight, x + shift),
        "single training case re-scaling": lambda weight, x: (weight, first(x) * x),
    }


def invariance_table(
    seed: int = 0, cases: int = 64, inputs: int = 48, units: int = 32
) -> pd.DataFrame:
    """A row for each norm and re-parameterisation.

    `change`: the largest of any output, relative to the largest output. `found` and `paper`:
    whether the norm is invariant by measurement and by the paper's Table 1. Cases are normal with
    SD 1, weights uniform within 1 / sqrt(H) as the layer's initial ones, all float64.
    """
    random = np.random.default_rng(seed)
    x = torch.as_tensor(random.normal(size=(cases, inputs)))
    weight = torch.as_tensor(random.uniform(-1, 1, size=(units, inputs))) / units**0.5
    rows = []
    for name, norm in NORMS.items():
        before = norm(weight, x)
        for (kind, change), paper in zip(changes(inputs, random).items(), PAPER[name], strict=True):
            moved = float((norm(*change(weight, x)) - before).abs().max() / before.abs().max())
            found = YES if moved < INVARIANT else NO
            rows.append(
                {
                    "norm": name,
                    "re-parameterisation": kind,
                    "change": moved,
                    "found": found,
                    "paper": paper,
                }
            )
    return pd.DataFrame(rows)


def paper_layout(table: pd.DataFrame) -> pd.DataFrame:
    """The table as the paper prints it, with the change in brackets and disagreements marked."""
    cells = [
        f"{row.found} ({row.change:.0e})"
        + f", paper: {row.paper}" * (row.paper not in ("", row.found))
        for row in table.itertuples()
    ]
    wide = table.assign(cells=cells).pivot(
        index="norm", columns="re-parameterisation", values="cells"
    )
    return wide.loc[list(NORMS), table["re-parameterisation"].unique()].rename_axis(columns=None)
