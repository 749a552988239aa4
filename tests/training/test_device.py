"""Training on a GPU: it never waits for the device inside an epoch, repeats and resumes.

Without a GPU, PyTorch's device "meta" stands in for the first: it computes shapes alone, so that
every value which the processor asks of it is an error.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from toys import made_data, made_decoder, made_trainer

from bci_decode.data.parts import Window
from bci_decode.layers import GRU, LayerNormGRU
from bci_decode.models.decoder import Decoder
from bci_decode.training import trainer as training
from bci_decode.training.reproducible import reproducible

GPU = torch.cuda.is_available()
DEVICES = ["meta", pytest.param("cuda", marks=pytest.mark.skipif(not GPU, reason="needs a GPU"))]
WINDOWS = [Window("sequence", 20, 10, 3), Window("history", 5, 1, 4)]
READS = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select"}


class Waits(TorchDispatchMode):
    """Collects the operations that read values of a device other than the CPU."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        device = next((a.device.type for a in arguments if isinstance(a, torch.Tensor)), "cpu")
        name = function.overloadpacket.__name__
        copies = name == "_to_copy" and (named or {}).get("device") == torch.device("cpu")
        if device != "cpu" and (name in READS or copies):
            self.found.add(name)
        return function(*arguments, **(named or {}))


def on(device, folder, monkeypatch, window, kind=LayerNormGRU, **settings):
    """A trainer on any device, with all that an epoch may use."""
    torch.manual_seed(0)
    decoder = Decoder(
        partial(kind, hidden_size=12, num_layers=2, dropout=0.1),
        nn.Linear,
        input_size=5,
        output_size=2,
    )
    with monkeypatch.context() as patch:
        patch.setattr(training, "chosen_device", lambda name: torch.device(device))
        return made_trainer(folder, made_data(window=window), decoder, batch_size=128, **settings)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", [LayerNormGRU, GRU, nn.GRU])
@pytest.mark.parametrize("window", WINDOWS)
def test_an_epoch_never_waits_for_the_device(tmp_path, monkeypatch, window, kind, device):
    trainer = on(device, tmp_path, monkeypatch, window, kind, monitor_layers=True)
    before = torch.cuda.get_sync_debug_mode() if GPU else 0
    try:
        if device == "cuda":
            trainer._train_batches()  # libraries start, and may wait
            torch.cuda.set_sync_debug_mode("error")
        with reproducible(trainer.device), Waits() as waits:
            true, decoded = trainer._train_batches()
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode(before)
    assert waits.found == set()
    assert true.shape == decoded.shape and true.device.type == device


@pytest.mark.parametrize(
    "read",
    [
        float,
        lambda a: a.cpu(),
        lambda a: a if a > 0 else -a,
        lambda a: a[a > 0],
        torch.Tensor.tolist,
    ],
)
def test_waiting_would_be_noticed(tmp_path, monkeypatch, read):
    trainer = on("meta", tmp_path, monkeypatch, WINDOWS[0])
    step = trainer.optimizer.step

    def reading_step():
        read(next(trainer.decoder.parameters()).grad.norm())
        step()

    monkeypatch.setattr(trainer.optimizer, "step", reading_step)
    with Waits() as waits:
        try:
            trainer._train_batches()
        except (RuntimeError, NotImplementedError) as error:
            assert "meta" in str(error).lower()
            waits.found.add("error")
    assert waits.found


def test_settings_of_the_process_come_back():
    def settings():
        cudnn = torch.backends.cudnn
        return torch.get_deterministic_debug_mode(), cudnn.deterministic, cudnn.benchmark

    before = settings()
    with reproducible(torch.device("cpu")):
        assert settings() == before
    with reproducible(torch.device("meta")):
        assert settings() == (1, True, False)
    assert settings() == before


@pytest.mark.skipif(not GPU, reason="needs a GPU")
@pytest.mark.parametrize("window", WINDOWS)
def test_a_gpu_repeats_and_resumes_to_the_bit(tmp_path, window):
    def weights(name, *epochs):
        for count in epochs:
            trainer = made_trainer(
                tmp_path / name, made_data(window=window), made_decoder(), device="cuda",
                epochs=count, monitor_layers=True,
            )  # fmt: skip
            history = trainer.fit().drop(columns="seconds")
        return history, torch.load(tmp_path / name / "last.pt", weights_only=True)["decoder"]

    (rows, first), *others = weights("a", 6), weights("b", 6), weights("c", 3, 6)
    for other_rows, other in others:
        assert rows.equals(other_rows)
        assert all(torch.equal(first[name], other[name]) for name in first)
