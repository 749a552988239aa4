"""The decoder's sockets, and a stream decoded as a live decoder would."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from bci_decode.errors import BciDecodeError
from bci_decode.evaluation.decoding import decode_stream
from bci_decode.layers import HistoryNorm, LayerNormGRU
from bci_decode.layers import recurrent as layers
from bci_decode.models.decoder import Decoder, check_window
from bci_decode.models.heads import MLPHead, PerAxisHead

GRU = partial(nn.GRU, hidden_size=8)
LNGRU = partial(LayerNormGRU, hidden_size=8)


def made(recurrent=LNGRU, head=nn.Linear, norm=None, **options) -> Decoder:
    torch.manual_seed(0)
    return Decoder(recurrent, head, norm, **options, input_size=6, output_size=2).eval()


@pytest.mark.parametrize(
    "recurrent", [GRU, LNGRU, partial(LNGRU, bidirectional=True), partial(GRU, num_layers=2)]
)
@pytest.mark.parametrize(
    "head", [nn.Linear, partial(MLPHead, width=5), partial(PerAxisHead, width=5)]
)
def test_shapes(recurrent, head):
    decoder = made(recurrent, head)
    y, state = decoder(torch.randn(3, 10, 6))
    assert y.shape == (3, 10, 2)
    assert state.shape[1:] == (3, 8)
    assert torch.allclose(decoder(torch.randn(3, 10, 6), first_output=9)[0], y[:, 9:]) is False
    x = torch.randn(3, 10, 6)
    torch.testing.assert_close(decoder(x, first_output=7)[0], decoder(x)[0][:, 7:])


def test_the_axes_of_a_per_axis_head_share_nothing():
    head = PerAxisHead(4, 2, width=5)
    x = torch.randn(7, 4, requires_grad=True)
    head(x)[:, 0].sum().backward()
    assert all(
        parameter.grad is None or not parameter.grad.any()
        for parameter in head.axes[1].parameters()
    )
    assert all(parameter.grad is not None for parameter in head.axes[0].parameters())


@pytest.mark.parametrize("recurrent", [GRU, partial(layers.GRU, hidden_size=8), LNGRU])
@pytest.mark.parametrize(
    "windows", [torch.arange(5)[:, None] + torch.arange(4), torch.tensor([[0, 30], [7, 19]])]
)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_windows_are_decoded_as_if_each_were_copied(recurrent, windows, dropout):
    """Close together or far apart, with and without shared projections, with dropout too."""
    decoder, counts = (
        made(recurrent, norm=HistoryNorm(), dropout=dropout).train(),
        torch.randn(40, 6),
    )
    outputs, gradients = [], []
    for run in (
        lambda: decoder.forward_windows(counts, windows, 1),
        lambda: decoder(counts[windows], first_output=1)[0],
    ):
        torch.manual_seed(0)
        outputs.append(run())
        gradients.append(
            torch.autograd.grad(outputs[-1].square().sum(), decoder.parameters(), allow_unused=True)
        )
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("recurrent", [GRU, LNGRU])
@pytest.mark.parametrize("history", [None, 1, 4])
@pytest.mark.parametrize("norm", [None, HistoryNorm()])
def test_a_stream_is_decoded_bin_by_bin(recurrent, history, norm):
    """Each bin is decoded as a live decoder decodes it.

    From the last `history` bins and a zero state, or from the state so far.
    """
    if norm is not None and history is None:
        return  # refused, see below
    decoder = made(recurrent, norm=norm)
    counts = torch.randn(23, 6)
    found = decode_stream(decoder, counts, history, batch=5)
    assert found.shape == (23, 2)
    for t in range(23):
        past = counts[: t + 1] if history is None else counts[max(0, t + 1 - history) : t + 1]
        with torch.no_grad():
            torch.testing.assert_close(found[t], decoder(past[None])[0][0, -1])


@pytest.mark.parametrize("history", [None, 4, 50])
def test_a_stream_knows_no_later_bin(history):
    decoder, counts = made(), torch.randn(30, 6)
    changed = counts.clone()
    changed[13:] = 9
    assert torch.equal(
        decode_stream(decoder, counts, history)[:13], decode_stream(decoder, changed, history)[:13]
    )


@pytest.mark.parametrize(("history", "ahead"), [(4, False), (None, True)])
def test_both_directions_look_ahead_in_a_carried_stream_alone(history, ahead):
    decoder, counts = made(partial(GRU, bidirectional=True)), torch.randn(30, 6)
    changed = counts.clone()
    changed[13:] = 9
    before, after = (decode_stream(decoder, c, history)[:13] for c in (counts, changed))
    assert torch.equal(before, after) is not ahead


def test_a_norm_over_the_window_is_refused_where_the_state_is_carried():
    with pytest.raises(
        BciDecodeError, match=r"model.norm: HistoryNorm looks ahead.*data.window.kind=history"
    ):
        check_window(made(norm=HistoryNorm()), None)
    check_window(made(norm=HistoryNorm()), 10)
    check_window(made(), None)


def test_dropout_is_of_the_counts_in_training_alone():
    decoder = made(dropout=0.5)
    x = torch.randn(2, 5, 6)
    assert torch.equal(decoder(x)[0], decoder(x)[0])
    decoder.train()
    assert not torch.equal(decoder(x)[0], decoder(x)[0])
