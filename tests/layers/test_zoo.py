"""What every recurrent layer does: one bin at a time as in one pass, and no look at the future."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from toys import ZOO, made_zoo_layer

from bci_decode.errors import BciDecodeError
from bci_decode.layers import GRU, HGRN, LRU, LSTM, LayerNormGRU, MinGRU, ResidualStack
from bci_decode.layers.introspection import check_supported

TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("kind", ZOO)
def test_step_by_step_is_one_pass(kind, dtype):
    layer = made_zoo_layer(kind, num_layers=3).to(dtype)
    x = torch.randn(50, 2, 5, dtype=dtype)
    with torch.no_grad():
        whole, final = layer(x)
        outputs, state = [], None
        for bin_ in x:
            y, state = layer(bin_[None], state)
            outputs.append(y)
    close = {"rtol": 0, "atol": TOLERANCES[dtype]}
    torch.testing.assert_close(torch.cat(outputs), whole, **close)
    torch.testing.assert_close(state, final, **close)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ZOO)
def test_past_outputs_do_not_depend_on_future_inputs(kind, training):
    layer = made_zoo_layer(kind, num_layers=2).float()
    x = torch.randn(70, 2, 5)
    changed = torch.cat([x[:43], torch.randn(27, 2, 5)])
    with torch.set_grad_enabled(training):
        before, after = layer(x)[0], layer(changed)[0]
    assert torch.equal(before[:43], after[:43])
    assert not torch.equal(before[43], after[43])


@pytest.mark.parametrize("kind", ZOO)
def test_gradients_are_those_of_steps(kind):
    """Through all bins at once, and through the state that is carried from bin to bin."""
    layer = made_zoo_layer(kind, num_layers=2)
    x = torch.randn(20, 2, 5, dtype=torch.float64)
    state, total = None, 0.0
    for bin_ in x:
        y, state = layer(bin_[None], state)
        total = total + y.pow(3).sum()
    parameters = list(layer.parameters())
    found = torch.autograd.grad(layer(x)[0].pow(3).sum(), parameters)
    for one, other in zip(found, torch.autograd.grad(total, parameters), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", sorted(ZOO))
def test_the_monitor_of_layers_refuses_in_one_line(kind):
    with pytest.raises(BciDecodeError, match=r"false, or choose model=gru or model=lngru") as error:
        check_supported(made_zoo_layer(kind))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"dropout": 2}, "dropout is 2"),
        ({"r_min": 0.9, "r_max": 0.5}, "r_min 0.9 and r_max 0.5"),
        ({"max_phase": 7}, "max_phase is 7"),
    ],
)
def test_wrong_arguments_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        LRU(**{"input_size": 5, "hidden_size": 7, **options})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_layers": 1}, "num_layers is 1, choose 2 to 8"),
        ({"num_layers": 9}, "num_layers is 9, choose 2 to 8"),
        ({"norm": "none"}, "norm is 'none', choose pre, post"),
        ({"init": "none"}, "init is 'none', choose default, admin"),
        ({"init": "admin", "norm": "pre"}, "init 'admin' scales the residual of norm 'post'"),
    ],
)
def test_stacks_refuse_wrong_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        ResidualStack(5, 7, layer=GRU, **options)


@pytest.mark.parametrize("layer", [GRU, LayerNormGRU, nn.GRU, LRU])
@pytest.mark.parametrize("num_layers", [2, 8])
def test_stacks_of_any_layer_have_finite_gradients(layer, num_layers):
    torch.manual_seed(0)
    stack = ResidualStack(5, 8, num_layers, layer=layer, norm="post", init="admin")
    y, state = stack(torch.randn(12, 3, 5))
    y.square().sum().backward()
    assert y.shape == (12, 3, 8) and state.shape == (num_layers, 3, 8)
    assert all(bool(p.grad.isfinite().all()) for p in stack.parameters())


def test_admin_profiles_the_variances_below_each_layer():
    """With layers whose outputs have a known variance: a share of their inputs."""

    class Share(nn.Module):
        def __init__(self, inputs, hidden, **options):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(0.5))

        def forward(self, x, state=None):
            return self.weight * x, x[-1:]

    stack = ResidualStack(400, 500, 4, layer=Share, norm="post", init="admin")
    omegas = torch.stack(list(stack.omegas)).detach()
    assert bool((omegas == omegas[:, :1]).all())
    # the input map has a variance of 1/3, each f a quarter of what it sees: 1/12, then 1/4
    expected = np.sqrt([1, 1 / 3 + 1 / 12, 1 / 3 + 1 / 12 + 1 / 4, 1 / 3 + 1 / 12 + 1 / 2])
    np.testing.assert_allclose(omegas[:, 0], expected, rtol=0.03)


def test_the_profile_uses_no_random_numbers_of_training():
    states = []
    for init in ("default", "admin"):
        torch.manual_seed(0)
        ResidualStack(5, 7, layer=MinGRU, norm="post", init=init)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_the_lru_starts_on_the_ring_and_with_unit_variance():
    torch.manual_seed(0)
    layer = LRU(5, 2000, r_min=0.4, r_max=0.8, max_phase=0.5, dtype=torch.float64)
    eigenvalues = layer.eigenvalues("l0").detach()
    assert float(eigenvalues.abs().min()) >= 0.4 and float(eigenvalues.abs().max()) <= 0.8
    assert float(eigenvalues.angle().min()) > 0 and float(eigenvalues.angle().max()) <= 0.5
    # evenly over the area: half of it lies outside the radius sqrt((0.4² + 0.8²) / 2)
    outside = (eigenvalues.abs() > math.sqrt((0.4**2 + 0.8**2) / 2)).double().mean()
    assert float(outside) == pytest.approx(0.5, abs=0.03)
    states = layer(torch.randn(60, 20, 5, dtype=torch.float64))[1].detach()
    assert float(states.abs().square().mean()) == pytest.approx(1, abs=0.1)


def test_the_bounds_of_hgrn_rise_from_layer_to_layer():
    layer = HGRN(5, 3, num_layers=4, bidirectional=True)
    for end in ("", "_reverse"):
        bounds = [float(layer.lower_bound(f"l{number}{end}")[0].detach()) for number in range(4)]
        np.testing.assert_allclose(bounds, [0, 0.25, 0.5, 0.75], rtol=1e-6)


def test_min_gru_can_keep_its_states_positive():
    torch.manual_seed(0)
    assert bool((MinGRU(5, 7, positive=True)(torch.randn(30, 2, 5))[0] > 0).all())


def test_a_projected_lstm_has_two_widths():
    layer = LSTM(5, 7, proj_size=3, dtype=torch.float64)
    y, (h, c) = layer(torch.randn(4, 2, 5, dtype=torch.float64))
    assert layer.output_size == y.shape[-1] == h.shape[-1] == 3 and c.shape[-1] == 7
