"""The optimizers without PyTorch's compiler are those of `torch.optim` to the last bit."""

from __future__ import annotations

import pickle

import pytest
import torch
from omegaconf import DictConfig

from bci_decode.runs.build import instantiate
from bci_decode.training import optimizers

NEEDS_OTHERS = {"SparseAdam", "Muon"}  # sparse gradients, matrices alone
KINDS = [
    name
    for name in sorted(vars(torch.optim))
    if optimizers.find(name) is not None and name not in NEEDS_OTHERS
]


def trained(kind, steps=3):
    """Weights after some steps, and the optimizer."""
    torch.manual_seed(0)
    layer, x, y = torch.nn.Linear(4, 2), torch.randn(20, 4), torch.randn(20, 2)
    optimizer = kind(layer.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(layer(x), y)
        loss.backward()
        return loss

    for _ in range(steps):
        assert optimizer.step(closure) > 0
        schedule.step()
    return [parameter.detach().clone() for parameter in layer.parameters()], optimizer


@pytest.mark.parametrize("name", KINDS)
def test_steps_are_those_of_torch(name):
    (weights, plain), (others, ours) = (
        trained(getattr(module, name)) for module in (torch.optim, optimizers)
    )
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))
    assert isinstance(ours, type(plain)) and ours.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(ours.state_dict())
    ours.load_state_dict(plain.state_dict())
    assert str(ours) == str(plain)


def test_a_differentiable_step_keeps_its_graph():
    weight = torch.ones(3, requires_grad=True)
    copy = weight.clone()
    optimizer = optimizers.SGD([copy], lr=0.1, differentiable=True)
    copy.grad = 2 * weight
    optimizer.step()
    assert torch.autograd.grad(copy.sum(), weight)[0].tolist() == pytest.approx([0.8] * 3)


def test_hooks_are_called_and_a_pickle_comes_back():
    _, optimizer = trained(optimizers.AdamW)
    called = []
    optimizer.register_step_post_hook(lambda *_: called.append(1))
    optimizer.step()
    assert called == [1]
    assert type(pickle.loads(pickle.dumps(optimizer))) is optimizers.AdamW


@pytest.mark.parametrize("name", ["Nope", "lr_scheduler", "Optimizers"])
def test_other_names_are_refused(name):
    with pytest.raises(AttributeError, match=name):
        getattr(optimizers, name)


def test_the_configuration_names_those_of_torch():
    config = {"_target_": "torch.optim.RMSprop", "_partial_": True, "lr": 0.1}
    made = instantiate(DictConfig(config), "optimizer")([torch.ones(1, requires_grad=True)])
    assert type(made) is optimizers.RMSprop and made.defaults["lr"] == 0.1
