"""A decoder of many sessions: each is decoded as if it were alone, and the core is one."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

from bci_decode.models.decoder import Decoder
from bci_decode.models.multi_session import MultiSessionDecoder, ReadIn

UNITS = (3, 7, 5)


def made(shared=True, unit_dropout=0.0) -> MultiSessionDecoder:
    torch.manual_seed(0)
    read_in = partial(ReadIn, width=4, unit_dropout=unit_dropout)
    core = partial(torch.nn.GRU, hidden_size=6)
    decoders = [
        Decoder(core, torch.nn.Linear, encoder=read_in, input_size=units, output_size=2)
        for units in UNITS
    ]
    return MultiSessionDecoder(decoders, shared)


def windows(*numbers: int) -> list[torch.Tensor]:
    """Two windows of each session, then three of the next, and so on."""
    torch.manual_seed(1)
    return [torch.randn(2 + place, 9, UNITS[n]) for place, n in enumerate(numbers)]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_a_mixed_batch_is_each_session_alone(shared, training):
    decoder = made(shared).train(training)
    numbers = [2, 0, 1]
    counts = windows(*numbers)
    together = decoder(counts, numbers, first_output=3)
    for number, own, outputs in zip(numbers, counts, together, strict=True):
        alone = decoder.session_decoder(number)(own, first_output=3)[0]
        torch.testing.assert_close(outputs, alone)


def test_no_window_sees_another_one():
    decoder = made().eval()
    counts = windows(0, 1)
    before = decoder(counts, [0, 1])
    counts[0][1] += 1
    after = decoder(counts, [0, 1])
    assert torch.equal(before[0][0], after[0][0]) and torch.equal(before[1], after[1])
    assert not torch.equal(before[0][1], after[0][1])


@pytest.mark.parametrize(("shared", "heads"), [(True, 1), (False, 3)])
def test_the_core_is_there_once(shared, heads):
    decoder = made(shared)
    core = sum(values.numel() for values in decoder.recurrent.parameters())
    read_ins = sum(4 * (units + 1) for units in UNITS)
    assert sum(v.numel() for v in decoder.state_dict().values()) == core + read_ins + heads * 14
    assert sum(v.numel() for v in decoder.parameters()) == core + read_ins + heads * 14


def test_a_copy_keeps_what_is_shared():
    """As an average of the weights is made."""
    decoder = copy.deepcopy(made())
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.zero_()
    for number in range(3):
        weights = decoder.session_decoder(number).state_dict()
        assert all(not values.any() for values in weights.values())


def test_learning_from_one_session_changes_core_and_its_read_in_alone():
    decoder = made()
    before = copy.deepcopy(decoder.state_dict())
    step = torch.optim.AdamW(decoder.parameters(), lr=0.1, weight_decay=0.5)
    decoder(windows(1), [1])[0].square().mean().backward()
    step.step()
    changed = {
        name for name, values in decoder.state_dict().items() if (values != before[name]).any()
    }
    assert {name for name in changed if name.startswith("read_ins")} == {
        "read_ins.1.linear.weight", "read_ins.1.linear.bias",
    }  # fmt: skip
    assert any(name.startswith("recurrent") for name in changed)


def test_training_drops_a_unit_in_all_bins_of_a_window():
    torch.manual_seed(0)
    read_in = ReadIn(200, 200, unit_dropout=0.25)
    with torch.no_grad():
        read_in.linear.weight.copy_(torch.eye(200))
    seen = read_in(torch.ones(50, 6, 200)).detach()
    dropped = (seen == 0).all(1)
    assert ((seen == 0) == dropped[:, None]).all()
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert seen.mean().item() == pytest.approx(1.0, abs=0.03)
    assert not torch.equal(dropped[0], dropped[1])
    assert (read_in.eval()(torch.ones(50, 6, 200)) == 1).all()


@pytest.mark.parametrize("units", [10, 1000])
def test_a_new_read_in_keeps_the_variance(units):
    torch.manual_seed(0)
    outputs = ReadIn(units, 300)(torch.randn(200, units))
    assert outputs.var().item() == pytest.approx(1.0, abs=0.2)
