"""The encoder before the recurrent layer against a float64 transcription, and its place."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from bci_decode.errors import BciDecodeError
from bci_decode.evaluation.decoding import decode_stream
from bci_decode.layers import GRU
from bci_decode.models.decoder import Decoder
from bci_decode.models.front import LogSoftplusEncoder
from bci_decode.models.heads import DropoutHead

ENCODER = partial(LogSoftplusEncoder, width=4)


def made(encoder=ENCODER) -> Decoder:
    torch.manual_seed(0)
    head = partial(DropoutHead, dropout=0.5)
    return Decoder(partial(GRU, hidden_size=7), head, encoder=encoder, input_size=6, output_size=2)


def counts(*shape: int) -> torch.Tensor:
    return torch.poisson(torch.full(shape, 2.0), generator=torch.Generator().manual_seed(1))


def test_the_encoder_is_log_softplus_then_linear_then_batch_norm():
    encoder, x = ENCODER(6).train(), counts(5, 8, 6)
    found = encoder(x).detach().numpy()
    weight, bias = (p.detach().double().numpy() for p in encoder.linear.parameters())
    linear = np.log(np.log1p(np.exp(x.double().numpy()))) @ weight.T + bias
    flat = linear.reshape(-1, 4)
    expected = (linear - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    running = 0.1 * flat.mean(0)  # after one batch
    spread = 0.9 + 0.1 * flat.var(0, ddof=1)
    expected = (linear - running) / np.sqrt(spread + 1e-5)
    np.testing.assert_allclose(encoder.eval()(x).detach().numpy(), expected, atol=1e-5)


def test_noise_has_the_variance_that_its_network_gives_and_none_at_test():
    encoder = LogSoftplusEncoder(6, 4, noise_width=3)
    x = counts(1, 1, 6).expand(20_000, 1, 6)
    with torch.no_grad():
        variance = encoder.noise(torch.nn.functional.softplus(x[0]).log()).exp()
        drawn = encoder.train()(x)
        assert torch.allclose(drawn.var(0), variance, rtol=0.1)
        assert torch.equal(encoder.eval()(x), encoder(x))


def test_the_encoder_is_in_front_of_the_recurrent_layer():
    decoder, x = made().eval(), counts(3, 9, 6)
    with torch.no_grad():
        expected = decoder.head(decoder.recurrent(decoder.encoder(x))[0])
        torch.testing.assert_close(decoder(x)[0], expected)
        windows = torch.arange(5)[:, None] + torch.arange(4)
        found = decoder.forward_windows(x[0], windows, 1)
        torch.testing.assert_close(found, decoder(x[0][windows], first_output=1)[0])


def test_in_training_windows_are_encoded_as_they_are_given():
    """Statistics of a batch count a bin as often as the windows hold it."""
    windows, x = torch.arange(5)[:, None] + torch.arange(4), counts(9, 6)
    outputs = []
    for run in (
        lambda d: d.forward_windows(x, windows),
        lambda d: d(x[windows])[0],
    ):
        decoder = made().train()
        torch.manual_seed(1)
        outputs.append(run(decoder))
    assert torch.equal(*outputs)


def test_without_an_encoder_the_names_of_the_weights_stay():
    plain = made(encoder=None)
    assert not [name for name in plain.state_dict() if name.startswith("encoder")]
    assert plain.recurrent.input_size == 6 and made().recurrent.input_size == 4


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("history", [None, 1, 4])
@pytest.mark.parametrize("bins", [2, 23])
def test_a_stream_is_decoded_from_every_step_th_bin(history, step, bins):
    """One output for each bin, from bins `step` apart and a zero state, or the state so far."""
    decoder, x = made(), counts(bins, 6)
    found = decode_stream(decoder, x, history, batch=5, step=step)
    assert found.shape == (bins, 2)
    for t in range(bins):
        past = x[t % step : t + 1 : step]
        past = past if history is None else past[-history:]
        with torch.no_grad():
            torch.testing.assert_close(found[t], decoder(past[None])[0][0, -1])
    changed = torch.cat([x[:13], 9 + x[13:]])
    later = decode_stream(decoder, changed, history, batch=5, step=step)
    assert torch.equal(later[:13], found[:13])


def test_units_of_another_run_cannot_be_matched_through_an_encoder(tmp_path):
    from bci_decode.runs.initial_weights import load_initial_weights

    with pytest.raises(BciDecodeError, match=r"init_from: cannot match units .* an encoder"):
        load_initial_weights(made(), tmp_path, None)


def test_a_head_drops_outputs_in_training_alone():
    head, y = DropoutHead(7, 2, dropout=0.5), torch.ones(50, 7)
    assert isinstance(head[0], nn.Dropout)
    assert torch.equal(head.eval()(y), head[1](y)) and head.train()(y).std(0).min() > 0
