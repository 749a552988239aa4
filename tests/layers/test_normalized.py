"""The GRU with a norm in its sockets: each place as a NumPy loop, and the kernels as the loop."""

from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from bci_decode.errors import BciDecodeError
from bci_decode.layers import LayerNormGRU, NormGRU
from bci_decode.layers.norms import NORMS, BatchNorm, LayerNorm, RMSNorm
from bci_decode.layers.places import PLACES
from bci_decode.models.decoder import Decoder

PAIRS = [
    (norm, place)
    for norm, place in itertools.product(NORMS, PLACES)
    if norm != "weight" or place in ("input", "recurrent", "apart")
]
KERNELS = ("apart", "sum", "sum2")


def made(norm="layer", place="sum", seed=0, trained=True, **options):
    """A float64 layer away from its initial values, in evaluation mode after training batches."""
    torch.manual_seed(seed)
    sizes = {"input_size": 5, "hidden_size": 7, "dtype": torch.float64}
    layer = NormGRU(**{**sizes, **options}, norm=norm, place=place)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for _ in range(3 * trained):
            layer(torch.randn(8, 8, layer.input_size, dtype=layer.weight_hh_l0.dtype))
    return layer.eval()


def inputs(bins=6, sequences=3, columns=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(bins, sequences, columns, dtype=torch.float64, generator=generator)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def by_the_equations(layer, x, h):
    """One layer in NumPy, bin by bin: x (T, B, I), h (B, H) -> y (T, B, H), the last state.

    A norm is called on one bin, as its own tests check it.
    """
    H, place, norms = layer.hidden_size, layer.place, layer.norms["l0"]

    def norm(name, a, t):
        return norms[name](torch.from_numpy(a), t).numpy() if name in norms else a

    def both(side, a, t):
        gates, candidate = a[:, : 2 * H], a[:, 2 * H :]
        return norm(f"{side}_gates", gates, t), norm(f"{side}_candidate", candidate, t)

    weights = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    matrices = {}
    for side in ("ih", "hh"):
        matrices[side] = norm(f"weight_{side}", weights[f"weight_{side}_l0"], 0)
    outputs = []
    for t, bin_ in enumerate(x):
        u = bin_ @ matrices["ih"].T + weights.get("bias_ih_l0", 0)
        a = h @ matrices["hh"].T + weights.get("bias_hh_l0", 0)
        if place == "sum":
            z, r, c = np.split(norm("sum", u + a, t), 3, axis=1)
            c = sigmoid(r) * c
        else:
            (gates_u, new_u), (gates_a, new_a) = both("input", u, t), both("recurrent", a, t)
            z, r = np.split(norm("gates", gates_u + gates_a, t), 2, axis=1)
            c = norm("candidate", new_u + sigmoid(r) * new_a, t)
        h = norm("state", (1 - sigmoid(z)) * h + sigmoid(z) * np.tanh(c), t)
        outputs.append(norm("outputs", h, t))
    return np.stack(outputs), h


def state_of(h, steps=0):
    """A state (1, B, H) for any norm: of a per-step one a tuple."""
    return lambda layer: (h, torch.full(h.shape[:2], steps)) if layer.per_step else h


@torch.no_grad()
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("norm", "place"), PAIRS)
def test_the_equations_of_each_place(norm, place, fused):
    layer, x, h = made(norm, place), inputs(), inputs(1, 3, 7, seed=2)
    layer.use_fused = fused
    with torch.enable_grad():  # without gradients kernels run only where training loaded them
        y, final = layer(x, state_of(h)(layer))
    y_true, h_true = by_the_equations(layer, x.numpy(), h[0].numpy())
    np.testing.assert_allclose(y.detach().numpy(), y_true, rtol=0, atol=1e-10)
    last = final[0] if layer.per_step else final
    np.testing.assert_allclose(last[0].detach().numpy(), h_true, rtol=0, atol=1e-10)


def test_the_gates_have_the_meaning_that_the_equations_say():
    """With an update bias of -20 the old state stays, with +20 the candidate replaces it."""
    h = inputs(1, 3, 7)
    for bias, old in ((-20.0, True), (20.0, False)):
        layer = NormGRU(5, 7, update_bias=bias, gain=0.1, dtype=torch.float64)
        y = layer(inputs(1), h)[0]
        assert torch.allclose(y, h, atol=1e-6) == old


def copied(reference, place, gains=True):
    """A NormGRU with the weights of a LayerNormGRU."""
    layer = NormGRU(
        5, 7, reference.num_layers, reference.bias, bidirectional=reference.bidirectional,
        norm="layer", place=place, gain=1.0 if gains else None, norm_bias=gains,
        dtype=torch.float64,
    )  # fmt: skip
    own = dict(layer.named_parameters())
    with torch.no_grad():
        for name, value in reference.named_parameters():
            if name in own:
                own[name].copy_(value)
                continue
            _, kind, side, suffix = name.split("_", 3)
            norms = layer.norms[suffix]
            if place == "apart":
                norms = [
                    n
                    for k, n in norms.items()
                    if k.startswith(("recurrent", "input")[side == "ih"])
                ]
            else:
                norms = list(norms.values())
            for norm, part in zip(norms, value.split([n.width for n in norms]), strict=True):
                getattr(norm, kind).copy_(part)
    return layer


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("place", KERNELS)
def test_layer_norm_is_that_of_the_layer_norm_gru(place, affine, fused):
    torch.manual_seed(0)
    options = {"num_layers": 2, "bidirectional": True, "dtype": torch.float64}
    reference = LayerNormGRU(5, 7, affine=affine, place=place, **options)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    layer = copied(reference, place, affine)
    layer.use_fused, reference.use_fused = fused, False
    x = inputs().requires_grad_()
    (y, h), (y_true, h_true) = layer(x), reference(x)
    torch.testing.assert_close(y, y_true, rtol=0, atol=1e-11)
    torch.testing.assert_close(h, h_true, rtol=0, atol=1e-11)
    weigh = inputs(6, 3, 14, seed=3)
    (found,) = torch.autograd.grad((y * weigh).sum(), x)
    (wanted,) = torch.autograd.grad((y_true * weigh).sum(), x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
    assert sum(p.numel() for p in layer.parameters()) == sum(
        p.numel() for p in reference.parameters()
    )


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("place", [place for place in PLACES if place != "sum"])
def test_without_a_norm_it_is_torchs_gru(place, fused):
    torch.manual_seed(0)
    options = {"num_layers": 2, "bidirectional": True, "dtype": torch.float64}
    layer, gru = NormGRU(5, 7, norm="none", place=place, **options), nn.GRU(5, 7, **options)
    layer.use_fused = fused
    assert [n for n, _ in layer.named_parameters()] == [n for n, _ in gru.named_parameters()]
    with torch.no_grad():
        for name, parameter in gru.named_parameters():
            r, z, n = parameter.chunk(3)
            getattr(layer, name).copy_(torch.cat([-z, r, n]))
    x, h = inputs(), inputs(4, 3, 7, seed=2)
    for found, wanted in zip(layer(x, h), gru(x, h), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


SERVED = [("layer", place) for place in (*KERNELS, "outputs")]
SERVED += [("none", "apart"), ("rms", "outputs"), ("batch_per_step", "outputs")]
SERVED += [("weight", place) for place in ("input", "recurrent", "apart")]
OPTIONS = [{}, {"bias": False}, {"gain": None}, {"norm_bias": False}]
OPTIONS += [{"gain": None, "norm_bias": False}, {"num_layers": 2, "bidirectional": True}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("norm", "place"), SERVED)
def test_the_kernels_give_what_the_loop_gives(norm, place, options):
    """Outputs and every gradient, over a batch and over windows."""
    found = []
    for fused in (False, True):
        layer = made(norm, place, trained=False, **options).train()
        assert layer.kernel_form == (place if place in KERNELS and norm == "layer" else "plain")
        layer.use_fused = fused
        bins = inputs(12, 1)[:, 0].requires_grad_()
        windows = torch.arange(6)[:, None] + torch.arange(0, 6, 2)
        y, _ = layer.forward_windows(bins, windows)
        weigh = inputs(6, 3, y.shape[-1], seed=3)
        grads = torch.autograd.grad((y * weigh).sum(), [bins, *layer.parameters()])
        found.append([y, *grads])
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(slow, fast, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "form"),
    [
        (lambda: NormGRU(5, 7, norm="layer", place="sum"), "sum"),
        (lambda: NormGRU(5, 7, norm="layer", place="state"), None),
        (lambda: NormGRU(5, 7, norm="rms", place="apart"), None),
        (lambda: NormGRU(5, 7, norm="none", place="sum"), None),
        (lambda: NormGRU(5, 7, norm="none", place="state"), "plain"),
        (lambda: NormGRU(5, 7, norm=lambda w: LayerNorm(w, eps=w), place="sum2"), None),
        (lambda: NormGRU(5, 7, norm=LayerNorm, place="apart"), "apart"),
    ],
)
def test_which_kernels_serve(make, form, caplog):
    layer = make()
    assert layer.kernel_form == form
    with caplog.at_level(logging.INFO, "bci_decode"):
        layer.prepare()
    said = f"NormGRU({layer.norm}, {layer.place}): runs the readable loop" in caplog.messages
    assert said == (form is None)


@pytest.mark.parametrize(("norm", "place"), PAIRS)
def test_every_parameter_gets_a_gradient(norm, place):
    layer = made(norm, place, num_layers=2).train()
    layer(inputs())[0].square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())
    without = {name for name, p in layer.named_parameters() if not p.grad.abs().max() > 1e-12}
    # a batch norm takes away any constant that is added before it
    centered = {"input": "ih", "recurrent": "hh", "apart": "ih hh", "sum": "ih hh", "sum2": "ih"}
    removed = centered.get(place, "").split() if norm in ("batch_per_step", "batch_shared") else []
    assert {name.rsplit("_", 1)[0] for name in without} <= {f"bias_{side}" for side in removed}


@torch.no_grad()
@pytest.mark.parametrize(("norm", "place"), PAIRS)
def test_step_by_step_equals_one_pass(norm, place):
    """The number of bins so far is part of the state where statistics depend on it."""
    layer, x = made(norm, place, num_layers=2, batch_first=True), inputs(3, 20)
    layer.use_fused = False
    y, final = layer(x)
    state, steps = None, []
    for t in range(x.shape[1]):
        step, state = layer(x[:, t : t + 1], state)
        steps.append(step)
    torch.testing.assert_close(torch.cat(steps, 1), y, rtol=0, atol=1e-12)
    torch.testing.assert_close(state, final, rtol=0, atol=1e-12)
    assert isinstance(final, tuple) == (norm == "batch_per_step")


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("norm", "place"), PAIRS)
def test_the_past_does_not_know_the_future(norm, place, dtype):
    layer, x = made(norm, place, num_layers=2).to(dtype), inputs(30, 8).to(dtype)
    changed = x.clone()
    changed[12] += 5
    y, other = layer(x)[0], layer(changed)[0]
    assert torch.equal(y[:12], other[:12])
    assert (y[12:] != other[12:]).any(dim=-1).all()


@pytest.mark.parametrize(("norm", "place"), PAIRS)
def test_windows_packed_sequences_and_layouts(norm, place):
    """What `StackedRecurrent` promises of every layer."""
    layer, x = made(norm, place, num_layers=2, bidirectional=True), inputs(20, 4)
    windows = torch.arange(5) + torch.arange(7)[:, None]
    (y, final), (y_true, final_true) = (
        layer.forward_windows(x[:, 0], windows), layer(x[:, 0][windows])
    )  # fmt: skip
    torch.testing.assert_close(y, y_true)
    torch.testing.assert_close(final, final_true)
    sequences = [x[:length, row] for row, length in enumerate((5, 2, 9, 5))]
    for sequence, found in zip(
        sequences,
        unpack_sequence(layer(pack_sequence(sequences, enforce_sorted=False))[0]),
        strict=True,
    ):
        torch.testing.assert_close(found, layer(sequence)[0])
    layer.batch_first = True
    torch.testing.assert_close(layer(x.transpose(0, 1))[0].transpose(0, 1)[:, 2], layer(x[:, 2])[0])


@torch.no_grad()
@pytest.mark.parametrize(("norm", "place"), PAIRS)
def test_a_state_dict_restores_the_layer(norm, place):
    layer, other = made(norm, place), made(norm, place, seed=5)
    assert not torch.equal(other(inputs())[0], layer(inputs())[0])
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(inputs())[0], layer(inputs())[0])


@torch.no_grad()
@pytest.mark.parametrize(("norm", "place"), [("batch_per_step", "sum"), ("batch_shared", "apart")])
def test_evaluation_of_a_batch_norm_knows_no_other_sequence(norm, place):
    layer, x = made(norm, place), inputs(20, 4)
    torch.testing.assert_close(layer(x)[0][:, 2:3], layer(x[:, 2:3])[0])
    layer.train()
    assert not torch.allclose(layer(x)[0][:, 2:3], layer(x[:, 2:3])[0])


def test_a_decoder_carries_the_step():
    def recurrent(input_size, batch_first):
        options = {"input_size": input_size, "batch_first": batch_first}
        return made("batch_per_step", "sum", **options)

    decoder = Decoder(recurrent, nn.Linear, input_size=5, output_size=2).double().eval()
    x = inputs(2, 9)
    first, carried = decoder(x[:, :4])
    y = decoder(x)[0]
    torch.testing.assert_close(torch.cat([first, decoder(x[:, 4:], carried)[0]], 1), y)
    assert carried[1].tolist() == [[4, 4]]
    unequal = carried[0], torch.tensor([[4, 3]])
    with pytest.raises(ValueError, match="different numbers of bins so far"):
        decoder(x, unequal)


def test_a_norm_of_ones_own():
    class Halved(nn.Module):
        def __init__(self, width):
            super().__init__()

        def forward(self, a, step):
            return a / 2

    layer, plain = made(Halved, "outputs"), made("none", "outputs")
    torch.testing.assert_close(2 * layer(inputs())[0], plain(inputs())[0])
    assert layer.norm == "Halved" and "place=outputs" in repr(layer)
    steps = made(lambda width: BatchNorm(width, steps=3), "sum")
    assert steps.norms["l0"]["sum"].mean.shape == (3, 21)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"norm": "leyer"},
            "model.recurrent.norm: is 'leyer'; choose none, layer, rms, batch_per_step, "
            "batch_shared, batch_layer, ada or weight",
        ),
        (
            {"place": "middle"},
            "model.recurrent.place: is 'middle'; choose input, recurrent, apart, sum, sum2, "
            "state or outputs",
        ),
        (
            {"norm": "weight", "place": "sum"},
            "model.recurrent.norm: 'weight' acts on weights and cannot stand at 'sum'; choose "
            "model.recurrent.place=input, recurrent or apart, or another norm",
        ),
        (
            {"norm_bias": False, "bias": False, "update_bias": -1.0},
            "model.recurrent.update_bias: there is no bias that it could be the initial value of; "
            "set it to 0, or model.recurrent.bias=true and model.recurrent.norm_bias=true",
        ),
    ],
)
def test_mistakes_are_one_line(options, line):
    with pytest.raises(BciDecodeError) as refusal:
        NormGRU(5, 7, **options)
    assert str(refusal.value) == line


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("norm", ["layer", "none"])
def test_the_update_bias_is_a_constant_of_the_update_gate(norm, place):
    torch.manual_seed(0)
    plain = NormGRU(5, 7, norm=norm, place=place)
    torch.manual_seed(0)
    biased = NormGRU(5, 7, norm=norm, place=place, update_bias=-2.0)
    pairs = zip(plain.parameters(), biased.parameters(), strict=True)
    changes = [(b - a) for a, b in pairs if not torch.equal(a, b)]
    assert len(changes) == 1
    torch.testing.assert_close(changes[0][:7], torch.full((7,), -2.0))
    assert (changes[0][7:] == 0).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: NormGRU(0, 7), "input_size is 0"),
        (lambda: NormGRU(5, 7, dropout=2), "dropout is 2"),
        (lambda: NormGRU(5, 7)(torch.zeros(3, 2, 6)), "6 columns"),
    ],
)
def test_bad_calls(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_eps_and_gain_reach_the_norms():
    layer = NormGRU(5, 7, norm="rms", place="apart", eps=0.3, gain=0.2, norm_bias=False)
    made_norms = [norm for norm in layer.modules() if isinstance(norm, RMSNorm)]
    assert len(made_norms) == 4
    assert all(n.eps == 0.3 and (n.gain == 0.2).all() and n.bias is None for n in made_norms)
