"""Bin by bin against the layer's own pass over the sequence."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from bci_decode.layers import GRU, LayerNormGRU
from bci_decode.layers.cpu.stepper import Stepper


def moved(**options) -> LayerNormGRU:
    torch.manual_seed(0)
    layer = LayerNormGRU(6, 8, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    "options", [{"affine": a, "bias": b} for a in (True, False) for b in (True, False)], ids=str
)
def test_step_by_step_equals_one_pass(options, dtype, tolerance, num_layers):
    layer = moved(num_layers=num_layers, **options).to(dtype)
    x, h = torch.randn(20, 6, dtype=dtype), torch.randn(num_layers, 8, dtype=dtype)
    y, final = layer(x, h)
    stepper, state, outputs = Stepper(layer), h.numpy(), []
    for bin_ in x.numpy():
        state = stepper.step(bin_, state)
        outputs.append(state[-1])
    np.testing.assert_allclose(np.stack(outputs), y.detach().numpy(), rtol=0, atol=tolerance)
    np.testing.assert_allclose(state, final.detach().numpy(), rtol=0, atol=tolerance)
    assert state.dtype == x.numpy().dtype


def test_the_weights_are_those_at_the_making_and_the_states_the_callers():
    layer = moved()
    stepper, x, h = Stepper(layer), np.ones(6, np.float32), np.zeros((1, 8), np.float32)
    before = stepper.step(x, h)
    kept = before.copy()
    with torch.no_grad():
        layer.weight_hh_l0.mul_(5)
        layer.norm_gain_ih_l0.mul_(5)
    np.testing.assert_array_equal(stepper.step(x, h), before)
    stepper.step(-x, before)
    np.testing.assert_array_equal(before, kept)
    assert not h.any()


@pytest.mark.filterwarnings("error")
def test_gates_far_closed_and_open():
    layer = moved()
    with torch.no_grad():
        layer.norm_bias_ih_l0.copy_(torch.tensor([500.0, -500.0]).repeat(12))
    stepped = Stepper(layer).step(np.ones(6, np.float32), np.zeros((1, 8), np.float32))
    np.testing.assert_allclose(stepped, layer(torch.ones(1, 6))[1].detach().numpy(), atol=1e-5)


def test_a_bidirectional_layer_is_refused():
    with pytest.raises(ValueError, match="a bidirectional layer reads later bins"):
        Stepper(LayerNormGRU(6, 8, bidirectional=True))
    with pytest.raises(ValueError, match="can step only a unidirectional LayerNormGRU .*: not GRU"):
        Stepper(GRU(6, 8))


def test_copies_step_as_the_original():
    stepper, x, h = Stepper(moved(bias=True)), np.ones(6, np.float32), np.zeros((1, 8), np.float32)
    expected = stepper.step(x, h)
    for twin in (copy.deepcopy(stepper), pickle.loads(pickle.dumps(stepper))):
        np.testing.assert_array_equal(twin.step(x, h), expected)


@pytest.mark.parametrize(
    ("x", "h"),
    [
        (np.ones(6), np.zeros((1, 8), np.float32)),
        (np.ones(6, np.float32), np.zeros((1, 8))),
        (np.ones(6, np.float32), np.zeros((2, 8), np.float32)),
        (np.ones(6, np.float32), np.zeros(8, np.float32)),
    ],
)
def test_other_shapes_and_types_are_refused(x, h):
    with pytest.raises(ValueError, match="takes x and h of float32, h \\(1, 8\\)"):
        Stepper(moved()).step(x, h)


class OtherNorm(LayerNormGRU):
    def normalize(self, a, gain, shift):
        return a.split((2 * self.hidden_size, self.hidden_size), dim=-1)


@pytest.mark.parametrize(
    ("layer", "problem"),
    [
        (lambda: LayerNormGRU(6, 8, device="meta"), "this one is on meta; move a copy to the CPU"),
        (lambda: LayerNormGRU(6, 8, dtype=torch.bfloat16), "this one has torch.bfloat16; convert"),
        (lambda: OtherNorm(6, 8), "OtherNorm has its own normalization"),
    ],
)
def test_an_unsupported_layer_is_refused(layer, problem):
    with pytest.raises(
        ValueError, match=f"can step only a unidirectional LayerNormGRU .*: {problem}"
    ):
        Stepper(layer())
