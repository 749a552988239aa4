"""The unit in a real graph of ezmsg, and the contract that ezmsg-learn's RNNUnit relies on."""

from __future__ import annotations

import sys
from typing import ClassVar

import pytest

if sys.version_info >= (3, 14):
    pytest.skip("no release of ezmsg runs a graph in Python 3.14", allow_module_level=True)

import ezmsg.core as ez
import numpy as np
import torch
from ezmsg.util.messages.axisarray import AxisArray
from live import BIN, counts_for, trained, with_data

from bci_decode.data.counts import trailing_sums
from bci_decode.errors import BciDecodeError
from bci_decode.realtime.decoder import StreamingDecoder
from bci_decode.realtime.interfaces.adapter import RunModule
from bci_decode.realtime.interfaces.ezmsg_unit import DecoderSettings, DecoderUnit, MessageDecoder
from bci_decode.realtime.interfaces.unit_labels import unit_labels
from bci_decode.runs.loaded_run import LoadedRun


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ezmsg")


@pytest.fixture(scope="module")
def wiener(folder) -> LoadedRun:
    return trained(folder, "wiener")


@pytest.fixture(scope="module", params=["gru", "wiener"])
def run(folder, request) -> LoadedRun:
    return trained(folder, request.param)


def alone(run: LoadedRun, counts: np.ndarray) -> np.ndarray:
    return StreamingDecoder(run).predict(counts)


def message(data: np.ndarray, first: int, labels: list[str] | None = None) -> AxisArray:
    axes = {"time": AxisArray.TimeAxis(fs=1 / BIN, offset=first * BIN)}
    if labels:
        axes["ch"] = AxisArray.CoordinateAxis(data=np.array(labels), dims=["ch"])
    return AxisArray(data, dims=["time", "ch"], axes=axes, key="counts")


class Sender(ez.Unit):
    SETTINGS = ez.Settings
    OUTPUT = ez.OutputStream(AxisArray)
    messages: ClassVar[list[AxisArray]] = []

    @ez.publisher(OUTPUT)
    async def send(self):
        for sent in self.messages:
            yield self.OUTPUT, sent


class Receiver(ez.Unit):
    INPUT = ez.InputStream(AxisArray)
    received: ClassVar[list[AxisArray]] = []

    @ez.subscriber(INPUT)
    async def receive(self, arrived: AxisArray) -> None:
        self.received.append(arrived)
        if len(self.received) == len(Sender.messages):
            raise ez.NormalTermination


class Graph(ez.Collection):
    SETTINGS = DecoderSettings
    SENDER, DECODER, RECEIVER = Sender(), DecoderUnit(), Receiver()

    def configure(self) -> None:
        self.DECODER.apply_settings(self.SETTINGS)

    def network(self):
        return (
            (self.SENDER.OUTPUT, self.DECODER.INPUT_SIGNAL),
            (self.DECODER.OUTPUT_SIGNAL, self.RECEIVER.INPUT),
        )


def test_a_graph_decodes_each_bin_of_each_message(run):
    counts = counts_for(run, 12)
    Sender.messages = [message(counts[i : i + 3], i) for i in range(0, 12, 3)]
    Receiver.received = []
    ez.run(SYSTEM=Graph(DecoderSettings(run=str(run.folder))), force_single_process=True)
    received = Receiver.received
    np.testing.assert_array_equal(np.concatenate([m.data for m in received]), alone(run, counts))
    assert [m.axes["time"].offset for m in received] == [
        m.axes["time"].offset for m in Sender.messages
    ]
    assert received[0].dims == ["time", "ch"] and received[0].axes["ch"].unit == "mm/s"
    assert list(received[0].axes["ch"].data) == ["x", "y"]


def unit(run: LoadedRun, **settings) -> MessageDecoder:
    """What a unit does with its messages, outside a graph."""
    return MessageDecoder(DecoderSettings(run=str(run.folder), **settings))


def test_units_are_matched_by_their_labels_and_channels_may_come_first(wiener):
    counts = counts_for(wiener, 6)
    labels = unit_labels(wiener.units)[::-1]
    turned = message(counts[:, ::-1], 0, labels)
    turned = AxisArray(turned.data.T, ["ch", "time"], turned.axes)
    decoded = unit(wiener)(turned)
    np.testing.assert_array_equal(decoded.data, alone(wiener, counts))
    assert decoded.dims == ["time", "ch"]


def test_events_per_second_are_counts_again(wiener):
    counts = counts_for(wiener, 6)
    decoded = unit(wiener, input="events/s")(message(counts / BIN, 0))
    np.testing.assert_array_equal(decoded.data, alone(wiener, counts))


@pytest.mark.parametrize("reset", [True, False])
def test_after_a_jump_the_state_is_reset_if_asked(wiener, reset, caplog):
    counts = counts_for(wiener, 20)
    decoder = unit(wiener, reset_on_jump=reset)
    decoder(message(counts[:10], 0))
    after = decoder(message(counts[10:], 15)).data
    expected = alone(wiener, counts[10:]) if reset else alone(wiener, counts)[10:]
    np.testing.assert_array_equal(after, expected)
    done = "the state is reset" if reset else "decoding continues with the same state"
    assert caplog.messages == [f"time jumps from 0.200 to 0.300 s: {done}"]


def test_messages_that_do_not_fit_are_refused(wiener):
    wide = message(counts_for(wiener, 3), 0)
    wide.axes["time"] = AxisArray.TimeAxis(fs=10)
    with pytest.raises(BciDecodeError, match="gain of the time axis: is 0.1, the decoder's bins"):
        unit(wiener)(wide)
    with pytest.raises(BciDecodeError, match="^input: is 'rates'"):
        unit(wiener, input="rates")
    with pytest.raises(BciDecodeError, match="axes of the AxisArray: are"):
        unit(wiener)(AxisArray(np.zeros((2, 2)), dims=["win", "ch"]))
    with pytest.raises(BciDecodeError, match="counts: have shape"):
        unit(wiener)(message(np.zeros((2, 3)), 0))


def test_later_messages_that_do_not_fit_are_refused_and_change_nothing(wiener, caplog):
    counts, labels = counts_for(wiener, 6), unit_labels(wiener.units)
    decoder = unit(wiener)
    decoder(message(counts[:3], 0, labels))
    wide, broken = message(counts, 3, labels), counts[3:].copy()
    wide.axes["time"] = AxisArray.TimeAxis(fs=10, offset=3 * BIN)
    broken[1, 2] = np.nan
    for sent, says in (
        (wide, "gain of the time axis: is 0.1"),
        (message(counts, 3, labels[::-1]), "labels of the ch axis: are not those of the first"),
        (message(counts, 3), "labels of the ch axis: are not those of the first"),
        (message(broken, 3, labels), "counts: are nan for unit 2"),
    ):
        with pytest.raises(BciDecodeError, match=says):
            decoder(sent)
    found = decoder(message(counts[3:], 3, labels)).data
    np.testing.assert_array_equal(found, alone(wiener, counts)[3:])
    assert not caplog.messages


def test_counts_are_summed_over_the_window_of_the_run(wiener, tmp_path):
    counts, run = counts_for(wiener, 12), with_data(wiener, tmp_path / "run", count_window=3 * BIN)
    decoder = unit(run)
    found = [decoder(message(counts[i : i + 3], i)).data for i in (0, 3, 9)]
    summed = [trailing_sums(part, 3) for part in (counts[:6], counts[9:])]  # a gap between them
    np.testing.assert_array_equal(np.concatenate(found), alone(wiener, np.concatenate(summed)))


def test_presence_needs_the_times_of_spikes(wiener, tmp_path):
    with pytest.raises(BciDecodeError, match=r"^data\.presence: needs the times of spikes"):
        unit(with_data(wiener, tmp_path / "run", presence=BIN / 4))


# -- the contract of ezmsg-learn -------------------------------------------------------------------


def module(run: LoadedRun) -> RunModule:
    """Made as ezmsg-learn does with checkpoint_path=RUN/best.pt."""
    checkpoint = torch.load(run.folder / "best.pt", map_location="cpu", weights_only=True)
    kwargs = {"input_size": len(run.units)} | RunModule.infer_config_from_state_dict(checkpoint)
    made = RunModule(**kwargs)
    missing, unexpected = made.load_state_dict(checkpoint, strict=False, assign=True)
    assert not missing and not unexpected
    return made.to("cpu").eval()


def test_windows_of_a_batch_are_decoded_as_streams(run):
    streams = np.stack([counts_for(run, 12, seed) for seed in range(3)])
    made = module(run)
    hx = made.init_hidden(3, torch.device("cpu"))
    first = hx[0] if isinstance(hx, tuple) else hx
    assert first.shape[1] == 3  # where RNNUnit reads the number of streams
    outputs = []
    for window in torch.tensor(streams, dtype=torch.float32).split(4, dim=1):
        y, hx = made(window, hx=hx)
        assert list(y) == ["output"] and y["output"].shape == (3, 4, 2)
        outputs.append(y["output"])
    found = torch.cat(outputs, 1)
    assert found.dtype == torch.float32
    for stream, decoded in zip(streams, found.numpy(), strict=True):
        np.testing.assert_allclose(decoded, alone(run, stream), rtol=1e-4, atol=1e-3)


def test_without_a_state_a_sequence_starts_at_its_beginning(run):
    x = torch.zeros(1, 5, len(run.units))
    made = module(run)
    again = made(x, hx=made.init_hidden(1, "cpu"))[0]["output"]
    torch.testing.assert_close(made(x)[0]["output"], again)


def test_it_stays_in_the_mode_of_evaluation_and_takes_no_bins(run):
    made = module(run).train()
    assert not any(part.training for part in made.modules())
    hx = made.init_hidden(2)
    y, after = made(torch.zeros(2, 0, len(run.units)), hx=hx)
    assert y["output"].shape == (2, 0, 2) and len(after) == len(hx)


@pytest.mark.parametrize("wrong", [np.nan, -1.0, np.inf])
def test_counts_that_cannot_be_are_refused(wiener, wrong):
    x = torch.zeros(1, 2, 9)
    x[0, 1, 4] = wrong
    with pytest.raises(BciDecodeError, match=f"^counts: are {wrong:g} for unit 4"):
        module(wiener)(x)


def test_it_can_be_saved_loaded_and_given_an_optimizer(run):
    made = module(run)
    torch.optim.AdamW(made.parameters(), lr=1e-3)
    state = made.state_dict()
    sizes = RunModule.infer_config_from_state_dict(state, rnn_type="GRU")
    assert sizes == {"input_size": len(run.units), "output_size": 2}
    other = RunModule(**sizes, run=run.folder)
    other.load_state_dict(state)
    x = torch.from_numpy(counts_for(run, 5)[None]).float()
    assert torch.equal(other(x)[0]["output"], made(x)[0]["output"])


def test_wrong_sizes_are_refused(wiener):
    with pytest.raises(BciDecodeError, match="input_size: is 4, the run's 9"):
        RunModule(4, run=wiener.folder)
    with pytest.raises(BciDecodeError, match="output_size: is"):
        RunModule(9, {"left": 2}, run=wiener.folder)
    with pytest.raises(BciDecodeError, match="no run is given"):
        RunModule(9, 2)


@pytest.mark.parametrize(
    "data", [np.zeros((2, 9), complex), np.full((2, 9), "a"), np.full((2, 9), None)], ids=str
)
def test_data_that_are_no_numbers_are_refused(wiener, data):
    decode = MessageDecoder(DecoderSettings(run=str(wiener.folder)))
    with pytest.raises(BciDecodeError, match="^data of the AxisArray: has shape"):
        decode(message(data, 0))


@pytest.mark.parametrize("offset", [float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(wiener, offset):
    decode = MessageDecoder(DecoderSettings(run=str(wiener.folder)))
    with pytest.raises(BciDecodeError, match="^offset of the time axis: is "):
        decode(message(np.zeros((2, len(wiener.units))), offset))
