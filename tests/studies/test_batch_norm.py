"""Batch norm against layer norm: what is measured, and the command's part, on a small recording."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.image import imread
from recordings import recording, write_mat73
from toys import made_data

from bci_decode.layers import NormGRU
from bci_decode.models.decoder import Decoder
from bci_decode.studies.batch_norm import (
    NORMS,
    OWN,
    RUNNING,
    Comparison,
    batch_norm,
    decode,
    with_error,
)


def made_decoder(norm):
    torch.manual_seed(0)
    recurrent = partial(NormGRU, hidden_size=8, norm=norm, place="sum")
    decoder = Decoder(recurrent, torch.nn.Linear, input_size=5, output_size=2)
    decoder(torch.randn(16, 20, 5))  # in training mode: sets the running statistics
    return decoder


@pytest.mark.parametrize("norm", NORMS)
def test_only_a_batch_norm_depends_on_whose_statistics_it_uses(norm):
    data, decoder = made_data(), made_decoder(norm)
    before = copy.deepcopy(decoder.state_dict())
    outputs = {kind: decode(decoder, data, 20, 8, kind)[1] for kind in (RUNNING, OWN)}
    assert np.allclose(outputs[RUNNING], outputs[OWN]) == (norm == "layer")
    # by the running statistics other windows say nothing, by its own those of the batch do
    for kind, other in outputs.items():
        alike = np.allclose(decode(decoder, data, 20, 4, kind)[1], other, atol=1e-4)
        assert alike == (kind == RUNNING or norm == "layer")
    assert all(torch.equal(before[key], value) for key, value in decoder.state_dict().items())


def test_the_target_belongs_to_the_windows():
    data, decoder = made_data(), made_decoder("layer")
    true, decoded = decode(decoder, data, 20, 8, RUNNING)
    assert true.shape == decoded.shape == (12, 20, 2)
    part = data.parts["test"]
    (start,) = np.flatnonzero((part.target == true[3, 0]).all(axis=1))
    np.testing.assert_array_equal(part.target[start : start + 20], true[3])
    with torch.no_grad():
        alone = decoder.eval()(torch.as_tensor(part.counts[None, start : start + 20]))[0][0]
    expected = data.target_scaler.inverse(alone.double().numpy())
    np.testing.assert_allclose(decoded[3], expected, atol=1e-3)


def test_the_error_is_that_of_the_mean():
    assert with_error(pd.Series([0.1, 0.2, 0.3])) == "0.200 ± 0.058"
    assert with_error(pd.Series([0.1])) == "0.100"


def test_a_small_comparison(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = write_mat73(tmp_path / "toy.mat", recording(channels=6, samples=7500))
    small = Comparison(session, batch_sizes=(1, 16), seeds=(0,), length=16, epochs=1)
    folder, text = batch_norm(tmp_path / "shown", small)
    assert folder == tmp_path / "shown" / "toy"
    assert "| batch 1, running statistics |" in text and text.count("refused") == 4
    table = pd.read_csv(folder / "batch_norm.csv")
    assert np.isfinite(table["r2"]).all()
    # layer norm at both sizes, batch norms at 16 alone; each by two statistics
    assert table.groupby(["norm", "batch_size"]).size().to_dict() == {
        ("batch_per_step", 16): 2,
        ("batch_shared", 16): 2,
        ("layer", 1): 2,
        ("layer", 16): 2,
    }
    lengths = pd.read_csv(folder / "batch_norm_lengths.csv")
    assert set(lengths["norm"]) == set(NORMS) and lengths["bins"].max() > 16
    assert len(np.unique(imread(folder / "batch_norm.png")[..., :3])) > 10
