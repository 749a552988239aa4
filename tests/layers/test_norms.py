"""Each normalization against its published equation, in NumPy and float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bci_decode.errors import BciDecodeError
from bci_decode.layers.norms import (
    NORMS,
    SHARED_BINS,
    AdaNorm,
    BatchLayerNorm,
    BatchNorm,
    LayerNorm,
    NoNorm,
    RMSNorm,
    WeightNorm,
)

ACTIVATIONS = [name for name in NORMS if name != "weight"]
BATCH = ["batch_per_step", "batch_shared", "batch_layer"]


def made(name, width=6, **options):
    """A norm in float64 whose gain and bias are away from their initial values."""
    torch.manual_seed(0)
    norm = NORMS[name](width, **options).double()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return norm


def values(*shape, seed=0):
    return torch.from_numpy(2 + 3 * np.random.default_rng(seed).normal(size=shape))


def of(parameter, default):
    return default if parameter is None else parameter.detach().numpy()


def layer_norm(a, eps):
    mean = a.mean(-1, keepdims=True)
    return (a - mean) / np.sqrt(((a - mean) ** 2).mean(-1, keepdims=True) + eps)


def expected(norm, a, statistics=None):
    """The published equation; `statistics` are a batch norm's running ones, None in training."""
    a, width = a.detach().numpy(), a.shape[-1]
    gain, bias = of(norm.gain, 1.0), of(norm.bias, 0.0)
    if type(norm) is NoNorm:
        return a
    if type(norm) is LayerNorm:
        return gain * layer_norm(a, norm.eps) + bias
    if type(norm) is RMSNorm:
        return gain * a / np.sqrt((a**2).mean(-1, keepdims=True) + norm.eps) + bias
    if type(norm) is AdaNorm:
        y = layer_norm(a, norm.eps)
        return norm.factor * (1 - norm.k * y) * y + bias
    mean, variance = (a.mean(0), a.var(0)) if statistics is None else statistics
    by_batch = (a - mean) / np.sqrt(variance + norm.eps)
    if type(norm) is BatchNorm:
        return gain * by_batch + bias
    share = 1 / (len(a) if statistics is None else int(norm.sequences))
    mixed = share * layer_norm(a, norm.eps) + (1 - share) * by_batch
    return gain * mixed / np.sqrt(width) + bias


def same(found, wanted):
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"gain": None}, {"bias": False}, {"eps": 0.5}], ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_equation_in_training_and_in_evaluation(name, options):
    norm = made(name, **options)
    a, b = values(5, 6), values(3, 6, seed=1)
    same(norm(a, 0), expected(norm, a))
    norm.eval()
    rate = 0.1 if norm.per_step else 0.1 / SHARED_BINS  # of rows that come bin by bin
    running = rate * a.numpy().mean(0), 1 - rate + rate * a.numpy().var(0, ddof=1)
    same(norm(b, 0), expected(norm, b, running))


def test_weight_norm():
    """Salimans and Kingma 2016, equation 2, and gradients orthogonal to the rows (equation 4)."""
    norm, v = made("weight", 4), values(4, 6).requires_grad_()
    length = np.sqrt((v.detach().numpy() ** 2).sum(1, keepdims=True))
    same(norm(v), norm.gain.detach().numpy()[:, None] * v.detach().numpy() / length)
    same(WeightNorm(4, gain=None)(v).norm(dim=1), np.ones(4))
    (norm(v) * values(4, 6, seed=1)).sum().backward()
    same((v.grad * v).sum(1), np.zeros(4))


def test_ada_norms_factor_is_a_constant_for_the_gradient():
    norm, a = AdaNorm(6, gain=2.0, bias=False).double(), values(3, 6).requires_grad_()
    weights = values(3, 6, seed=1)
    (found,) = torch.autograd.grad((norm(a) * weights).sum(), a)
    y = layer_norm(a.detach().numpy(), norm.eps)
    factor = torch.from_numpy(2 * (1 - 0.1 * y))
    plain = nn.functional.layer_norm(a, (6,), eps=norm.eps)
    (wanted,) = torch.autograd.grad((factor * plain * weights).sum(), a)
    torch.testing.assert_close(found, wanted)


def test_batch_norm_is_torchs():
    rate = 0.1 / SHARED_BINS  # of rows that come bin by bin
    norm, reference = made("batch_shared"), nn.BatchNorm1d(6, momentum=rate).double()
    reference.load_state_dict(
        {"weight": norm.gain, "bias": norm.bias}
        | {k: v for k, v in reference.state_dict().items() if k not in ("weight", "bias")}
    )
    for seed in range(3):
        a = values(5, 6, seed=seed)
        torch.testing.assert_close(norm(a, seed), reference(a))
    torch.testing.assert_close(norm.eval()(a, 9), reference.eval()(a))


def test_statistics_per_step():
    """Each step has its own; later ones share the last row, and unseen ones the last seen."""
    norm, a = BatchNorm(2, steps=4, momentum=1.0).double(), values(6, 5, 2)
    for step in range(3):
        norm(a[step], step)
    norm.eval()
    for step in range(6):
        row = a[min(step, 2)].numpy()
        statistics = row.mean(0), row.var(0, ddof=1)
        same(norm(a[5], step), expected(norm, a[5], statistics))
    norm.train()
    for step in range(6):
        norm(a[step], step)
    for step, number in enumerate((0, 1, 2, 5)):
        same(norm.mean[step], a[number].numpy().mean(0))


@pytest.mark.parametrize("name", ["batch_per_step", "batch_shared"])
def test_one_sequence_in_training(name):
    norm, one = made(name), values(1, 6)
    with pytest.raises(
        BciDecodeError,
        match=r"^model.recurrent.norm: batch normalization has no variance in a training batch of "
        r"one sequence; choose a trainer.batch_size of 2 or more, or another norm$",
    ):
        norm(one, 0)
    norm(values(5, 6), 0)
    before = norm.mean.clone()
    y = norm(one, 0)
    assert torch.equal(norm.mean, before)
    assert torch.equal(y, norm.eval()(one, 0))


def test_batch_layer_norm_of_one_sequence_is_layer_norm():
    norm, one = made("batch_layer"), values(1, 6)
    wanted = layer_norm(one.numpy(), norm.eps) / np.sqrt(6)
    for mode in (True, False):
        same(norm.train(mode)(one, 0), of(norm.gain, 1) * wanted + of(norm.bias, 0))
    for sequences in (5, 2):
        norm.train()(values(sequences, 6), 0)
    assert int(norm.sequences) == 5
    assert isinstance(norm, BatchLayerNorm)


@pytest.mark.parametrize("name", BATCH)
def test_the_running_statistics_are_in_the_state_dict(name):
    norm, fresh, a = made(name), made(name), values(5, 6)
    for step in range(3):
        norm(a, step)
    fresh.load_state_dict(norm.state_dict())
    assert torch.equal(fresh.eval()(a, 2), norm.eval()(a, 2))
    norm.reset_parameters()
    untrained = NORMS[name](6, eps=norm.eps).double().eval()
    assert torch.equal(norm(a, 2), untrained(a, 2))


@pytest.mark.parametrize("name", NORMS)
def test_gain_and_bias_start_as_told(name):
    norm = NORMS[name](6, eps=1e-5, gain=0.2, bias=True)
    if norm.gain is not None:
        assert (norm.gain == 0.2).all()
    assert (norm.gain is None) == (name in ("none", "ada"))
    assert (norm.bias is None) == (name in ("none", "weight"))
    assert list(NORMS[name](6, eps=1e-5, gain=None, bias=False).parameters()) == []
    assert "6" in repr(norm)
