"""The LayerNorm GRU against the paper's equations in float64, and against torch.nn.GRU."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toys import made_layer

from bci_decode.layers import HistoryNorm, LayerNormGRU


def norm(a, gain, shift, eps):
    """Ba, Kiros and Hinton 2016, equation 3: one mean and one SD over a layer's summed inputs."""
    mean = a.sum(-1, keepdim=True) / a.shape[-1]
    variance = ((a - mean) ** 2).sum(-1, keepdim=True) / a.shape[-1]
    return (a - mean) / torch.sqrt(variance + eps) * gain + shift


def by_the_equations(layer: LayerNormGRU, x, h0):
    """x (T, B, I), h0 (L S, B, H) -> y (T, B, S H), h (L S, B, H), one bin after the other."""
    H, finals = layer.hidden_size, []
    ones, zeros = torch.ones(3 * H, dtype=x.dtype), torch.zeros(3 * H, dtype=x.dtype)
    for number in range(layer.num_layers):
        outputs = []
        for way in ["", "_reverse"][: 1 + layer.bidirectional]:
            kinds = ("weight", "bias", "norm_gain", "norm_bias")
            names = [f"{kind}_{side}" for kind in kinds for side in ("ih", "hh")]
            p = {name: getattr(layer, f"{name}_l{number}{way}") for name in names}
            for name in [name for name, value in p.items() if value is None]:
                p[name] = ones if "gain" in name else zeros
            h, states = h0[len(finals)], [None] * len(x)
            for t in reversed(range(len(x))) if way else range(len(x)):
                a_x = torch.einsum("bi,oi->bo", x[t], p["weight_ih"]) + p["bias_ih"]
                a_h = torch.einsum("bi,oi->bo", h, p["weight_hh"]) + p["bias_hh"]
                g, c = slice(0, 2 * H), slice(2 * H, 3 * H)
                x_g, x_c = (
                    norm(a_x[:, s], p["norm_gain_ih"][s], p["norm_bias_ih"][s], layer.eps)
                    for s in (g, c)
                )
                h_g, h_c = (
                    norm(a_h[:, s], p["norm_gain_hh"][s], p["norm_bias_hh"][s], layer.eps)
                    for s in (g, c)
                )
                gates = 1 / (1 + torch.exp(-(x_g + h_g)))
                z, r = gates[:, :H], gates[:, H:]
                candidate = torch.tanh(x_c + r * h_c)
                h = (1 - z) * h + z * candidate
                states[t] = h
            outputs.append(torch.stack(states))
            finals.append(h)
        x = torch.cat(outputs, -1)
    return x, torch.stack(finals)


def gradients(loss, layer, *inputs):
    return torch.autograd.grad(loss, [*layer.parameters(), *inputs])


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_outputs_and_gradients_are_the_papers(num_layers, bidirectional, bias, affine):
    layer = made_layer(num_layers=num_layers, bidirectional=bidirectional, bias=bias, affine=affine)
    x = torch.randn(6, 3, 5, dtype=torch.float64, requires_grad=True)
    h0 = torch.randn(
        num_layers * (1 + bidirectional), 3, 7, dtype=torch.float64, requires_grad=True
    )
    (y, h), (y_true, h_true) = layer(x, h0), by_the_equations(layer, x, h0)
    torch.testing.assert_close(y, y_true, rtol=0, atol=1e-9)
    torch.testing.assert_close(h, h_true, rtol=0, atol=1e-9)
    weigh_y, weigh_h = torch.randn_like(y), torch.randn_like(h)
    found = gradients((y * weigh_y).sum() + (h * weigh_h).sum(), layer, x, h0)
    expected = gradients((y_true * weigh_y).sum() + (h_true * weigh_h).sum(), layer, x, h0)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


class WithoutNorm(LayerNormGRU):
    """The same arithmetic with the normalization taken out."""

    use_fused = False

    def normalize(self, a, gain, shift):
        return a


@pytest.mark.parametrize("bidirectional", [False, True])
def test_without_the_norm_it_is_torchs_gru(bidirectional):
    """nn.GRU has rows r, z, n, and its z is the share of the OLD state: swap rows, negate z."""
    torch.manual_seed(0)
    mine = WithoutNorm(
        5, 7, 2, bidirectional=bidirectional, batch_first=True, affine=False, dtype=torch.float64
    )
    gru = nn.GRU(5, 7, 2, bidirectional=bidirectional, batch_first=True, dtype=torch.float64)
    assert [name for name, _ in mine.named_parameters()] != []
    with torch.no_grad():
        for name, parameter in gru.named_parameters():
            r, z, n = parameter.chunk(3)
            getattr(mine, name).copy_(torch.cat([-z, r, n]))
    x, h = (
        torch.randn(3, 11, 5, dtype=torch.float64),
        torch.randn(2 * (1 + bidirectional), 3, 7, dtype=torch.float64),
    )
    for found, expected in zip(mine(x, h), gru(x, h), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2}, {"bidirectional": True}, {"num_layers": 3, "bidirectional": True}],
)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("shape", [(4, 3, 5), (1, 1, 5), (4, 5)])
@pytest.mark.parametrize("with_h", [False, True])
def test_called_like_torchs_gru(options, batch_first, shape, with_h):
    layers = [kind(5, 7, batch_first=batch_first, **options) for kind in (LayerNormGRU, nn.GRU)]
    states = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    batch = () if len(shape) == 2 else (shape[0] if batch_first else shape[1],)
    h = torch.zeros(states, *batch, 7) if with_h else None
    (y, h_mine), (y_torch, h_torch) = [layer(input=torch.randn(shape), hx=h) for layer in layers]
    assert y.shape == y_torch.shape and h_mine.shape == h_torch.shape


def test_step_by_step_equals_one_pass():
    layer = made_layer(num_layers=2, batch_first=True)
    x = torch.randn(3, 20, 5, dtype=torch.float64)
    y, h = layer(x)
    state, steps = None, []
    for t in range(20):
        step, state = layer(x[:, t : t + 1], state)
        steps.append(step)
    torch.testing.assert_close(torch.cat(steps, dim=1), y, rtol=0, atol=1e-12)
    torch.testing.assert_close(state, h, rtol=0, atol=1e-12)


def test_a_batch_of_one_equals_a_row_of_a_large_batch():
    layer = made_layer(num_layers=2, bidirectional=True, batch_first=True)
    x = torch.randn(64, 9, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x[17:18])[0], layer(x)[0][17:18], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_past_does_not_know_the_future(dtype):
    """Change bin t + 1: outputs up to t are the same to the last bit."""
    layer = made_layer(num_layers=2, batch_first=True).to(dtype)
    x = torch.randn(8, 30, 5, dtype=dtype)
    changed = x.clone()
    changed[:, 12] += 5
    y, y_changed = layer(x)[0], layer(changed)[0]
    assert torch.equal(y[:, :12], y_changed[:, :12])
    assert not torch.isclose(y[:, 12:], y_changed[:, 12:]).all(dim=-1).any()


def test_a_scaled_input_changes_nothing():
    """Ba et al. 2016, table 1: re-scaling the weight matrix does not change the output."""
    layer = made_layer(affine=True, bias=False)
    x = torch.randn(6, 3, 5, dtype=torch.float64)
    y = layer(x)[0]
    with torch.no_grad():
        layer.weight_ih_l0 *= 1000
        layer.weight_hh_l0 *= 1000
    torch.testing.assert_close(layer(x)[0], y, rtol=0, atol=2e-3)  # eps is not scaled along


def test_dropout_between_layers_in_training_alone():
    layer = made_layer(num_layers=2, dropout=0.5)
    x = torch.randn(6, 3, 5, dtype=torch.float64)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])


@pytest.mark.parametrize(
    ("bias", "affine", "kinds"),
    [
        (True, True, {"weight", "bias", "norm_gain", "norm_bias"}),
        (False, True, {"weight", "norm_gain", "norm_bias"}),
        (True, False, {"weight", "bias"}),
        (False, False, {"weight"}),
    ],
)
def test_which_parameters_there_are(bias, affine, kinds):
    layer = LayerNormGRU(5, 7, bias=bias, affine=affine)
    assert {name.rsplit("_", 2)[0] for name, _ in layer.named_parameters()} == kinds
    assert layer.weight_ih_l0.shape == (21, 5) and layer.weight_hh_l0.shape == (21, 7)
    assert "affine" in repr(layer)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: LayerNormGRU(0, 7), "input_size is 0"),
        (lambda: LayerNormGRU(5, 7, dropout=2), "dropout is 2"),
        (lambda: LayerNormGRU(5, 7)(torch.zeros(3, 2, 6)), "6 columns"),
        (lambda: LayerNormGRU(5, 7)(torch.zeros(0, 2, 5)), "no bin"),
        (
            lambda: LayerNormGRU(5, 7)(torch.zeros(3, 2, 5), torch.zeros(1, 3, 7)),
            r"needs \(1, 2, 7\)",
        ),
        (lambda: LayerNormGRU(5, 7)([[0.0] * 5]), "takes a PackedSequence or a tensor"),
    ],
)
def test_bad_calls(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_gains_start_at_the_given_value():
    layer = LayerNormGRU(5, 7, initial_gain=0.2)
    assert all((p == 0.2).all() for name, p in layer.named_parameters() if "gain" in name)
    assert all((p == 0).all() for name, p in layer.named_parameters() if "norm_bias" in name)
    assert layer.weight_hh_l0.abs().max() <= 7**-0.5


def test_history_norm_is_over_bins_and_columns():
    y = torch.randn(3, 10, 7, dtype=torch.float64)
    found = HistoryNorm()(y)
    expected = torch.stack([norm(window.flatten(), 1, 0, 1e-5).view(10, 7) for window in y])
    torch.testing.assert_close(found, expected)
