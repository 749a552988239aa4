"""Each recurrent layer against a transcription of its published equations in NumPy, in float64.

The transcriptions loop over bins, take one sequence, and share no code with the layers.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bci_decode.layers import (
    HGRN,
    LRU,
    LSTM,
    RNN,
    LayerNormLSTM,
    LayerNormRNN,
    MinGRU,
    ResidualStack,
)

BINS, INPUTS, HIDDEN = 40, 5, 7
EPS = 1e-5


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def norm(a, gain=1.0, shift=0.0):
    centered = a - a.mean()
    return centered / np.sqrt((centered**2).mean() + EPS) * gain + shift


def gelu(a):
    erf = np.vectorize(math.erf)
    return a * 0.5 * (1 + erf(a / np.sqrt(2)))


def moved(layer):
    """The layer with every parameter away from its initial value."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def made(kind, **options):
    torch.manual_seed(0)
    return moved(kind(INPUTS, HIDDEN, dtype=torch.float64, **options))


def weights(layer, suffix="l0"):
    """Arrays by their name without the suffix."""
    ending = f"_{suffix}"
    return {
        name.removesuffix(ending): value.detach().numpy()
        for name, value in layer.named_parameters()
        if name.endswith(ending)
    }


def random_bins(columns=INPUTS):
    return np.random.default_rng(0).normal(size=(BINS, columns))


def lstm(w, x):
    h, c, outputs = np.zeros(HIDDEN), np.zeros(HIDDEN), []
    for bin_ in x:
        a = w["weight_ih"] @ bin_ + w["bias_ih"] + w["weight_hh"] @ h + w["bias_hh"]
        i, f, g, o = np.split(a, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return outputs


def layer_norm_lstm(w, x):
    h, c, outputs = np.zeros(HIDDEN), np.zeros(HIDDEN), []
    for bin_ in x:
        of_x = norm(w["weight_ih"] @ bin_ + w["bias_ih"], w["norm_gain_ih"], w["norm_bias_ih"])
        of_h = norm(w["weight_hh"] @ h + w["bias_hh"], w["norm_gain_hh"], w["norm_bias_hh"])
        i, f, g, o = np.split(of_x + of_h, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(norm(c, w["norm_gain_cell"], w["norm_bias_cell"]))
        outputs.append(h)
    return outputs


def rnn(w, x):
    h, outputs = np.zeros(HIDDEN), []
    for bin_ in x:
        h = np.tanh(w["weight_ih"] @ bin_ + w["bias_ih"] + w["weight_hh"] @ h + w["bias_hh"])
        outputs.append(h)
    return outputs


def layer_norm_rnn(w, x):
    h, outputs = np.zeros(HIDDEN), []
    for bin_ in x:
        a = w["weight_ih"] @ bin_ + w["bias_ih"] + w["weight_hh"] @ h + w["bias_hh"]
        h = np.tanh(norm(a, w["norm_gain_hh"], w["norm_bias_hh"]))
        outputs.append(h)
    return outputs


def min_gru(w, x, positive=False):
    h, outputs = np.zeros(HIDDEN), []
    for bin_ in x:
        z, c = np.split(w["weight_ih"] @ bin_ + w["bias_ih"], 2)
        if positive:
            c = np.array([value + 0.5 if value >= 0 else sigmoid(value) for value in c])
        h = (1 - sigmoid(z)) * h + sigmoid(z) * c
        outputs.append(h)
    return outputs


def lru(w, x, glu=False):
    eigenvalue = np.exp(-np.exp(w["nu_log"]) + 1j * np.exp(w["theta_log"]))
    b = w["weight_ih"][0::2] + 1j * w["weight_ih"][1::2]
    c = w["weight_ho"][:, 0::2] - 1j * w["weight_ho"][:, 1::2]
    h, outputs = np.zeros(HIDDEN, complex), []
    for bin_ in x:
        h = eigenvalue * h + np.exp(w["gamma_log"]) * (b @ bin_)
        y = (c @ h).real + w["bias_ho"]
        if "skip" in w:
            y = y + w["skip"] * bin_
        if glu:
            value, gate = np.split(w["weight_glu"] @ gelu(y) + w["bias_glu"], 2)
            y = value * sigmoid(gate)
        outputs.append(y)
    return outputs


def hgrn(w, x, bound):
    h, outputs = np.zeros(HIDDEN), []
    for bin_ in x:
        c, f, g = np.split(w["weight_ih"] @ bin_ + w["bias_ih"], 3)
        forget = bound + (1 - bound) * sigmoid(f)
        h = forget * h + (1 - forget) * c * sigmoid(c)
        y = norm(sigmoid(g) * h, w["norm_gain"], w["norm_bias"])
        outputs.append(w["weight_ho"] @ y + w["bias_ho"])
    return outputs


CASES = {
    "LSTM": (LSTM, {}, lstm),
    "LayerNormLSTM": (LayerNormLSTM, {}, layer_norm_lstm),
    "RNN": (RNN, {}, rnn),
    "LayerNormRNN": (LayerNormRNN, {}, layer_norm_rnn),
    "MinGRU": (MinGRU, {}, min_gru),
    "MinGRU positive": (MinGRU, {"positive": True}, lambda w, x: min_gru(w, x, True)),
    "LRU": (LRU, {}, lru),
    "LRU glu": (LRU, {"glu": True}, lambda w, x: lru(w, x, True)),
    "HGRN": (HGRN, {}, lambda w, x: hgrn(w, x, np.zeros(HIDDEN))),
}


@pytest.mark.parametrize("case", CASES)
def test_one_layer(case):
    kind, options, transcription = CASES[case]
    layer, x = made(kind, **options), random_bins()
    found = layer(torch.from_numpy(x))[0].detach().numpy()
    np.testing.assert_allclose(found, transcription(weights(layer), x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_two_layers_and_a_square_input(case):
    """The second layer's input is the first one's output, as wide as the state."""
    kind, options, transcription = CASES[case]
    layer, x = made(kind, num_layers=2, **options), random_bins()
    found = layer(torch.from_numpy(x))[0].detach().numpy()
    first, second = weights(layer), weights(layer, "l1")
    between = transcription(first, x)
    if kind is HGRN:  # the softmax over the layers, without the first layer's share
        shares = np.exp([first["bound"], second["bound"]])
        expected = hgrn(second, between, shares[1] / shares.sum(0))
    else:
        expected = transcription(second, between)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("place", "init"), [("pre", "default"), ("post", "default"), ("post", "admin")]
)
def test_residual_stacks(place, init):
    stack = made(ResidualStack, num_layers=3, layer=RNN, norm=place, init=init)
    x = random_bins()
    found = stack(torch.from_numpy(x))[0].detach().numpy()
    y = x @ weights(stack)["weight_ih"].T + weights(stack)["bias_ih"]
    for number in range(3):
        parts = stack.norms[number].weight, stack.norms[number].bias
        gain, shift = (part.detach().numpy() for part in parts)
        inner = weights(stack.layers[number])
        normalized = [norm(bin_, gain, shift) for bin_ in y]
        if place == "pre":
            y = y + np.array(rnn(inner, normalized))
        else:
            omega = stack.omegas[number].detach().numpy() if init == "admin" else 1.0
            y = np.array([norm(bin_, gain, shift) for bin_ in omega * y + np.array(rnn(inner, y))])
    np.testing.assert_allclose(found, y, rtol=0, atol=1e-12)
