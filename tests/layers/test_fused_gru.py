"""The compiled kernels against the loop that defines them: same outputs and gradients."""

from __future__ import annotations

import copy
import gc
import threading

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from bci_decode.layers import GRU, LayerNormGRU
from bci_decode.layers.cpu import autograd, kernels

SIZES = [(1, 1, 1, 1), (1, 3, 5, 4), (7, 1, 5, 4), (23, 4, 33, 6), (12, 16, 64, 30)]  # T, B, H, I


def pair(kind, inputs, hidden, dtype=torch.float64, seed=0, **options):
    """A layer in `dtype` and its float64 reference: the Python loop, or torch.nn.GRU."""
    torch.manual_seed(seed)
    if kind is GRU:
        reference = nn.GRU(inputs, hidden, dtype=torch.float64, **options)
    else:
        reference = LayerNormGRU(inputs, hidden, dtype=torch.float64, **options)
        reference.use_fused = False
        with torch.no_grad():
            for parameter in reference.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    fast = kind(inputs, hidden, dtype=dtype, **options)
    fast.load_state_dict(reference.state_dict())
    return fast, reference


def results(layer, x, h, seed=1):
    """y, h and all gradients of a loss that weighs each output by its own factor."""
    dtype = next(layer.parameters()).dtype
    x = x.to(dtype).requires_grad_()
    h = None if h is None else h.to(dtype).requires_grad_()
    y, final = layer(x, h)
    random = torch.Generator().manual_seed(seed)
    loss = sum(
        (a * torch.randn(a.shape, generator=random, dtype=torch.float64).to(dtype)).sum()
        for a in (y, final)
    )
    inputs = [x, *([] if h is None else [h]), *layer.parameters()]
    return [y, final, *torch.autograd.grad(loss, inputs)]


def error(found, expected):
    """The largest relative error (Frobenius) among the results."""
    return max(
        ((a - b).norm() / (b.norm() + 1e-12)).item() for a, b in zip(found, expected, strict=True)
    )


def gives_the_same(kind, dtype, tolerance, size, x=None, with_h=True, **options):
    bins, batch, hidden, inputs = size
    fast, reference = pair(kind, inputs, hidden, dtype, **options)
    if x is None:
        shape = (batch, bins, inputs) if options.get("batch_first") else (bins, batch, inputs)
        x = torch.randn(shape, dtype=torch.float64)
    states = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    h = torch.randn(states, batch, hidden, dtype=torch.float64) if with_h else None
    assert error(results(fast, x, h), results(reference, x, h)) < tolerance


NORMS = [{"affine": affine, "bias": bias} for affine in (True, False) for bias in (True, False)]
SUMS = [
    {"affine": affine, "bias": affine, "place": place}
    for place in ("sum", "sum2")
    for affine in (True, False)
]
LAYERS = [(LayerNormGRU, options) for options in NORMS + SUMS] + [
    (GRU, {"bias": True}),
    (GRU, {"bias": False}),
]


@pytest.mark.parametrize(
    ("kind", "options", "size"),
    # LayerNorm of a single unit is its bias, for any input: nothing to compare
    [(*layer, size) for layer in LAYERS for size in SIZES if size[2] > 1 or layer[0] is GRU],
    ids=str,
)
def test_outputs_and_gradients_in_float64(kind, options, size):
    gives_the_same(kind, torch.float64, 1e-12, size, **options)


@pytest.mark.parametrize("size", SIZES[3:], ids=str)
@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_outputs_and_gradients_in_float32(kind, options, size):
    gives_the_same(kind, torch.float32, 1.5e-6, size, **options)


@pytest.mark.parametrize("with_h", [False, True])
@pytest.mark.parametrize(
    "options",
    [{"num_layers": 3}, {"bidirectional": True}, {"num_layers": 2, "bidirectional": True}],
)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", [LayerNormGRU, GRU])
def test_layers_directions_and_layouts(kind, options, batch_first, with_h):
    gives_the_same(
        kind, torch.float64, 1e-10, (9, 3, 8, 4), with_h=with_h, batch_first=batch_first, **options
    )


@pytest.mark.parametrize("kind", [LayerNormGRU, GRU])
def test_inputs_that_are_not_contiguous(kind):
    x = torch.randn(4, 30, 6, dtype=torch.float64).transpose(0, 1)[::2, :, 1:5]
    gives_the_same(kind, torch.float64, 1e-10, (15, 4, 8, 4), x=x)
    gives_the_same(
        kind,
        torch.float64,
        1e-10,
        (15, 4, 8, 4),
        x=torch.ones(4, dtype=torch.float64).expand(15, 4, 4),
    )


@pytest.mark.parametrize("kind", [LayerNormGRU, GRU])
def test_a_sequence_without_batch(kind):
    fast, reference = pair(kind, 4, 8)
    x = torch.randn(9, 4, dtype=torch.float64)
    assert error(results(fast, x, None), results(reference, x, None)) < 1e-10


@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_gradcheck(kind, options):
    torch.manual_seed(0)
    layer = kind(3, 4, dtype=torch.float64, **options)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    h = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]
    values = [torch.randn_like(parameter).requires_grad_() for parameter in layer.parameters()]

    def run(x, h, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x, h))

    assert torch.autograd.gradcheck(run, (x, h, *values))


@pytest.mark.parametrize("kind", [LayerNormGRU, GRU])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_windows_that_share_bins(kind, bidirectional, batch_first):
    fast, reference = pair(
        kind, 4, 8, num_layers=2, bidirectional=bidirectional, batch_first=batch_first
    )
    bins = torch.randn(20, 4, dtype=torch.float64, requires_grad=True)
    # (B, T), bins 0 to 2 and 14 to 19 in none
    windows = torch.arange(5)[:, None] + torch.arange(7) + 3
    windows[0] = 19  # one bin, seven times in one window
    index = windows if batch_first else windows.t()
    (y, h), (y_true, h_true) = fast.forward_windows(bins, index), reference(bins[index])
    gradients = [
        torch.autograd.grad(a.sin().sum() + b.cos().sum(), [bins, *layer.parameters()])
        for layer, a, b in ((fast, y, h), (reference, y_true, h_true))
    ]
    assert error([y, h, *gradients[0]], [y_true, h_true, *gradients[1]]) < 1e-10


def test_windows_without_the_fast_path():
    layer = LayerNormGRU(4, 8, batch_first=True)
    layer.use_fused = False
    bins, windows = torch.randn(20, 4), torch.arange(5)[:, None] + torch.arange(7)
    assert torch.equal(layer.forward_windows(bins, windows)[0], layer(bins[windows])[0])


def test_second_derivatives_are_refused():
    layer, x = LayerNormGRU(3, 4), torch.randn(5, 2, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="no second derivatives: set its use_fused = False"):
        torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)
    layer.use_fused = False
    (first,) = torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)
    first.sum().backward()


@pytest.mark.parametrize("kind", [LayerNormGRU, GRU])
def test_passes_do_not_disturb_each_other(kind):
    """Two forwards before a backward, two backwards, a deleted graph, a model of the same sizes."""
    (one, _), (other, _) = pair(kind, 4, 8), pair(kind, 4, 8, seed=5)
    x1, x2 = torch.randn(2, 9, 3, 4, dtype=torch.float64)
    alone = [
        torch.autograd.grad(layer(x)[0].sin().sum(), layer.parameters())
        for layer, x in ((one, x1), (other, x2))
    ]
    y1, y2, y3 = one(x1)[0], other(x2)[0], one(x1)[0]
    second = torch.autograd.grad(y2.sin().sum(), other.parameters())
    first = torch.autograd.grad(y1.sin().sum(), one.parameters(), retain_graph=True)
    del y3
    gc.collect()
    other(x2)[0].sum().backward()
    again = torch.autograd.grad(y1.sin().sum(), one.parameters())
    for found, expected in ((first, alone[0]), (again, alone[0]), (second, alone[1])):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_threads_do_not_disturb_each_other():
    layers = [pair(LayerNormGRU, 4, 16, seed=seed)[0] for seed in range(4)]
    inputs = torch.randn(4, 30, 3, 4, dtype=torch.float64)

    def gradients(layer, x):
        return torch.autograd.grad(layer(x)[0].sin().sum(), layer.parameters())

    expected = [gradients(layer, x) for layer, x in zip(layers, inputs, strict=True)]
    wrong: list[int] = []

    def work(number):
        for _ in range(20):
            found = gradients(layers[number], inputs[number])
            if not all(torch.equal(a, b) for a, b in zip(found, expected[number], strict=True)):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_gradient_is_not_overwritten_by_the_next_backward():
    layer, _ = pair(LayerNormGRU, 4, 8)
    x, h = (
        torch.randn(9, 3, 4, dtype=torch.float64),
        torch.randn(1, 3, 8, dtype=torch.float64, requires_grad=True),
    )
    (first,) = torch.autograd.grad(layer(x, h)[0].sum(), h)
    kept = first.clone()
    torch.autograd.grad(layer(x, 2 * h)[0].square().sum(), h)
    assert torch.equal(first, kept)


@pytest.mark.parametrize(
    ("kind", "options", "gain", "scale"),
    [
        (LayerNormGRU, {"bias": False}, 0.01, 1.0),
        (LayerNormGRU, {"bias": False}, 1e-3, 1.0),
        (LayerNormGRU, {"bias": False}, 1.0, 1e-4),
        (GRU, {"bias": False}, 1.0, 1e-2),
        (GRU, {"bias": False}, 1.0, 1e-6),
    ],
)
def test_float32_keeps_its_precision_where_all_is_small(kind, options, gain, scale):
    """Held against the loop's own error, since small numbers are inexact by themselves."""
    torch.manual_seed(0)
    layers = {
        dtype: (nn.GRU if kind is GRU else kind)(30, 64, dtype=dtype, **options)
        for dtype in (torch.float64, torch.float32)
    }
    fast = kind(30, 64, **options)
    if kind is LayerNormGRU:
        for layer in (*layers.values(), fast):
            layer.use_fused = layer is fast
            for name, parameter in layer.named_parameters():
                if name.startswith("norm_gain"):
                    nn.init.constant_(parameter, gain)
    layers[torch.float64].load_state_dict(fast.state_dict())
    layers[torch.float32].load_state_dict(fast.state_dict())
    x = scale * torch.randn(12, 16, 30, dtype=torch.float64)
    true = results(layers[torch.float64], x, None)
    assert error(results(fast, x, None), true) < max(
        2e-6, 3 * error(results(layers[torch.float32], x, None), true)
    )


# tracing is deprecated, and warns of every shape that it takes for fixed
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [LayerNormGRU, GRU])
def test_what_is_not_plain_goes_by_the_operations_one_by_one(kind):
    layer, x = kind(4, 8), torch.randn(9, 3, 4)
    y = layer(x)[0]
    with pytest.raises((RuntimeError, ValueError)):
        layer(x.double())
    torch.testing.assert_close(torch.jit.trace(layer, (x,), check_trace=False)(x)[0], y)
    torch.testing.assert_close(torch.compile(layer, backend="eager")(x)[0], y)
    with FakeTensorMode():
        assert kind(6, 24)(torch.randn(9, 3, 6))[0].shape == (9, 3, 24)
    assert kind(6, 24)(torch.randn(9, 3, 6))[0].isfinite().all()
    with torch.device("meta"):
        torch.testing.assert_close(kind(4, 8, device="cpu")(x)[0].shape, y.shape)
    torch.testing.assert_close(layer(x)[0], y, msg="nothing of it stays behind")


def test_a_backward_inside_autocast_is_in_full_precision():
    layer = LayerNormGRU(30, 64)
    x = torch.randn(12, 16, 30)
    expected = torch.autograd.grad(layer(x)[0].square().sum(), layer.parameters())
    loss = layer(x)[0].square().sum()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(loss, layer.parameters())
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_subclass_with_another_norm_is_asked():
    class Halved(LayerNormGRU):
        def normalize(self, a, gain, shift):
            return super().normalize(a, gain, shift) / 2

    layer = Halved(4, 8)
    x = torch.randn(9, 3, 4)
    y = layer(x)[0]
    layer.use_fused = False
    assert torch.equal(layer(x)[0], y)


def test_windows_without_a_bin_are_refused():
    with pytest.raises(ValueError, match="hold no bin"):
        LayerNormGRU(4, 8).forward_windows(torch.randn(9, 4), torch.zeros(0, 3, dtype=torch.long))


def test_saved_tensor_hooks_and_checkpointing():
    layer, _ = pair(LayerNormGRU, 4, 8)
    x = torch.randn(9, 3, 4, dtype=torch.float64, requires_grad=True)

    def gradients(y):
        return torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()])

    expected = gradients(layer(x)[0])
    with torch.autograd.graph.save_on_cpu():
        y = layer(x)[0]
    layer(x + 1)[0].sum().backward()  # takes the memory that was given back
    for found in (
        gradients(y),
        gradients(checkpoint(lambda x: layer(x)[0], x, use_reentrant=False)),
    ):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", [LayerNormGRU, GRU])
@pytest.mark.parametrize("with_h", [False, True])
def test_sequences_longer_than_a_chunk(kind, with_h):
    size = (2 * kernels.CHUNK + 3, 1, 5, 4)
    gives_the_same(kind, torch.float64, 1e-12, size, with_h=with_h)
    gives_the_same(kind, torch.float64, 1e-12, (3, kernels.CHUNK + 9, 5, 4), with_h=with_h)


@pytest.mark.parametrize("kind", [LayerNormGRU, GRU])
def test_a_batch_of_none(kind):
    fast, reference = pair(kind, 4, 8)
    x = torch.zeros(9, 0, 4, dtype=torch.float64)
    if kind is LayerNormGRU:
        assert fast(x)[0].shape == reference(x)[0].shape == (9, 0, 8)
    fast(x)[0].sum().backward()
    assert not fast.weight_hh_l0.grad.any()
    h = torch.zeros(1, 0, 8, dtype=torch.float64, requires_grad=True)
    fast(x, h)[0].sum().backward()
    assert h.grad.shape == h.shape


def test_frozen_parameters_get_no_gradient():
    layer, reference = pair(LayerNormGRU, 4, 8)
    x = torch.randn(9, 3, 4, dtype=torch.float64)
    for made in (layer, reference):
        made.weight_hh_l0.requires_grad_(False)
        made(x)[0].sin().sum().backward()
    assert layer.weight_hh_l0.grad is None
    assert torch.allclose(layer.weight_ih_l0.grad, reference.weight_ih_l0.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [LayerNormGRU, GRU])
def test_bfloat16_autocast_runs_and_is_near(kind):
    """Its error is bfloat16's, 8 bits of mantissa, and far from float32's."""
    layer, reference = pair(kind, 30, 64, torch.float32)
    x = torch.randn(12, 16, 30, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x.float())[0]
    assert y.dtype in (torch.bfloat16, torch.float32)
    assert 1e-5 < error([y.double()], [reference(x)[0]]) < 0.03
    y.float().sum().backward()


def test_a_copy_and_a_checkpoint_are_the_same_layer():
    layer, reference = pair(LayerNormGRU, 4, 8)
    assert list(layer.state_dict()) == list(reference.state_dict())
    x = torch.randn(9, 3, 4, dtype=torch.float64)
    assert torch.equal(copy.deepcopy(layer)(x)[0], layer(x)[0])
    gru = GRU(4, 8, 2, bidirectional=True)
    nn.GRU(4, 8, 2, bidirectional=True).load_state_dict(gru.state_dict(), strict=True)


def test_packed_sequences_go_to_torch():
    gru = GRU(4, 8)
    packed = nn.utils.rnn.pack_sequence([torch.randn(5, 4), torch.randn(3, 4)])
    torch_gru = nn.GRU(4, 8)
    torch_gru.load_state_dict(gru.state_dict())
    assert torch.equal(gru(packed)[0].data, torch_gru(packed)[0].data)


def test_dropout_between_layers_draws_as_torch_does():
    gru, torch_gru = GRU(4, 8, 2, dropout=0.5), nn.GRU(4, 8, 2, dropout=0.5)
    torch_gru.load_state_dict(gru.state_dict())
    x = torch.randn(9, 3, 4)
    outputs = []
    for layer in (gru, torch_gru):
        torch.manual_seed(0)
        outputs.append(layer(x)[0])
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize(("kind", "options"), [*LAYERS[:1], *LAYERS[4::2]])
def test_nan_and_infinity_pass_through(kind, options):
    """To the outputs that depend on them and to no other."""
    layer, _ = pair(kind, 4, 8, torch.float32, **options)
    for value in (float("nan"), float("inf")):
        x = torch.randn(9, 3, 4)
        clean = layer(x)[0]
        x[4, 1, 2] = value
        x.requires_grad_()
        y = layer(x)[0]
        assert torch.equal(y[:4], clean[:4]) and torch.equal(y[:, 0], clean[:, 0])
        if kind is GRU and value > 0:  # a gate may saturate: the loop's finite values are right
            reference = nn.GRU(4, 8, **options)
            reference.load_state_dict(layer.state_dict())
            torch.testing.assert_close(y, reference(x)[0], equal_nan=True)
        else:
            assert y[4:, 1].isnan().all()
            y[:, 1].sum().backward()
            assert layer.weight_hh_l0.grad.isnan().any() and x.grad[:, 1].isnan().any()
        layer.zero_grad()


@pytest.mark.parametrize(("kind", "options"), [*LAYERS[:1], *LAYERS[4::2]])
def test_an_output_has_the_same_bits_whatever_is_beside_or_after_it(kind, options):
    layer, _ = pair(kind, 37, 30, torch.float32, **options)
    x = torch.randn(600, 21, 37)
    y = layer(x)[0]
    changed = x.clone()
    changed[400:] += 1
    assert torch.equal(layer(changed)[0][:400], y[:400])
    assert torch.equal(layer(x[:400])[0], y[:400]), "a shorter sequence"
    assert torch.equal(layer(x[:, 20:])[0], y[:, 20:]), "a sequence alone"
    with torch.no_grad():
        assert torch.equal(layer(x)[0], y), "no gradient"
    windows = torch.arange(600)[:, None].expand(600, 2)
    assert torch.equal(layer.forward_windows(x[:, 20], windows)[0][:, 1], y[:, 20]), "by index"


@pytest.mark.parametrize("batch", [16, 25, 40])
@pytest.mark.parametrize("shared_bins", [False, True])
def test_two_threads_give_the_bits_of_one(monkeypatch, batch, shared_bins):
    monkeypatch.setattr(autograd, "MIN_SHARED", 1)
    pools = []
    pool = autograd.ThreadPoolExecutor
    monkeypatch.setattr(autograd, "ThreadPoolExecutor", lambda n: pools.append(n) or pool(n))
    layer, reference = pair(LayerNormGRU, 5, 16, torch.float64)
    x = torch.randn(7, batch, 5, dtype=torch.float64)
    bins = torch.randn(30, 5, dtype=torch.float64)
    index = torch.randint(0, 30, (7, batch))

    def gradients(layer):
        y = layer.forward_windows(bins, index)[0] if shared_bins else layer(x)[0]
        return [y, *torch.autograd.grad(y.sin().sum(), layer.parameters())]

    found = {}
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found[threads] = gradients(layer)
            with torch.no_grad():
                found[threads].append(layer(x.repeat(20, 1, 1))[0])
    finally:
        torch.set_num_threads(before)
    assert pools == [1, 1, 1], "two forwards and a backward with a second thread"
    assert all(torch.equal(a, b) for a, b in zip(found[1], found[2], strict=True))
    assert error(found[1][:-1], gradients(reference)) < 1e-12


def test_an_error_in_the_second_thread_is_raised():
    def work(share, first, last):
        if share:
            raise MemoryError("no memory for the second share")

    call = object.__new__(autograd._Call)
    call.sizes = (64, 64, 1, 64)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(MemoryError, match="second share"):
            call._share(work)
    finally:
        torch.set_num_threads(before)


def test_windows_outside_of_the_bins_are_refused():
    layer = LayerNormGRU(4, 8)
    for wrong in (9, -1):
        with pytest.raises(IndexError, match="there are 0 to 8"):
            layer.forward_windows(torch.randn(9, 4), torch.tensor([[0], [wrong]]))
