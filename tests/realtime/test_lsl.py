"""Lab Streaming Layer on loopback: real streams of pylsl, from this process and from others."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pylsl
import pytest
from live import BIN, start, trained

from bci_decode.config import DataConfig
from bci_decode.data.counts import trailing_sums
from bci_decode.errors import BciDecodeError
from bci_decode.realtime.bins import Bin
from bci_decode.realtime.decoder import StreamingDecoder
from bci_decode.realtime.interfaces.lsl import (
    LslCounts,
    LslOutlet,
    LslSpikes,
    _number_columns,
    check_names,
    open_lsl,
)
from bci_decode.realtime.interfaces.lsl_inlet import Inlet, described_labels, find_stream, layout
from bci_decode.realtime.interfaces.unit_labels import LONGEST, unit_labels, units_of
from bci_decode.realtime.stream.binner import SpikeBinner
from bci_decode.realtime.stream.terminal import LineHandler
from bci_decode.stream import main as stream_command

LIMIT = 30  # s after which a test gives up
UNITS = pd.DataFrame({"channel": ["M1 001", "M1 001", "M1 002"], "area": "M1", "row": [0, 1, 1]})
DECODER = SimpleNamespace(  # what sources and sinks read of a decoder
    bin_width=BIN,
    units=UNITS,
    axes=("x", "y"),
    unit="mm/s",
    target="velocity",
    lag=0.06,
    config=DataConfig(bin_width=BIN),
    run=SimpleNamespace(source="outputs/run"),
)


def with_data(**data: float) -> SimpleNamespace:
    """A decoder of another config."""
    return SimpleNamespace(**vars(DECODER) | {"config": DataConfig(bin_width=BIN, **data)})


names = (f"test{number}" for number in itertools.count())


@pytest.fixture(scope="module", autouse=True)
def alone(tmp_path_factory):
    """Keep the streams of this module to this computer and apart from all others."""
    path = tmp_path_factory.mktemp("lsl") / "lsl_api.cfg"
    session = f"bci_decode_test_{os.getpid()}"
    path.write_text(
        f"[multicast]\nResolveScope = machine\n[lab]\nSessionID = {session}\n[log]\nlevel = -3\n"
    )
    patch = pytest.MonkeyPatch()
    patch.setenv("LSLAPICFG", str(path))  # liblsl reads it at its first use in a process
    yield
    patch.undo()


def outlet(
    channels=3, kind="Counts", rate=1 / BIN, format_="float32", name=None, group=(), ids=()
) -> pylsl.StreamOutlet:
    """A stream whose description may hold labels: desc/<group[0]>/<group[1]>/label."""
    name = name or next(names)
    info = pylsl.StreamInfo(name, kind, channels, rate, format_, source_id=name)
    if group:
        node = info.desc().append_child(group[0])
        for label in ids:
            node.append_child(group[1]).append_child_value("label", label)
    return pylsl.StreamOutlet(info)


def name_of(stream: pylsl.StreamOutlet) -> str:
    return stream.get_info().name()


def taken(source, number: int) -> list[Bin]:
    """The next bins of a source."""
    bins: list[Bin] = []

    def take() -> None:
        bins.extend(itertools.islice(iter(source), number))

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive(), f"{len(bins)} of {number} bins arrived"
    return bins


def push(stream: pylsl.StreamOutlet, counts, times) -> None:
    assert stream.wait_for_consumers(LIMIT)
    for row, stamp in zip(counts, times, strict=True):
        stream.push_sample(list(row), stamp)


@pytest.mark.parametrize("format_", ["float32", "double64", "int8", "int16", "int32", "int64"])
def test_counts_of_every_number_format_arrive_with_their_time(format_):
    stream = outlet(format_=format_)
    source = open_lsl(name_of(stream), DECODER)
    assert isinstance(source, LslCounts) and source.units is None and source.bin_width == BIN
    counts, times = np.arange(15).reshape(5, 3), 100 + BIN * np.arange(5)
    push(stream, counts.tolist(), times)
    bins = taken(source, 5)
    source.close()
    source.close()
    np.testing.assert_array_equal([bin_.counts for bin_ in bins], counts)
    assert [bin_.time for bin_ in bins] == list(times)
    assert [bin_.index for bin_ in bins] == list(range(5))
    assert not any(bin_.jumped for bin_ in bins) and all(bin_.arrived > 0 for bin_ in bins)


def test_missing_bins_and_a_clock_that_goes_back_are_jumps(caplog):
    """Three time stamps prove a jump; until then bins are counted by sample."""
    stream = outlet()
    source = open_lsl(name_of(stream), DECODER)
    wobble = 0.2 * BIN * np.array([1, -1] * 6)
    places = np.array([0, 1, 2, 6, 7, 8, 9, 11, 12, 13, -500, -499])
    push(stream, np.zeros((12, 3)).tolist(), 1000 + BIN * places + wobble)
    bins = taken(source, 12)
    assert [bin_.index for bin_ in bins] == [0, 1, 2, 3, 4, 8, 9, 10, 11, 13, 14, 15]
    assert [bin_.index for bin_ in bins if bin_.jumped] == [8, 13]
    assert [line.split(": ")[1] for line in caplog.messages] == [
        "3 bins are missing", "1 bin is missing"
    ]  # fmt: skip
    push(stream, np.zeros((2, 3)).tolist(), 1000 + BIN * np.array([-498, -497]))
    after = taken(source, 2)
    assert [(bin_.index, bin_.jumped) for bin_ in after] == [(16, True), (17, False)]
    assert caplog.messages[-1].endswith("its clock went back")


def test_a_clock_may_drift():
    stream = outlet()
    source = open_lsl(name_of(stream), DECODER)
    push(stream, np.zeros((300, 3)).tolist(), 50 + 1.01 * BIN * np.arange(300))  # 3 bins in all
    assert not any(bin_.jumped for bin_ in taken(source, 300))


def test_counts_are_summed_over_the_window_of_the_run_and_again_after_a_jump():
    stream, counts = outlet(), np.arange(27).reshape(9, 3)
    source = open_lsl(name_of(stream), with_data(count_window=3 * BIN))
    push(stream, counts.tolist(), 100 + BIN * np.array([0, 1, 2, 3, 10, 11, 12, 13, 14]))
    bins = taken(source, 9)
    expected = np.concatenate([trailing_sums(counts[:6], 3), trailing_sums(counts[6:], 3)])
    np.testing.assert_array_equal([bin_.counts for bin_ in bins], expected)


def test_labels_say_which_unit_a_channel_is():
    stream = outlet(2, group=("channels", "channel"), ids=["M1 002/1", "M1 001/0"])
    source = open_lsl(name_of(stream), DECODER)
    assert unit_labels(source.units) == ["M1 002/1", "M1 001/0"]
    assert list(source.units["area"]) == ["M1", "M1"]


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ({"channels": 4}, "has 4 channels, the decoder 3 units; send one channel for each unit"),
        ({"group": ("channels", "channel"), "ids": ["a", "b"], "channels": 2}, "has 2 channels"),
        ({"rate": float("nan")}, "claims 0 channels with 0 samples/s; send 1 to 100000 channels"),
        ({"channels": 100_001}, "claims 100001 channels with 50 samples/s; send 1 to"),
        ({"rate": 100.0}, "has 100 samples/s, the decoder 50 bins/s; send one sample for each bin"),
        ({"format_": "string"}, "its samples are text; send counts as numbers"),
        ({"kind": "Spikes", "rate": 0}, "has 3 channels, but spikes have 1"),
        (
            {"group": ("channels", "channel"), "ids": ["M1 001/0", "M1 001/1", "M1 002"]},
            "the label 'M1 002' is not like 'M1 003/1' (channel/row); give each unit",
        ),
        (
            {"group": ("channels", "channel"), "ids": ["M1 001/0", "M1 001/1", "M1 001/0"]},
            "the label 'M1 001/0' is there twice",
        ),
        (
            {"group": ("channels", "channel"), "ids": ["M1 001/0", "M1 001/1"]},
            "has 3 channels, but labels for 2 of them",
        ),
    ],
)
def test_streams_that_do_not_fit_are_refused(made, says):
    stream = outlet(**made)
    with pytest.raises(BciDecodeError) as caught:
        open_lsl(name_of(stream), DECODER)
    assert str(caught.value).startswith(f"LSL stream '{name_of(stream)}': {says}")


def test_a_stream_that_never_appears_is_named_with_those_that_are_there():
    stream = outlet()
    with pytest.raises(BciDecodeError) as caught:
        open_lsl("nowhere", DECODER, timeout=0.3)
    line = str(caught.value)
    assert line.startswith("LSL stream 'nowhere': no stream of this name appeared within 0.3 s; ")
    assert f"'{name_of(stream)}'" in line


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), 0.0, -5.0])
def test_a_timeout_is_finite_and_above_0(timeout):
    with pytest.raises(BciDecodeError, match=f"^--timeout: is {timeout:g} s; give a finite"):
        open_lsl("nowhere", DECODER, timeout)


def test_the_output_cannot_have_the_name_of_the_input():
    check_names("one", "another")
    check_names("one", None)
    check_names(None, None)
    with pytest.raises(BciDecodeError, match="^--lsl-out: 'one' is the name of --lsl-in, too; "):
        check_names("one", "one")


def test_presence_needs_the_times_of_spikes():
    stream = outlet()
    with pytest.raises(BciDecodeError, match=r"^data\.presence: needs the times of spikes"):
        open_lsl(name_of(stream), with_data(presence=BIN / 4))


def test_of_streams_of_one_name_the_first_is_taken_with_a_warning(caplog):
    name = f"the \"{next(names)}'s\" 'twin'"
    streams = [outlet(name=name) for _ in range(2)]
    inlet = Inlet(name, LIMIT)
    stop = time.monotonic() + LIMIT
    while not caplog.messages and time.monotonic() < stop:
        inlet.pull(inlet.buffer(1), 0.05)
    assert len(streams) == 2 and f"LSL stream '{name}': 2 streams have this name" in caplog.text
    assert caplog.text.count("(source_id ") == 2 and socket.gethostname() in caplog.text
    inlet.close()


@pytest.mark.parametrize(
    ("kind", "rate", "expected"),
    [
        ("Counts", 0, LslCounts), ("counts", 50, LslCounts), ("", 50, LslCounts),
        ("", 0, LslSpikes), ("Spikes", 30000, LslSpikes), ("Markers", 0, LslSpikes),
    ],
)  # fmt: skip
def test_type_or_else_rate_tells_counts_from_spikes(kind, rate, expected):
    decoder = SimpleNamespace(**vars(DECODER) | {"units": UNITS[:1]})
    stream = outlet(1, kind, rate)
    assert type(open_lsl(name_of(stream), decoder)) is expected


def test_the_order_of_units_is_part_of_what_a_restart_must_not_change():
    """Both for channels of counts and for units of spikes."""
    orders = (["M1 001/0", "M1 002/1"], ["M1 002/1", "M1 001/0"])
    for group in (("channels", "channel"), ("units", "unit")):
        one, same, other = (
            layout(outlet(2, group=group, ids=ids).get_info())
            for ids in (orders[0], orders[0], orders[1])
        )
        assert one == same != other


def test_spikes_with_a_stray_or_impossible_time_are_dropped(caplog):
    stream = outlet(1, "Spikes", 0)
    source = open_lsl(name_of(stream), DECODER)
    times = [5.0, np.nan, 5.001, 1e300, 5.002, -5.0, 5.003, 5.1]
    push(stream, [[0]] * len(times), times)
    bins = taken(source, 4)
    assert bins[0].counts.tolist() == [4, 0, 0] and not any(bin_.jumped for bin_ in bins)
    assert source.binner.dropped["not a time"] == 2
    assert source.binner.dropped["off the clock"] == 1


def test_a_stray_before_a_silence_does_not_move_the_clock():
    stream = outlet(1, "Spikes", 0)
    source = open_lsl(name_of(stream), DECODER)
    bins = iter(source)
    push(stream, [[0], [0]], [5.0, 5.03])
    found = [next(bins)]
    push(stream, [[0]], [-5.0])
    found += [next(bins) for _ in range(15)]
    assert [int(bin_.counts.sum()) for bin_ in found] == [1, 1] + [0] * 14
    assert not any(bin_.jumped for bin_ in found)


def test_ignored_time_stamps_of_counts_are_told_and_counted(caplog):
    stream = outlet()
    source = open_lsl(name_of(stream), DECODER)
    push(stream, np.zeros((4, 3)).tolist(), [5.0, np.nan, 1e300, 5.06])
    assert [bin_.index for bin_ in taken(source, 4)] == [0, 1, 2, 3]
    source.close()
    source.close()
    assert len(caplog.messages) == 2 and "nan s is ignored" in caplog.messages[0]
    assert caplog.messages[1].endswith("2 time stamps were ignored in all")


def test_counts_that_are_no_numbers_are_one_line():
    stream = outlet()
    source = open_lsl(name_of(stream), DECODER)
    push(stream, [[1, float("nan"), 0]], [5.0])
    with pytest.raises(BciDecodeError, match="^counts: are nan for unit 1; give the number of"):
        next(iter(source))


@pytest.mark.parametrize("count", [1e30, float("inf"), -1.0, 1_000_001])
def test_counts_that_no_unit_can_have_are_one_line(count):
    """They would make the state of a decoder NaN for good."""
    stream = outlet(format_="double64")
    source = open_lsl(name_of(stream), with_data(count_window=3 * BIN))
    push(stream, [[1, count, 0]], [5.0])
    with pytest.raises(BciDecodeError, match="^counts: are .* for unit 1; give the number of"):
        next(iter(source))


def test_numbers_that_are_no_unit_are_no_column():
    values = np.array([0, 2, 3, -1, 0.5, 1e300, np.inf, -np.inf, np.nan, 2**53])
    columns = _number_columns(UNITS, 1)(values[:, None])
    assert columns.tolist() == [0, 2, *[-1] * 8]
    pairs = np.array([[0, 1], [1, 1], [1, 0], [np.nan, 1], [0, np.inf], [0.5, 1]])
    assert _number_columns(UNITS, 2)(pairs).tolist() == [1, 2, -1, -1, -1, -1]


@pytest.mark.parametrize(
    "label",
    ["M1 \x1b[2J/1", "M1 1\n2/1", f"M1/{'9' * 5000}", "M1/\u00b2", "a" * LONGEST + "/1", "\x00/1"],
)
def test_labels_that_are_none_are_refused_in_one_line(label):
    assert units_of([label, label]) is None
    with pytest.raises(BciDecodeError, match="is not like 'M1 003/1'") as caught:
        units_of(["M1 001/1", label])
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_many_or_long_labels_take_no_time():
    """Both searches once took the square of the size, or more: hours here."""
    assert units_of(["x " * 500_000]) is None
    assert len(units_of([f"M1 {number}/1" for number in range(100_000)])) == 100_000


def test_a_bin_that_waited_arrived_when_it_was_there():
    """The decoder is busy with the first one while the others come."""
    stream = outlet()
    source = open_lsl(name_of(stream), DECODER)
    began = pylsl.local_clock()
    stamps = began + BIN * np.arange(10)

    def send() -> None:
        for index, stamp in enumerate(stamps):
            time.sleep(max(0.0, stamp - pylsl.local_clock()))
            stream.push_sample([index, 0, 0], stamp)

    assert stream.wait_for_consumers(LIMIT)
    sending, bins = threading.Thread(target=send), iter(source)
    sending.start()
    first = next(bins)
    sending.join()
    time.sleep(0.3)
    taken_at = time.perf_counter()
    rest = [next(bins) for _ in range(9)]
    arrived = np.array([bin_.arrived for bin_ in [first, *rest]])
    np.testing.assert_allclose(arrived - arrived[0], stamps - stamps[0], atol=BIN / 4)
    assert arrived[-1] < taken_at


# -- spikes ----------------------------------------------------------------------------------------


def spikes(seed=0, number=200, seconds=1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return np.sort(rng.uniform(0, seconds, number)), rng.integers(0, 3, number)


def binned(times: np.ndarray, units: np.ndarray) -> list[Bin]:
    return SpikeBinner(3, BIN, tolerance=0.005).add(times, units)


@pytest.mark.parametrize("clock", ["local", "own"])
@pytest.mark.parametrize("form", ["unit", "channel and row", "label", "described"])
def test_spikes_are_binned_whatever_names_their_unit(form, clock):
    channel, row = [0, 0, 1], [0, 1, 1]  # of the units
    listed = ["M1 002/1", "M1 001/0", "M1 001/1"]
    ways = {
        "unit": ({}, lambda unit: [unit]),
        "channel and row": ({"channels": 2}, lambda unit: [channel[unit], row[unit]]),
        "label": ({"format_": "string"}, lambda unit: [unit_labels(UNITS)[unit]]),
        "described": ({"group": ("units", "unit"), "ids": listed}, lambda unit: [unit]),
    }
    made, sample = ways[form]
    stream = outlet(**{"channels": 1, "kind": "Spikes", "rate": 0} | made)
    source = open_lsl(name_of(stream), DECODER)
    assert (source.units is None) == (form != "described")
    times, units = spikes()
    times += pylsl.local_clock() - 1 if clock == "local" else 5.0
    push(stream, [sample(int(unit)) for unit in units], times)
    expected = binned(times, units)
    bins = taken(source, len(expected))
    np.testing.assert_array_equal([b.counts for b in bins], [b.counts for b in expected])
    np.testing.assert_allclose([b.time for b in bins], [b.time for b in expected], atol=1e-9)


def test_unknown_units_are_counted_and_left_out():
    stream = outlet(1, "Spikes", 0, "string")
    source = open_lsl(name_of(stream), DECODER)
    push(stream, [["M1 001/0"], ["S1 001/0"], ["M1 001/0"]], [5.0, 5.001, 5.1])
    bins = taken(source, 1)
    assert bins[0].counts.tolist() == [1, 0, 0] and source.binner.dropped["unknown unit"] == 1


def test_bins_continue_while_no_unit_fires():
    stream = outlet(1, "Spikes", 0)
    source = open_lsl(name_of(stream), DECODER)
    push(stream, [[0]], [5.0])
    bins = taken(source, 20)  # from the computer's clock
    assert [int(bin_.counts.sum()) for bin_ in bins] == [1] + [0] * 19
    assert not any(bin_.jumped for bin_ in bins)


# -- the output ------------------------------------------------------------------------------------


def test_the_output_describes_itself_and_has_the_times_of_the_input():
    name = next(names)
    sink = LslOutlet(name, DECODER)
    inlet = pylsl.StreamInlet(find_stream(name, LIMIT))
    info = inlet.info(LIMIT)
    assert (info.type(), info.channel_count()) == ("Kinematics", 2)
    assert info.nominal_srate() == pytest.approx(1 / BIN)
    assert info.source_id() == f"bci_decode/{name}" and described_labels(info) == ["x", "y"]
    channel = info.desc().child("channels").child("channel")
    assert channel.child_value("unit") == "mm/s" and channel.child_value("type") == "velocity"
    assert info.desc().child("decoder").child_value("lag_s") == "0.06"
    inlet.open_stream(LIMIT)
    for index in range(3):
        bin_ = Bin(index, 7.5 + index, np.zeros(3))
        sink.write(SimpleNamespace(bin=bin_, output=np.array([index, -0.1])))
    sink.close()
    sink.close()
    received = pulled(inlet, 3)
    assert received == [([index, -0.1], 7.5 + index) for index in (0.0, 1.0, 2.0)]


# -- senders that die and come back, and the whole chain -------------------------------------------

SENDER = """
import sys, time
import numpy as np, pylsl

BIN = 0.02
sys.stdin.readline()
outlets = []
for name, source_id, channels in zip(*[iter(sys.argv[2:])] * 3):
    info = pylsl.StreamInfo(name, "Counts", int(channels), 1 / BIN, "float32", source_id=source_id)
    outlets.append(pylsl.StreamOutlet(info))
sys.stdin.readline()
assert all(outlet.wait_for_consumers(60) for outlet in outlets)
for index in range(int(sys.argv[1]), int(sys.argv[1]) + 20):
    for outlet in outlets:
        counts = np.random.default_rng(index).poisson(0.5, outlet.channel_count)
        outlet.push_sample(counts.tolist(), 1000 + BIN * index)
    time.sleep(0.005)
sys.stdin.readline()
"""
SOURCE_IDS = {"same": ("a", "a"), "another": ("one", "two"), "none": ("", "")}
INDICES = [*range(20), *range(50, 70)]  # of the bins of two senders


def go(process: subprocess.Popen) -> None:
    """Let a sender take its next step: open its streams, or send when all have a consumer."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def pulled(inlet: pylsl.StreamInlet, number: int) -> list:
    """The next samples with their time stamps."""
    samples = []
    for _ in range(number):
        samples.append(inlet.pull_sample(LIMIT))
        assert samples[-1] != (None, None), f"{len(samples) - 1} of {number} samples arrived"
    return samples


def counts_sent(channels: int, indices: list[int]) -> np.ndarray:
    rows = [np.random.default_rng(index).poisson(0.5, channels) for index in indices]
    return np.array(rows, float)


@pytest.fixture(scope="module")
def restart(tmp_path_factory):
    """What is received of two senders: the first is killed, and the second comes in its place.

    They have a stream for each way to choose a source_id, one that comes back with more channels,
    and one that another process decodes.
    """
    folder = tmp_path_factory.mktemp("restart")
    run = trained(folder, "wiener")
    name = {way: next(names) for way in [*SOURCE_IDS, "wider", "live", "out"]}
    command = ["-m", "bci_decode.stream", run.folder, "--lsl-in", name["live"]]
    command += ["--lsl-out", name["out"], "--timeout", LIMIT, "--max-gap", 0.3]
    with ExitStack() as ends:
        processes = [start(*command, "--output", folder / "out")]
        for turn, first in enumerate((0, 50)):
            words: list[object] = [name["live"], "live", len(run.units)]
            for way, ids in SOURCE_IDS.items():
                words += [name[way], ids[turn], 3]
            words += [name["wider"], "wider", 3] * (turn == 0)
            processes.append(start("-c", SENDER, first, *words))
        for process in processes:
            ends.callback(process.communicate)
            ends.callback(process.kill)
        decoder, one, two = processes
        go(one)
        sources = {way: open_lsl(name[way], DECODER, LIMIT, max_gap=0.3) for way in SOURCE_IDS}
        sources["wider"] = open_lsl(name["wider"], DECODER, LIMIT)
        streams = {way: iter(source) for way, source in sources.items()}
        out = pylsl.StreamInlet(find_stream(name["out"], LIMIT))
        out.open_stream(LIMIT)
        go(one)
        bins = {way: taken(stream, 20) for way, stream in streams.items()}
        received = pulled(out, 20)
        one.send_signal(signal.SIGKILL)
        one.wait()
        go(two)
        go(two)
        wider = outlet(4, name=name["wider"])
        with ThreadPoolExecutor() as threads:
            refused = threads.submit(next, streams["wider"])
            more = {way: threads.submit(taken, streams[way], 20) for way in SOURCE_IDS}
            received += pulled(out, 20)
            bins |= {way: bins[way] + found.result() for way, found in more.items()}
        decoder.send_signal(signal.SIGINT)
        output, errors = decoder.communicate(timeout=LIMIT)
        yield SimpleNamespace(
            run=run, name=name, bins=bins, error=str(refused.exception()), received=received,
            output=output, errors=errors, code=decoder.returncode, folder=folder / "out",
        )  # fmt: skip
        del wider


@pytest.mark.parametrize("way", SOURCE_IDS)
def test_a_sender_is_found_again_whatever_its_source_id(restart, way):
    """pylsl gives each process another one where its user gives none."""
    bins = restart.bins[way]
    np.testing.assert_array_equal([bin_.counts for bin_ in bins], counts_sent(3, INDICES))
    assert [bin_.index for bin_ in bins] == INDICES
    assert [bin_.index for bin_ in bins if bin_.jumped] == [50]


def test_a_sender_that_comes_back_with_other_channels_is_refused(restart):
    line = f"LSL stream '{restart.name['wider']}': came back with other channels or units (4 chan"
    assert restart.error.startswith(line)


def test_three_processes_survive_a_sender_that_is_killed(restart):
    """Sender, decoder and receiver: every bin of a sender and of its restart is received."""
    expected = StreamingDecoder(restart.run).predict(counts_sent(len(restart.run.units), INDICES))
    np.testing.assert_array_equal([sample for sample, _ in restart.received], expected)
    assert [stamp for _, stamp in restart.received] == [1000 + BIN * index for index in INDICES]
    assert restart.code == 0, restart.errors
    about = f"{restart.name['live']}: 40 bins, 1000.0 to 1001.4 s; 9 of 9 units"
    assert restart.output.startswith(about) and "gaps in the stream: 1" in restart.output
    assert "30 bins are missing" in restart.errors
    assert (restart.folder / "stream.json").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--lsl-in nowhere --timeout 0.2", "LSL stream 'nowhere': no stream of this name"),
        ("--lsl-in a --replay b", "two sources are named"),
        ("--lsl-in a --start 3", "--start: has no effect; remove it, or give --replay"),
        ("--lsl-in a --speed 3", "--speed: has no effect; remove it, or give --replay"),
        ("--lsl-in a --data-dir x", "--data-dir: has no effect; remove it, or give --replay"),
        ("--replay a --timeout 3", "--timeout: has no effect; remove it, or give --lsl-in"),
        ("--replay a --host ::", "--host: has no effect; remove it, or give --page"),
    ],
)
def test_the_command_refuses_what_does_not_fit(words, says, tmp_path, monkeypatch, restart):
    run = restart.run.folder if "nowhere" in words else tmp_path
    monkeypatch.setattr(sys, "argv", ["stream", str(run), *words.split()])
    with pytest.raises(BciDecodeError) as caught:
        stream_command()
    assert str(caught.value).startswith(says)


def test_names_of_other_computers_do_not_change_the_terminal():
    record = logging.LogRecord("lsl", logging.WARNING, "", 0, "of %s\nµ", ("\x1b[2J\x9b",), None)
    assert LineHandler().format(record) == "of \\x1b[2J\\x9b\nµ"
