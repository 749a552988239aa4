"""Bin by bin against the layer's own pass over the sequence."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from bci_decode.layers import GRU, LayerNormGRU, cpu
from bci_decode.layers.cpu.kernels import kernels_of
from bci_decode.layers.cpu.rows import FORMS as FORM_NUMBERS
from bci_decode.layers.cpu.stepper import Stepper, WindowStepper

FORMS = [
    (GRU, {"bias": True}),
    (GRU, {"bias": False}),
    *((LayerNormGRU, {"affine": a, "bias": b}) for a in (True, False) for b in (True, False)),
    (LayerNormGRU, {"place": "sum"}),
    (LayerNormGRU, {"place": "sum2", "eps": 1e-3}),
]


def moved(kind=LayerNormGRU, inputs=6, hidden=8, **options):
    torch.manual_seed(0)
    layer = kind(inputs, hidden, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def stepped(layer, x, h):
    """The outputs and the last state of a Stepper."""
    stepper, state, outputs = Stepper(layer), h.numpy(), []
    for bin_ in x.numpy():
        state = stepper.step(bin_, state)
        outputs.append(state[-1])
    return np.stack(outputs), state


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("kind", "options"), FORMS, ids=str)
def test_step_by_step_has_the_bits_of_one_pass(kind, options, dtype, num_layers):
    layer = moved(kind, 37, 30, num_layers=num_layers, **options).to(dtype)
    x, h = torch.randn(20, 37, dtype=dtype), torch.randn(num_layers, 30, dtype=dtype)
    y, final = layer(x, h)
    outputs, state = stepped(layer, x, h)
    np.testing.assert_array_equal(outputs, y.detach().numpy())
    np.testing.assert_array_equal(state, final.detach().numpy())
    assert state.dtype == x.numpy().dtype


@pytest.mark.parametrize(("kind", "options"), FORMS, ids=str)
def test_without_numba_the_layer_itself_steps(monkeypatch, kind, options):
    layer = moved(kind, num_layers=2, **options)
    x, h = torch.randn(20, 6), torch.randn(2, 8)
    expected = stepped(layer, x, h)
    monkeypatch.setattr(cpu, "_ready", {})
    monkeypatch.setattr(cpu, "available", lambda: False)
    for found, true in zip(stepped(layer, x, h), expected, strict=True):
        np.testing.assert_allclose(found, true, rtol=0, atol=1e-5)


def test_a_layer_without_kernels_steps_as_it_passes():
    layer = moved()
    layer.use_fused = False
    x, h = torch.randn(20, 6), torch.randn(1, 8)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(stepped(layer, x, h)[0]), layer(x, h)[0])


def test_received_bytes_compile_nothing_again():
    stepper, x = Stepper(moved()), np.ones(6, np.float32)
    h = np.zeros((1, 8), np.float32)
    expected = stepper.step(x, h)
    step = kernels_of(FORM_NUMBERS["apart"]).step
    before = len(step.signatures)
    received = np.frombuffer(x.tobytes(), np.float32)
    np.testing.assert_array_equal(stepper.step(received, h), expected)
    assert len(step.signatures) == before


def test_a_state_that_is_not_contiguous():
    layer, x = moved(num_layers=2), np.ones(6, np.float32)
    h = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32).T
    expected = Stepper(layer).step(x, np.ascontiguousarray(h))
    np.testing.assert_array_equal(Stepper(layer).step(np.repeat(x, 2)[::2], h), expected)


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
    with pytest.raises(
        ValueError, match="can step only a unidirectional GRU or LayerNormGRU .*: not LSTM"
    ):
        Stepper(nn.LSTM(6, 8))


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
        (np.ones(5, np.float32), np.zeros((1, 8), np.float32)),
    ],
)
def test_other_shapes_and_types_are_refused(x, h):
    with pytest.raises(ValueError, match="takes x and h of float32, x \\(6,\\), h \\(1, 8\\)"):
        Stepper(moved()).step(x, h)


class OtherNorm(LayerNormGRU):
    def normalize(self, a, gain, shift):
        return a


@pytest.mark.parametrize(
    ("layer", "problem"),
    [
        (lambda: LayerNormGRU(6, 8, device="meta"), "this one is on meta; move a copy to the CPU"),
        (lambda: LayerNormGRU(6, 8, dtype=torch.bfloat16), "this one has torch.bfloat16; convert"),
        (lambda: OtherNorm(6, 8), "OtherNorm has arithmetic of its own"),
    ],
)
def test_an_unsupported_layer_is_refused(layer, problem):
    with pytest.raises(ValueError, match=f"can step only a unidirectional GRU or .*: {problem}"):
        Stepper(layer())


@pytest.mark.parametrize(("kind", "options"), FORMS, ids=str)
def test_a_prepared_step_has_the_same_bits(kind, options):
    stepper = Stepper(moved(kind, num_layers=2, **options))
    h = np.zeros((2, 8), np.float32)
    for x in np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32):
        expected = stepper.step(x, h)
        stepper.prepare(h)
        np.testing.assert_array_equal(stepper.step(x, h, prepared=True), expected)
        h = expected


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("kind", "options"), FORMS, ids=str)
def test_a_moving_window_has_the_bits_of_every_window(kind, options, dtype, step):
    layer = moved(kind, 37, 30, num_layers=2, batch_first=True, **options).to(dtype)
    x, history = torch.randn(25, 37, dtype=dtype), 4
    stepper = WindowStepper(layer, history, step)
    for t, bin_ in enumerate(x.numpy()):
        y = stepper.step(bin_)
        bins = torch.tensor([b for b in range(t - 3 * step, t + 1, step) if b >= 0])
        expected, _ = layer.forward_windows(x, bins[None])
        np.testing.assert_array_equal(y, expected[0].detach().numpy())


def test_a_moving_window_continues_from_a_state():
    layer, x = moved(GRU, num_layers=2), np.ones((9, 6), np.float32)
    stepper, other = WindowStepper(layer, 3), WindowStepper(layer, 3)
    for bin_ in x[:5]:
        stepper.step(bin_)
    other.state = {name: values.copy() for name, values in stepper.state.items()}
    np.testing.assert_array_equal(other.step(x[5]), stepper.step(x[5]))
    stepper.reset()
    assert len(stepper.step(x[0])) == 1
