"""Pre-activations against the layers' own outputs, and the columns that a monitor adds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from toys import made_data, made_decoder, made_layer, made_trainer

from bci_decode.data.parts import Window
from bci_decode.errors import BciDecodeError
from bci_decode.layers import LayerNormGRU
from bci_decode.layers.introspection import GATES, pre_activations, share_outside
from bci_decode.layers.weights import layer_names
from bci_decode.training.checkpoint import load_checkpoint
from bci_decode.training.history import history_columns
from bci_decode.training.monitor import monitor_input

LAYERS = {
    "gru": lambda **options: nn.GRU(5, 7, dtype=torch.float64, **options),
    "lngru": lambda **options: made_layer(**options),
    "lngru, the source study's": lambda **options: made_layer(affine=False, **options),
    "lngru, the paper's": lambda **options: made_layer(bias=False, **options),
}
SHAPES = [
    {},
    {"num_layers": 3},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 2, "dropout": 0.5},
]


def rebuilt(gates: dict[str, torch.Tensor], reverse: bool) -> torch.Tensor:
    """States (T, B, H) bin by bin from a layer's pre-activations (T, B, H) and a zero state."""
    h, states = torch.zeros_like(gates["update"][0]), {}
    bins = range(len(gates["update"]))
    for t in reversed(bins) if reverse else bins:
        z = 1 / (1 + torch.exp(-gates["update"][t]))
        h = (1 - z) * h + z * torch.tanh(gates["candidate"][t])
        states[t] = h
    return torch.stack([states[t] for t in bins])


@pytest.mark.parametrize("options", SHAPES, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_the_next_state_follows_from_them(kind, options):
    """The last layer's states, and so all below it, rebuilt from update and candidate alone."""
    torch.manual_seed(1)
    recurrent = LAYERS[kind](**options).eval()
    x = 2 * torch.randn(9, 3, 5, dtype=torch.float64)
    found = pre_activations(recurrent, x)
    assert list(found) == layer_names(recurrent)
    assert all(list(gates) == list(GATES) for gates in found.values())
    last = list(found)[-1 - recurrent.bidirectional :]
    y = torch.cat([rebuilt(found[name], name.endswith("reverse")) for name in last], dim=-1)
    torch.testing.assert_close(y, recurrent(x)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "bias", "rows"),
    [("gru", "bias_ih_l0", slice(0, 7)), ("lngru, the paper's", "norm_bias_ih_l0", slice(7, 14))],
)
def test_the_reset_gate_is_what_lets_the_state_in(kind, bias, rows):
    """With a reset gate of 0, each bin's candidate is that of the same bin from a zero state."""
    torch.manual_seed(1)
    recurrent = LAYERS[kind]()
    x = torch.randn(9, 3, 5, dtype=torch.float64)
    free = pre_activations(recurrent, x)["l0"]
    with torch.no_grad():
        getattr(recurrent, bias)[rows] -= 60
    shut = pre_activations(recurrent, x)["l0"]
    torch.testing.assert_close(shut["reset"][0], free["reset"][0] - 60)
    alone = torch.cat(
        [pre_activations(recurrent, x[t : t + 1])["l0"]["candidate"] for t in range(len(x))]
    )
    torch.testing.assert_close(shut["candidate"], alone)
    assert not torch.allclose(free["candidate"], alone)


@pytest.mark.parametrize("layer", [nn.GRU, LayerNormGRU])
def test_any_layout_gives_the_same(layer):
    torch.manual_seed(0)
    recurrent = layer(5, 7, num_layers=2, batch_first=True)
    x = torch.randn(3, 9, 5)
    batch, one = pre_activations(recurrent, x), pre_activations(recurrent, x[1])
    time_first = layer(5, 7, num_layers=2)
    time_first.load_state_dict(recurrent.state_dict())
    other = pre_activations(time_first, x.transpose(0, 1))
    for name in ("l0", "l1"):
        for gate in GATES:
            assert batch[name][gate].shape == (3, 9, 7)
            torch.testing.assert_close(batch[name][gate][1], one[name][gate])
            torch.testing.assert_close(batch[name][gate], other[name][gate].transpose(0, 1))


def test_drawing_no_random_number():
    recurrent = LayerNormGRU(5, 7)
    before = torch.get_rng_state()
    pre_activations(recurrent, torch.randn(9, 5, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), before)


def test_another_layer_is_refused():
    decoder = made_decoder()
    decoder.recurrent = nn.LSTM(5, 12)
    with pytest.raises(
        BciDecodeError,
        match="trainer.monitor_layers: knows torch.nn.GRU and LayerNormGRU, not LSTM",
    ):
        pre_activations(decoder.recurrent, torch.zeros(3, 5))


def test_the_share_outside():
    assert share_outside(torch.tensor([-5.0, -4.0, 0.0, 4.0, 4.1])) == pytest.approx(0.4)


def test_the_monitor_input_is_what_a_decoder_sees():
    counts = torch.arange(2000.0)[:, None].repeat(1, 3)
    windows = monitor_input(counts, Window("history", 10, 1, 9))
    assert windows.shape == (256, 10, 3)
    assert windows[0, 0, 0] == 0 and windows[-1, -1, 0] == 1999
    assert (windows.diff(dim=1) == 1).all()
    assert monitor_input(counts, Window("sequence", 64, 16, 10)).shape == (1, 500, 3)
    assert monitor_input(counts[:12], Window("history", 10, 1, 9)).shape == (3, 10, 3)


def columns(history: pd.DataFrame) -> list[str]:
    return [name for name in history if name not in history_columns()]


@pytest.mark.parametrize("window", [Window("sequence", 20, 10, 3), Window("history", 5, 1, 4)])
def test_monitoring_adds_columns_and_changes_no_other(tmp_path, window):
    data = made_data(window=window)
    plain, monitored = (
        made_trainer(tmp_path / str(on), data, epochs=3, monitor_layers=on).fit()
        for on in (False, True)
    )
    pd.testing.assert_frame_equal(
        plain.drop(columns="seconds"),
        monitored[plain.columns].drop(columns="seconds"),
        check_exact=True,
    )
    assert columns(monitored) == [
        "saturated_l0_update", "saturated_l0_reset", "saturated_l0_candidate",
        "grad_norm_l0_ih", "grad_norm_l0_hh", "weight_norm_l0_ih", "weight_norm_l0_hh",
    ]  # fmt: skip
    np.testing.assert_allclose(pd.read_csv(tmp_path / "True" / "history.csv"), monitored)


def test_the_columns_are_right(tmp_path):
    """One epoch of one step: gradient before training, weights and shares after it."""
    data, start = made_data(), made_decoder(dropout=0.0)
    with torch.no_grad():
        start.recurrent.norm_gain_ih_l0 *= 4  # so that some pre-activations do lie outside
    trainer = made_trainer(
        tmp_path,
        data,
        start,
        epochs=1,
        batch_size=1000,
        shuffle=False,
        clip_norm=1e-3,
        monitor_layers=True,
        lr=0.05,
    )
    state = {name: value.clone() for name, value in start.state_dict().items()}
    history = trainer.fit()
    weights = load_checkpoint(tmp_path / "last.pt", made_decoder(dropout=0.0))["decoder"]
    for side in ("ih", "hh"):
        norms = [
            values[f"recurrent.weight_{side}_l0"].square().sum().sqrt()
            for values in (state, weights)
        ]
        np.testing.assert_allclose(history[f"weight_norm_l0_{side}"], norms, rtol=1e-6)
    again = made_decoder(dropout=0.0)
    again.load_state_dict(state)
    windows = trainer.training.windows
    outputs = again(trainer.counts["train"][windows], first_output=3)[0]
    nn.functional.mse_loss(outputs, trainer.training.target_of(windows)).backward()
    for side in ("ih", "hh"):
        gradient = getattr(again.recurrent, f"weight_{side}_l0").grad.norm().item()
        assert np.isnan(history[f"grad_norm_l0_{side}"][0])
        # before clipping
        assert history[f"grad_norm_l0_{side}"][1] == pytest.approx(gradient, rel=1e-5)
    x = torch.as_tensor(data.parts["val"].counts)[None, :500]
    for row, values in enumerate((state, weights)):
        again.load_state_dict(values)
        for gate, a in pre_activations(again.recurrent, x)["l0"].items():
            share = (a.abs() > 4).double().mean().item()
            assert history[f"saturated_l0_{gate}"][row] == pytest.approx(share)
    assert history["saturated_l0_update"][0] > 0


def test_a_monitored_run_goes_on_to_the_last_bit(tmp_path):
    whole = made_trainer(tmp_path / "whole", epochs=4, monitor_layers=True).fit()
    made_trainer(tmp_path / "cut", epochs=2, monitor_layers=True).fit()
    resumed = made_trainer(tmp_path / "cut", epochs=4, monitor_layers=True).fit()
    pd.testing.assert_frame_equal(
        whole.drop(columns="seconds"), resumed.drop(columns="seconds"), check_exact=True
    )


def test_without_a_validation_part_it_monitors_the_training_part(tmp_path):
    """Never the test part: with other test counts the columns stay."""
    data = made_data(with_val=False)
    first = made_trainer(
        tmp_path / "a", data, epochs=1, monitor_layers=True, select_on="test"
    ).fit()
    data.parts["test"].counts[:] = 50
    second = made_trainer(
        tmp_path / "b", data, epochs=1, monitor_layers=True, select_on="test"
    ).fit()
    pd.testing.assert_frame_equal(first[columns(first)], second[columns(second)], check_exact=True)
