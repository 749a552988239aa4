"""The linear recurrence: its states, its gradients, and what a state may depend on."""

from __future__ import annotations

import pytest
import torch

from bci_decode.layers import scan
from bci_decode.layers.scan import linear_scan

TYPES = [torch.float64, torch.complex128]
FACTORS = {"of each bin": (2, 3), "one of each place": (2, 3), "one of each column": (3,)}


@pytest.fixture(params=["chunks", "loop"])
def way(request, monkeypatch):
    """Both ways to compute, whatever the size of a bin."""
    monkeypatch.setattr(scan, "LOOP_SIZE", 1 if request.param == "loop" else 10**9)


def arguments(bins, dtype, factors):
    torch.manual_seed(0)
    shape = (bins, *FACTORS[factors]) if factors == "of each bin" else FACTORS[factors]
    a = 0.7 * torch.randn(shape, dtype=dtype)
    return a, torch.randn(bins, 2, 3, dtype=dtype), torch.randn(2, 3, dtype=dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("bins", [1, 2, 31, 32, 48, 1000])
def test_states_are_those_of_a_loop(way, bins, dtype, factors):
    a, b, h = arguments(bins, dtype, factors)
    found = linear_scan(a, b, h)
    for t in range(bins):
        h = (a[t] if factors == "of each bin" else a) * h + b[t]
        torch.testing.assert_close(found[t], h, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("bins", [1, 5, 37])
def test_gradients(way, bins, dtype, factors):
    given = [value.requires_grad_() for value in arguments(bins, dtype, factors)]
    assert torch.autograd.gradcheck(linear_scan, given, fast_mode=bins > 5)


def test_gradients_without_an_initial_state(way):
    a, b, _ = arguments(40, torch.float64, "of each bin")
    given = a.requires_grad_(), b.requires_grad_()
    assert torch.autograd.gradcheck(linear_scan, given, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("factors", FACTORS)
def test_a_state_does_not_depend_on_later_bins(way, dtype, factors):
    a, b, h = arguments(100, dtype, factors)
    before = linear_scan(a, b, h)
    b[60:] += 1
    if factors == "of each bin":
        a[60:] *= 2
    after = linear_scan(a, b, h)
    assert torch.equal(after[:60], before[:60])
    assert not torch.equal(after[60], before[60])


def test_wrong_types_and_shapes_are_refused():
    a, b, h = arguments(4, torch.float64, "of each bin")
    with pytest.raises(ValueError, match=r"types torch.float32, torch.float64"):
        linear_scan(a.float(), b, h)
    with pytest.raises(ValueError, match="shapes"):
        linear_scan(a[1:], b, h)
    with pytest.raises(ValueError, match="shapes"):
        linear_scan(a[0], b, h[:1])
