"""Lab Streaming Layer on loopback: real streams of pylsl, from this process and from others."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
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
    check_names,
    open_lsl,
)
from bci_decode.realtime.interfaces.lsl_inlet import described_labels, find_stream
from bci_decode.realtime.interfaces.unit_labels import unit_labels
from bci_decode.realtime.stream.binner import SpikeBinner
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
    run=SimpleNamespace(folder="outputs/run"),
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
    for row, time in zip(counts, times, strict=True):
        stream.push_sample(list(row), time)


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
    assert find_stream(name, LIMIT).name() == name
    assert len(streams) == 2 and "2 streams have this name; the first" in caplog.text
    assert caplog.text.count("(source_id ") == 2 and socket.gethostname() in caplog.text


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


def test_bins_go_on_while_no_unit_fires():
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


# -- the whole chain -------------------------------------------------------------------------------

SENDER = """
import sys, time
import numpy as np, pylsl

BIN = 0.02
name, channels, first, number, source_id = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
info = pylsl.StreamInfo(name, "Counts", channels, 1 / BIN, "float32", source_id=source_id)
outlet = pylsl.StreamOutlet(info)
sys.stdin.readline()
assert outlet.wait_for_consumers(60)
for index in range(first, first + number):
    counts = np.random.default_rng(index).poisson(0.5, channels)
    outlet.push_sample(counts.tolist(), 1000 + BIN * index)
    time.sleep(0.005)
print("sent", flush=True)
sys.stdin.readline()
"""


def sender(name: str, channels: int, first: int, number: int, source_id: str) -> subprocess.Popen:
    """A process that sends bins when it is told to, and then waits."""
    return start("-c", SENDER, name, channels, first, number, source_id)


def go(process: subprocess.Popen) -> None:
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


@pytest.fixture
def processes():
    """What is appended here is ended."""
    started: list[subprocess.Popen] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def counts_sent(channels: int, indices: list[int]) -> np.ndarray:
    rows = [np.random.default_rng(index).poisson(0.5, channels) for index in indices]
    return np.array(rows, float)


INDICES = [*range(20), *range(50, 70)]  # of the bins of two senders


@pytest.mark.parametrize("source_ids", [("same", "same"), ("one", "another"), ("", "")])
def test_a_sender_is_found_again_whatever_its_source_id(processes, source_ids):
    """pylsl gives each process another one where its user gives none."""
    name = next(names)
    processes.append(sender(name, 3, 0, 20, source_ids[0]))
    source = open_lsl(name, DECODER, LIMIT)
    stream = iter(source)
    go(processes[0])
    bins = taken(stream, 20)
    processes[0].kill()
    processes[0].wait()
    processes.append(sender(name, 3, 50, 20, source_ids[1]))
    go(processes[1])
    bins += taken(stream, 20)
    np.testing.assert_array_equal([bin_.counts for bin_ in bins], counts_sent(3, INDICES))
    assert [bin_.index for bin_ in bins] == INDICES
    assert [bin_.index for bin_ in bins if bin_.jumped] == [50]


def test_a_sender_that_comes_back_with_other_channels_is_refused(processes):
    name = next(names)
    processes.append(sender(name, 3, 0, 5, "one"))
    stream = iter(open_lsl(name, DECODER, LIMIT))
    go(processes[0])
    taken(stream, 5)
    processes[0].kill()
    processes[0].wait()
    other = outlet(4, name=name)
    with pytest.raises(BciDecodeError, match=f"^LSL stream '{name}': came back with other chan"):
        next(stream)
    del other


def test_three_processes_survive_a_sender_that_is_killed(tmp_path, processes):
    """Sender, decoder and receiver: every bin of a sender and of its restart is received."""
    run = trained(tmp_path, "wiener")
    name, out, channels = next(names), next(names), len(run.units)
    processes.append(sender(name, channels, 0, 20, "amplifier"))
    command = ["-m", "bci_decode.stream", run.folder, "--lsl-in", name, "--lsl-out", out]
    processes.append(start(*command, "--timeout", LIMIT, "--output", tmp_path / "out"))
    first, decoder = processes
    inlet = pylsl.StreamInlet(find_stream(out, LIMIT))
    inlet.open_stream(LIMIT)
    go(first)
    received = pulled(inlet, 20)
    first.send_signal(signal.SIGKILL)
    first.wait()
    processes.append(sender(name, channels, 50, 20, "amplifier"))
    go(processes[-1])
    received += pulled(inlet, 20)

    expected = StreamingDecoder(run).predict(counts_sent(channels, INDICES))
    np.testing.assert_array_equal([sample for sample, _ in received], expected)
    assert [time for _, time in received] == [1000 + BIN * index for index in INDICES]

    decoder.send_signal(signal.SIGINT)
    output, errors = decoder.communicate(timeout=LIMIT)
    assert decoder.returncode == 0, errors
    assert output.startswith(f"{name}: 40 bins, 1000.0 to 1001.4 s; 9 of 9 units")
    assert "30 bins are missing" in errors and "gaps in the stream: 1" in output
    assert (tmp_path / "out" / "stream.json").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--lsl-in nowhere --timeout 0.2", "LSL stream 'nowhere': no stream of this name"),
        ("--lsl-in a --replay b", "two sources are named"),
        ("--lsl-in a --start 3", "--start: has no effect; remove it, or give --replay"),
        ("--replay a --timeout 3", "--timeout: has no effect; remove it, or give --lsl-in"),
        ("--replay a --host ::", "--host: has no effect; remove it, or give --page"),
    ],
)
def test_the_command_refuses_what_does_not_fit(words, says, tmp_path, monkeypatch):
    run = trained(tmp_path, "wiener").folder if "nowhere" in words else tmp_path
    monkeypatch.setattr(sys, "argv", ["stream", str(run), *words.split()])
    with pytest.raises(BciDecodeError) as caught:
        stream_command()
    assert str(caught.value).startswith(says)
