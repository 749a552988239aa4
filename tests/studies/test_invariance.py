"""Table 1 of Ba, Kiros and Hinton 2016, measured; and what the measured norms are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bci_decode.layers import LayerNormGRU
from bci_decode.studies import invariance
from bci_decode.studies.invariance import (
    STUDY,
    batch_norm,
    invariance_table,
    layer_norm,
    paper_layout,
    weight_norm,
)


@pytest.mark.parametrize("seed", [0, 1])
def test_every_cell_is_the_papers(seed):
    """The paper's table, written out; and no cell is near the limit between the two."""
    table = invariance_table(seed)
    table = table[table["norm"] != STUDY]
    wide = table.pivot(index="norm", columns="re-parameterisation", values="found")
    columns = [
        "weight matrix re-scaling", "weight matrix re-centering", "weight vector re-scaling",
        "dataset re-scaling", "dataset re-centering", "single training case re-scaling",
    ]  # fmt: skip
    yes = wide.loc[["batch norm", "weight norm", "layer norm"], columns].to_numpy() == "invariant"
    expected = [[1, 0, 1, 1, 1, 0], [1, 0, 1, 0, 0, 0], [1, 1, 0, 1, 0, 1]]
    np.testing.assert_array_equal(yes, np.array(expected, dtype=bool))
    assert (table["found"] == table["paper"]).all()
    assert table.loc[table["found"] == "invariant", "change"].max() < 1e-12
    assert table.loc[table["found"] == "no", "change"].min() > 0.1


def test_the_norms_are_what_they_are_called():
    torch.manual_seed(0)
    weight, x = torch.randn(7, 5, dtype=torch.float64), torch.randn(11, 5, dtype=torch.float64)
    a = x @ weight.T
    by_case = (a - a.mean(1, keepdim=True)) / a.std(1, correction=0, keepdim=True)
    by_unit = (a - a.mean(0)) / a.std(0, correction=0)
    torch.testing.assert_close(layer_norm(weight, x), by_case)
    torch.testing.assert_close(batch_norm(weight, x), by_unit)
    torch.testing.assert_close(weight_norm(weight, x), a / weight.norm(dim=1))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_studys_layer_norm_notices_scales_by_its_bias(seed):
    """LN(W x + b) is blind to the mean over the units alone."""
    table = invariance_table(seed)
    moved = table[table["norm"] == STUDY].set_index("re-parameterisation")["change"]
    assert moved.pop("weight matrix re-centering") < 1e-12
    assert len(moved) == 5 and moved.min() > 0.05


class Unnormalized(LayerNormGRU):
    def normalize(self, a, gain, shift):
        return a


class NotCentered(LayerNormGRU):
    def normalize(self, a, gain, shift):
        parts = a.split((2 * self.hidden_size, self.hidden_size), dim=-1)
        scaled = [p / p.square().mean(-1, keepdim=True).sqrt().clamp(1e-9) for p in parts]
        return torch.cat(scaled, -1)


@pytest.mark.parametrize(
    ("broken", "differ"),
    [
        (Unnormalized, {"weight matrix re-scaling", "weight matrix re-centering",
                        "dataset re-scaling", "single training case re-scaling"}),
        (NotCentered, {"weight matrix re-centering"}),
    ],
)  # fmt: skip
def test_a_layer_that_does_something_else_is_noticed(monkeypatch, broken, differ):
    """What is measured is the layer's own arithmetic, no copy of it."""
    monkeypatch.setattr(invariance, "LayerNormGRU", broken)
    table = invariance_table()
    wrong = table[(table["norm"] == "layer norm") & (table["found"] != table["paper"])]
    assert set(wrong["re-parameterisation"]) == differ


def test_a_disagreement_is_marked():
    table = invariance_table()
    assert "paper" not in paper_layout(table).to_string()
    table.loc[0, "paper"] = "no"
    printed = paper_layout(table)
    assert printed.iloc[0, 0].startswith("invariant (") and printed.iloc[0, 0].endswith(
        ", paper: no"
    )
    assert printed.shape == (4, 6)
