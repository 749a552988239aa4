"""The GRU's Triton kernels against the loop in float64; `test_fused_cuda.py` runs this file.

On a GPU where there is one, else in Triton's interpreter, which must be chosen before the import
of triton: hence a process of its own.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bci_decode.layers import LayerNormGRU, cuda
from bci_decode.layers.cuda import autograd
from bci_decode.layers.cuda.autograd import fused_gru_cuda
from bci_decode.layers.weights import gate_weights

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAYERS = [(nn.GRU, {"bias": bias}) for bias in (True, False)]
LAYERS += [
    (LayerNormGRU, {"affine": affine, "bias": bias})
    for affine in (True, False)
    for bias in (True, False)
]


def made(kind, inputs, hidden, **options):
    torch.manual_seed(0)
    layer = kind(inputs, hidden, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return layer


def by_kernels(layer, x, h):
    inputs, recurrent = (gate_weights(layer, side, "l0") for side in ("ih", "hh"))
    return fused_gru_cuda(x, h, inputs, recurrent, getattr(layer, "eps", None))


def by_loop(layer, x, h):
    layer.use_fused = False
    return layer(x, None if h is None else h[None])[0]


def results(run, layer, x, h, dtype, device="cpu"):
    """Outputs and all gradients; each output counts with its own factor."""
    layer.to(device, dtype)
    x = x.clone().to(device, dtype).requires_grad_()
    h = None if h is None else h.clone().to(device, dtype).requires_grad_()
    y = run(layer, x, h)
    factors = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    leaves = [x, *([] if h is None else [h]), *layer.parameters()]
    return [a.cpu() for a in (y.detach(), *torch.autograd.grad(y, leaves, factors))]


def error(layer, x, h):
    """The largest relative error (Frobenius) of float32 outputs and gradients."""
    found = results(by_kernels, layer, x, h, torch.float32, DEVICE)
    true = results(by_loop, layer, x, h, torch.float64)
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(found, true, strict=True))


def example(bins, sequences, hidden, inputs, with_h=True):
    return torch.randn(bins, sequences, inputs), torch.randn(sequences, hidden) if with_h else None


@pytest.mark.parametrize(("hidden", "with_h"), [(30, True), (48, False)])
@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_outputs_and_gradients(kind, options, hidden, with_h):
    assert error(made(kind, 5, hidden, **options), *example(7, 13, hidden, 5, with_h)) < 1e-5


@pytest.mark.parametrize("size", [(1, 1, 3, 1), (3, 2, 70, 5), (1, 3, 140, 4)])
@pytest.mark.parametrize("kind", [nn.GRU, LayerNormGRU])
def test_other_sizes(kind, size):
    """Above 64 columns the weights are read again in each bin."""
    assert error(made(kind, size[3], size[2]), *example(*size)) < 1e-5


@pytest.mark.parametrize("hidden", [30, 70])
@pytest.mark.parametrize("tile", [4, 16])
def test_fewer_and_more_sequences_to_a_program(monkeypatch, tile, hidden):
    monkeypatch.setattr(autograd, "TILES", (tile,))
    assert error(made(LayerNormGRU, 5, hidden), *example(3, 7, hidden, 5)) < 1e-5


@pytest.mark.parametrize("kind", [nn.GRU, LayerNormGRU])
def test_small_candidates_are_exact_too(kind):
    layer = made(kind, 5, 12)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "bias" in name or "gain" in name or kind is nn.GRU:
                parameter *= 1e-4
    assert error(layer, *example(4, 3, 12, 5, with_h=False)) < 1e-5


@pytest.mark.parametrize("hidden", [30, 70])
@pytest.mark.parametrize("kind", [nn.GRU, LayerNormGRU])
def test_nan_stays_in_its_sequence_and_reaches_the_gradients(kind, hidden):
    layer, (x, h) = made(kind, 5, hidden), example(5, 6, hidden, 5)
    clean = results(by_kernels, layer, x, h, torch.float32, DEVICE)
    x[2, 3, 0] = torch.nan
    found = results(by_kernels, layer, x, h, torch.float32, DEVICE)
    lost = torch.zeros(5, 6, dtype=torch.bool)
    lost[2:, 3] = True
    assert found[0][lost].isnan().all() and torch.equal(found[0][~lost], clean[0][~lost])
    assert all(gradient.isnan().any() for gradient in found[1:])


@pytest.mark.parametrize("kind", [nn.GRU, LayerNormGRU])
def test_the_same_bits_again(kind):
    layer, (x, h) = made(kind, 5, 30), example(7, 13, 30, 5)
    once, again = (results(by_kernels, layer, x, h, torch.float32, DEVICE) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_without_gradients_the_outputs_are_the_same():
    layer, (x, h) = made(LayerNormGRU, 5, 30).to(DEVICE), example(4, 3, 30, 5)
    x, h = x.to(DEVICE), h.to(DEVICE)
    y = by_kernels(layer, x, h)
    with torch.no_grad():
        assert torch.equal(by_kernels(layer, x, h), y)


def test_some_gradients_alone():
    layer, (x, h) = made(LayerNormGRU, 5, 12).to(DEVICE), example(4, 3, 12, 5)
    x, h = x.to(DEVICE), h.to(DEVICE)
    layer.weight_hh_l0.requires_grad_(False)
    leaves = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(by_kernels(layer, x, h).sum(), leaves)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_inputs_that_are_not_contiguous():
    layer, x = made(LayerNormGRU, 5, 12), torch.randn(3, 8, 10).transpose(0, 1)[::2, :, ::2]
    assert error(layer, x, torch.randn(12, 3).t()) < 1e-5


def test_second_derivatives_are_refused():
    layer, x = made(LayerNormGRU, 3, 4).to(DEVICE), torch.randn(5, 2, 3, device=DEVICE)
    with pytest.raises(RuntimeError, match="no second derivatives: set its use_fused = False"):
        torch.autograd.grad(by_kernels(layer, x.requires_grad_(), None).sum(), x, create_graph=True)


def test_outputs_changed_in_place_are_noticed():
    layer, x = made(LayerNormGRU, 3, 4).to(DEVICE), torch.randn(5, 2, 3, device=DEVICE)
    y = by_kernels(layer, x, None)
    y += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("windows", [False, True])
def test_the_layer_uses_them(monkeypatch, windows):
    """Two layers in both directions; the interpreter is let in where a GPU is expected."""
    answers, supported = [], cuda.serves

    def let_in(*tensors):
        answers.append(DEVICE == "cpu" or supported(*tensors))
        return answers[-1]

    monkeypatch.setattr(cuda, "serves", let_in)
    layer = made(LayerNormGRU, 5, 12, num_layers=2, bidirectional=True, batch_first=True)
    x, index = torch.randn(20, 5), torch.arange(3)[:, None] + torch.arange(9)

    def run(layer, x, h):
        return (layer.forward_windows(x, index.to(x.device)) if windows else layer(x[None]))[0]

    found = results(run, layer, x, None, torch.float32, DEVICE)
    assert answers == [True] * 4
    layer.use_fused = False
    true = results(run, layer, x, None, torch.float64)
    for a, b in zip(found, true, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)
