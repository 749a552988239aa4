"""The stack carries any layer: an LSTM's two states, a linear recurrence with a complex state."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, unpack_sequence
from toys import ZOO, made_layer, made_zoo_layer

from bci_decode.layers import GRU, LayerNormGRU, StackedRecurrent
from bci_decode.layers.weights import gate_weights, layer_names
from bci_decode.models.decoder import Decoder

SHAPES = [(layers, both) for layers in (1, 2) for both in (False, True)]


class ToyLSTM(StackedRecurrent):
    """The loop of `torch.nn.LSTM`, with the weights of one."""

    def __init__(self, lstm: nn.LSTM):
        super().__init__()
        for name in ("input_size", "hidden_size", "num_layers", "batch_first", "bidirectional"):
            setattr(self, name, getattr(lstm, name))
        self.dropout = lstm.dropout
        for name, parameter in lstm.named_parameters():
            self.register_parameter(name, parameter)

    @property
    def state_shapes(self):
        return (self.hidden_size,), (self.hidden_size,)

    def _run_direction(self, x, state, suffix, index):
        x = x if index is None else x[index]
        h, c = state or (x.new_zeros(x.shape[1], self.hidden_size) for _ in range(2))
        inputs, recurrent = (gate_weights(self, side, suffix) for side in ("ih", "hh"))
        states = []
        for bin_ in x:
            a = nn.functional.linear(bin_, inputs.weight, inputs.bias)
            a = a + nn.functional.linear(h, recurrent.weight, recurrent.bias)
            i, f, g, o = a.chunk(4, dim=-1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            states.append(h)
        return torch.stack(states), (h, c)


class ToyLinear(StackedRecurrent):
    """h = decay h + B x, y = Re(C h): a complex state of 4 values, an output of 3."""

    output_size = 3
    state_shapes = ((4,),)

    def __init__(self, input_size, num_layers=1, batch_first=False, bidirectional=False):
        super().__init__()
        self.input_size, self.num_layers, self.dropout = input_size, num_layers, 0.0
        self.batch_first, self.bidirectional = batch_first, bidirectional
        for name in layer_names(self):
            inputs = input_size if name.startswith("l0") else 3 * (1 + bidirectional)
            for kind, shape in (("decay", (4,)), ("B", (4, inputs)), ("C", (3, 4))):
                value = 0.5 * torch.randn(shape, dtype=torch.complex128)
                self.register_parameter(f"{kind}_{name}", nn.Parameter(value))

    def _run_direction(self, x, state, suffix, index):
        x = x if index is None else x[index]
        decay, b, c = (getattr(self, f"{kind}_{suffix}") for kind in ("decay", "B", "C"))
        h, outputs = torch.zeros((), dtype=decay.dtype) if state is None else state, []
        for bin_ in x.to(decay.dtype):
            h = decay * h + bin_ @ b.T
            outputs.append((h @ c.T).real)
        return torch.stack(outputs), h


def layer_and_input(kind, bins=6, sequences=3, **options):
    torch.manual_seed(0)
    if kind in ZOO:
        layer = made_zoo_layer(kind, **options)
    elif kind is ToyLSTM:
        layer = ToyLSTM(nn.LSTM(5, 7, dtype=torch.float64, **options))
    else:
        layer = ToyLinear(5, **options) if kind is ToyLinear else made_layer(**options)
    return layer, torch.randn(bins, sequences, 5, dtype=torch.float64)


def tensors(state):
    return (state,) if isinstance(state, torch.Tensor) else state


def like(state, function):
    return function(state) if isinstance(state, torch.Tensor) else tuple(map(function, state))


@pytest.mark.parametrize(("num_layers", "bidirectional"), SHAPES)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
def test_a_state_of_two_tensors(num_layers, bidirectional, batch_first, batched, with_state):
    torch.manual_seed(0)
    lstm = nn.LSTM(
        5, 7, num_layers, batch_first=batch_first, bidirectional=bidirectional, dtype=torch.float64
    )
    batch = (3,) if batched else ()
    x = torch.randn((3, 6, 5) if batched and batch_first else (6, *batch, 5), dtype=torch.float64)
    rows = num_layers * (1 + bidirectional)
    hx = tuple(torch.randn(rows, *batch, 7, dtype=torch.float64) for _ in range(2))
    (y, (h, c)) = ToyLSTM(lstm)(x, hx if with_state else None)
    y_true, (h_true, c_true) = lstm(x, hx if with_state else None)
    for found, expected in ((y, y_true), (h, h_true), (c, c_true)):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def linear_by_sums(layer, name, x, h0):
    """Every output of one direction as the sum over all bins before it, and the final state."""
    decay, b, c = (getattr(layer, f"{kind}_{name}") for kind in ("decay", "B", "C"))
    bins = range(len(x))
    states = [
        h0 * decay ** (t + 1)
        + sum(decay ** (t - s) * (x[s].to(b.dtype) @ b.T) for s in bins if s <= t)
        for t in bins
    ]
    return torch.stack([(h @ c.T).real for h in states]), states[-1]


@pytest.mark.parametrize(("num_layers", "bidirectional"), SHAPES)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
def test_a_complex_state_and_an_output_of_another_width(
    num_layers, bidirectional, batch_first, with_state
):
    options = {"num_layers": num_layers, "bidirectional": bidirectional, "batch_first": batch_first}
    layer, x = layer_and_input(ToyLinear, **options)
    hx = torch.randn(num_layers * (1 + bidirectional), 3, 4, dtype=torch.complex128) * with_state
    y, final = layer(x.transpose(0, 1) if batch_first else x, hx if with_state else None)
    seen, finals = x, []
    for number in range(num_layers):
        outputs = []
        for name in [n for n in layer_names(layer) if n.startswith(f"l{number}")]:
            flip = [0] if name.endswith("reverse") else []
            output, h = linear_by_sums(layer, name, seen.flip(flip), hx[len(finals)])
            outputs.append(output.flip(flip))
            finals.append(h)
        seen = torch.cat(outputs, dim=-1)
    torch.testing.assert_close(y.transpose(0, 1) if batch_first else y, seen)
    torch.testing.assert_close(final, torch.stack(finals))
    one, final_of_one = layer(x[:, 1], hx[:, 1] if with_state else None)
    torch.testing.assert_close(one, seen[:, 1])
    torch.testing.assert_close(final_of_one, final[:, 1])


@pytest.mark.parametrize("kind", [ToyLSTM, ToyLinear, LayerNormGRU, *ZOO])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_windows_of_any_layer(kind, bidirectional):
    layer, x = layer_and_input(kind, 20, num_layers=2, bidirectional=bidirectional)
    bins, windows = x[:, 0], torch.arange(5) + torch.arange(7)[:, None]
    (y, final), (y_true, final_true) = layer.forward_windows(bins, windows), layer(bins[windows])
    torch.testing.assert_close(y, y_true)
    torch.testing.assert_close(final, final_true)


@pytest.mark.parametrize("kind", [ToyLSTM, ToyLinear, *ZOO])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_decoder_takes_any_layer(kind, bidirectional):
    def recurrent(input_size, batch_first):
        options = {"batch_first": batch_first, "bidirectional": bidirectional}
        return layer_and_input(kind, **options)[0]

    decoder = Decoder(recurrent, nn.Linear, input_size=5, output_size=2).double()
    x = torch.randn(2, 9, 5, dtype=torch.float64)
    y = decoder(x)[0]
    assert y.shape == (2, 9, 2)
    if not bidirectional:
        first, carried = decoder(x[:, :4])
        torch.testing.assert_close(torch.cat([first, decoder(x[:, 4:], carried)[0]], 1), y)
    windows = torch.arange(5)[:, None] + torch.arange(4)
    torch.testing.assert_close(decoder.forward_windows(x[0], windows), decoder(x[0][windows])[0])


@pytest.mark.parametrize("kind", ZOO)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
def test_batch_first_and_one_sequence(kind, bidirectional, with_state):
    options = {"num_layers": 2, "bidirectional": bidirectional}
    layer, x = layer_and_input(kind, **options)
    hx = like(layer(x)[1], torch.rand_like) if with_state else None
    y, final = layer(x, hx)
    swapped = layer_and_input(kind, **options, batch_first=True)[0]
    y_swapped, final_swapped = swapped(x.transpose(0, 1), hx)
    torch.testing.assert_close(y_swapped.transpose(0, 1), y)
    torch.testing.assert_close(final_swapped, final)
    own = None if hx is None else like(hx, lambda h: h[:, 1])
    y_one, final_one = layer(x[:, 1], own)
    torch.testing.assert_close(y_one, y[:, 1])
    torch.testing.assert_close(final_one, like(final, lambda h: h[:, 1]))


@pytest.mark.parametrize("kind", [ToyLSTM, ToyLinear, LayerNormGRU, *ZOO])
@pytest.mark.parametrize(("num_layers", "bidirectional"), SHAPES)
@pytest.mark.parametrize("enforce_sorted", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
def test_packed_sequences_are_as_each_alone(
    kind, num_layers, bidirectional, enforce_sorted, with_state
):
    layer, x = layer_and_input(kind, 9, 4, num_layers=num_layers, bidirectional=bidirectional)
    lengths = (9, 5, 5, 2) if enforce_sorted else (5, 2, 9, 5)
    sequences = [x[:length, row] for row, length in enumerate(lengths)]
    hx = like(layer(x)[1], torch.rand_like) if with_state else None
    packed = pack_sequence(sequences, enforce_sorted)
    y, final = layer(packed, hx)
    for place in (1, 2, 3):
        assert packed[place] is y[place] is None or torch.equal(packed[place], y[place])
    for row, (sequence, found) in enumerate(zip(sequences, unpack_sequence(y), strict=True)):
        own = None if hx is None else like(hx, lambda h: h[:, row])  # noqa: B023
        expected, last = layer(sequence, own)
        torch.testing.assert_close(found, expected)
        for a, b in zip(tensors(final), tensors(last), strict=True):
            torch.testing.assert_close(a[:, row], b)


def test_packed_sequences_have_gradients():
    layer, x = layer_and_input(LayerNormGRU, 9, 2)
    sequences = [x[:, 0], x[:4, 1]]
    alone = sum(layer(sequence)[0].square().sum() for sequence in sequences)
    packed = layer(pack_sequence(sequences))[0].data.square().sum()
    weights = list(layer.parameters())
    pairs = zip(
        torch.autograd.grad(packed, weights), torch.autograd.grad(alone, weights), strict=True
    )
    for found, expected in pairs:
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("hx", "words"),
    [
        (torch.zeros(1, 3, 7), r"hx has shape \(1, 3, 7\), .* \(1, 3, 7\) and \(1, 3, 7\)"),
        ((torch.zeros(1, 3, 7), torch.zeros(1, 2, 7)), r"\(1, 2, 7\), this input needs"),
    ],
)
def test_a_state_of_another_shape_is_refused(hx, words):
    layer, x = layer_and_input(ToyLSTM)
    with pytest.raises(ValueError, match=words):
        layer(x, hx)


def test_code_for_torchs_gru_may_flatten():
    layer = LayerNormGRU(4, 8)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.flatten_parameters()
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())
    assert GRU.flatten_parameters is nn.GRU.flatten_parameters


class Outputs(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0]


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated
def test_scripting():
    """A script cannot call even a `torch.nn.GRU` directly, only inside another module."""
    gru, x = GRU(4, 8, 2), torch.randn(9, 3, 4)
    scripted = torch.jit.script(Outputs(gru))
    assert type(gru) is GRU
    assert scripted.layer.weight_hh_l0.data_ptr() == gru.weight_hh_l0.data_ptr()
    torch.testing.assert_close(scripted(x), gru(x)[0])
    for module in (LayerNormGRU(4, 8), Outputs(LayerNormGRU(4, 8))):
        with pytest.raises(
            NotImplementedError, match=r"cannot compile LayerNormGRU: use torch.jit"
        ):
            torch.jit.script(module)
