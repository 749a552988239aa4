"""Every causal model is exported, and onnxruntime gives what PyTorch gives."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from live_runs import made_run

import bci_decode as bd
from bci_decode.data.simulate import simulated_session
from bci_decode.errors import BciDecodeError
from bci_decode.realtime.graph import StepGraph
from bci_decode.realtime.onnx import export
from bci_decode.realtime.onnx import model as onnx_model
from bci_decode.realtime.onnx.decoder import initial_state
from bci_decode.realtime.onnx.parts import parts

SMALL = "model.recurrent.hidden_size=5"
ONE_LAYER = (SMALL, "model.recurrent.num_layers=1", "dropout.layers=0")
HISTORY = ("data.window.kind=history", "data.window.length=4", *ONE_LAYER)
NORMGRU = ("model=normgru", *ONE_LAYER)
KINDS = {
    "gru": ("model=gru", SMALL),
    "lngru": ("model=lngru", SMALL),
    "normgru": NORMGRU,
    "lstm": ("model=lstm", SMALL),
    "lnlstm": ("model=lnlstm", *ONE_LAYER),
    "rnn": ("model=rnn", *ONE_LAYER),
    # random weights with gain 1 are chaotic: they amplify the last bit
    "lnrnn": ("model=lnrnn", "model.recurrent.initial_gain=0.5", *ONE_LAYER),
    "mingru": ("model=mingru", *ONE_LAYER),
    "lru": ("model=lru", SMALL),
    "bare lru": ("model=gru", "model.recurrent._target_=bci_decode.layers.LRU", *ONE_LAYER),
    "hgrn": ("model=hgrn", SMALL),
    "gru_prenorm": ("model=gru_prenorm", SMALL, "model.recurrent.num_layers=2"),
    "gru_postnorm": ("model=gru_postnorm", SMALL, "model.recurrent.num_layers=2"),
    "aegru": ("experiment=aegru", SMALL, "model.encoder.width=4"),
    "sum": ("model=lngru", "model.recurrent.place=sum", *ONE_LAYER),
    "batch_shared": (*NORMGRU, "model.recurrent.norm=batch_shared"),
    "batch_layer": (*NORMGRU, "model.recurrent.norm=batch_layer"),
    "ensemble": ("model=gru", "ensemble=2", *ONE_LAYER),
    "filtered": ("model=rnn", "data.low_pass=2", *ONE_LAYER),
    "skipping bins": ("model=lngru", "data.window.step=2", *ONE_LAYER),
    "wiener": ("model=wiener", "model.history=4"),
    "cascade": ("model=cascade", "model.history=4"),
    "kalman": ("model=kalman",),
    "kalman with lag": ("model=kalman_velocity", "model.lag=3", "model.steady_state=false"),
    "history": ("model=gru", *HISTORY),
    "history lru": ("model=lru", "data.window.step=2", *HISTORY[:2], SMALL),
    "history ensemble": ("model=lstm", "ensemble=2", *HISTORY),
    "source study": (
        "experiment=source_study", "model=lngru", "data.split.first_bins=700",
        "data.window.length=4", SMALL,
    ),
}  # fmt: skip
REFUSED = {
    "history both ways": ("model=gru", "bidirectional=true", *HISTORY),
    "batch norm per step": (*NORMGRU, "model.recurrent.norm=batch_per_step"),
    "both ways": ("model=gru", "bidirectional=true", SMALL),
}
# `make test-export` names "all": an export takes seconds
USUAL = "bare_lru batch_shared kalman_with_lag history"
CHOSEN = os.environ.get("TESTED_EXPORTS", USUAL)
TESTED = [kind for kind in KINDS if CHOSEN == "all" or kind.replace(" ", "_") in CHOSEN.split()]
BINS, STREAMS = 200, 3


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    folder = tmp_path_factory.mktemp("session")
    return simulated_session(folder, seed=0, minutes=2, channels=4)


@pytest.fixture(scope="module")
def made(recording, tmp_path_factory):
    """A function that makes a run of a kind once."""
    session, home, runs = bd.read_session(recording), tmp_path_factory.mktemp("runs"), {}

    def make(kind: str):
        if kind not in runs:
            folder = home / kind.replace(" ", "_")
            runs[kind] = made_run(folder, session, *(KINDS | REFUSED)[kind])
            if kind.startswith("batch"):
                set_statistics(runs[kind].model)
        return runs[kind]

    return make


def set_statistics(decoder: torch.nn.Module) -> None:
    """Give norms running statistics, as training does."""
    for name, buffer in decoder.named_buffers():
        buffer.add_(2 if name.endswith(("last", "sequences")) else 0.3)


@pytest.fixture(scope="module")
def model_of(made):
    """A function that exports a run of a kind once."""
    models = {}

    def make(kind: str):
        if kind not in models:
            models[kind] = onnx_model.onnx_model(made(kind))
        return models[kind]

    return make


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """With the library's default options, as other programs open the file."""
    return onnxruntime.InferenceSession(model.SerializeToString())


@pytest.mark.parametrize("kind", TESTED)
def test_onnxruntime_equals_pytorch(kind, made, model_of):
    """Three streams; in the middle their state is taken out and put into a new session."""
    run, model = made(kind), model_of(kind)
    onnx.checker.check_model(model, full_check=True)
    graph, session = StepGraph(run), session_of(model)
    names = [value.name for value in session.get_inputs()]
    assert names == ["counts", *graph.names]
    assert [value.name for value in session.get_outputs()][1:] == [f"next.{n}" for n in graph.names]
    shapes = {value.name: value.shape for value in session.get_inputs()}
    assert {shape[0] for shape in shapes.values()} == {"streams"}
    expected_state = tuple(torch.cat([tensor] * STREAMS) for tensor in graph.initial())
    state = [tensor.numpy() for tensor in expected_state]
    rng, outputs, expected = np.random.default_rng(0), [], []
    for number in range(BINS):
        counts = rng.poisson(0.5, (STREAMS, len(run.units))).astype(np.float32)
        if number == BINS // 2:
            session = session_of(model)
        output, *state = session.run(None, dict(zip(names, [counts, *state], strict=True)))
        reference, *after = graph(torch.from_numpy(counts), *expected_state)
        expected_state = tuple(after)
        outputs.append(output)
        expected.append(reference.numpy())
    assert output.dtype == np.float32 and output.shape == (STREAMS, len(run.axes))
    sd = np.array(expected).std(axis=(0, 1))
    difference = np.abs(np.array(outputs) - np.array(expected)).max(axis=(0, 1)) / sd
    assert (difference <= export.TOLERANCE).all(), difference
    for tensor, values in zip(expected_state, state, strict=True):
        assert tensor.numpy().dtype == values.dtype and tensor.shape == values.shape


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_exported_is_refused(kind, made):
    words = {"history both ways": "a bidirectional model cannot be exported"}
    words |= {"both ways": "needs all later bins", "batch norm per step": "other statistics"}
    with pytest.raises(BciDecodeError, match=words[kind]):
        onnx_model.onnx_model(made(kind))


def test_the_graph_does_not_grow_with_the_window(made, recording, tmp_path, model_of):
    words = (*KINDS["history"], "data.window.length=20")
    longer = made_run(tmp_path / "run", bd.read_session(recording), *words)
    count = onnx_model.node_count
    assert count(onnx_model.onnx_model(longer).graph) == count(model_of("history").graph)


@pytest.mark.parametrize("kind", ["lngru" if CHOSEN == "all" else "gru"])
def test_the_graph_is_small(kind, model_of):
    """A layer is a few products and functions, and nothing tells of the machine that wrote it."""
    nodes = model_of(kind).graph.node
    assert len(nodes) < 50 and sum(node.op_type in ("Gemm", "MatMul") for node in nodes) == 5
    assert b".py" not in model_of(kind).SerializeToString()


def test_parts_have_each_product_once(model_of):
    early, late = parts(model_of("gru"))
    products = [sum(n.op_type == "Gemm" for n in part.graph.node) for part in (early, late)]
    assert products == [2, 3]  # of the states; of the counts, the second layer and the head
    assert [value.name for value in early.graph.input] == ["model.state0"]
    assert parts(model_of("history"))[0] is None


def test_the_metadata_tells_all(made, model_of):
    run, kind = made("gru"), "gru"
    about = {prop.key: prop.value for prop in model_of(kind).metadata_props}
    assert about["model"] == "gru" and about["target"] == "velocity" and about["unit"] == "mm/s"
    assert about["md5"] == hashlib.md5((run.folder / "best.pt").read_bytes()).hexdigest()
    assert about["bci_decode"] == bd.__version__ and about["format"] == "bci_decode step 1"
    assert json.loads(about["axes"]) == ["x", "y"]
    assert json.loads(about["units"]) == run.state["units"]
    assert json.loads(about["bin_width"]) == 0.064 and json.loads(about["lag"]) == 0
    assert about["count_window"] == about["presence"] == "null"
    state = json.loads(about["state"])
    assert state[0] == {"name": "model.state0", "dtype": "float32", "shape": [2, 5]}
    assert [one["name"] for one in state] == StepGraph(run).names
    for tensor, (name, values) in zip(
        StepGraph(run).initial(), initial_state(state).items(), strict=True
    ):
        assert tensor.numpy().dtype == values.dtype, name
        np.testing.assert_array_equal(tensor.numpy(), values)


def test_a_state_that_starts_elsewhere_is_in_the_metadata(made):
    described = onnx_model.metadata(made("gru"), ["a"], (torch.tensor([[0.5, 2.0]]),))["state"]
    np.testing.assert_array_equal(initial_state(json.loads(described))["a"], [[0.5, 2.0]])


def test_the_file_is_verified_over_a_session(made, recording, tmp_path):
    run, path = made("gru"), tmp_path / "out.onnx"
    written = export.export_onnx(run, path, bd.read_session(recording))
    assert path.stat().st_size == written.size and list(tmp_path.iterdir()) == [path]
    assert written.bins == len(run.bin(recording).counts) and 0 < written.difference < 1e-6
    assert written.inputs == {"counts": ["streams", len(run.units)],
                              "model.state0": ["streams", 2, 5]}  # fmt: skip


def test_a_file_that_differs_is_not_kept(made, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", 0.0)
    monkeypatch.setattr(export, "DRAWN_BINS", 100)
    with pytest.raises(BciDecodeError, match=r"out.onnx: was not written: .* differs from PyTorch"):
        export.export_onnx(made("gru"), tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_difference_is_measured_in_sds(made, model_of, tmp_path):
    """A decoder whose head adds 1 mm/s is that much away."""
    run, changed, path = made("gru"), onnx.ModelProto(), tmp_path / "changed.onnx"
    changed.CopyFrom(model_of("gru"))
    (mean,) = (i for i in changed.graph.initializer if i.name.endswith("unscaling.mean"))
    values = onnx.numpy_helper.to_array(mean) + np.array([0.0, 1.0])
    mean.CopyFrom(onnx.numpy_helper.from_array(values, mean.name))
    path.write_bytes(changed.SerializeToString())
    counts = np.ones((30, len(run.units)), np.float32)
    found = export.largest_difference(run, export.OnnxDecoder(path), counts)
    assert found == pytest.approx(1 / run.scaler("target").std[1], rel=1e-4)


def test_two_streams_are_verified_and_not_one_alone(made, model_of, tmp_path):
    """A model that gives every stream the output of the first one equals PyTorch with one."""
    run, changed, path = made("gru"), onnx.ModelProto(), tmp_path / "changed.onnx"
    changed.CopyFrom(model_of("gru"))
    path.write_bytes(changed.SerializeToString())
    assert export.difference_in_streams(run, path) < 1e-6
    graph, (output, *_) = changed.graph, changed.graph.output
    for node in graph.node:
        node.output[:] = ["own" if name == output.name else name for name in node.output]
    first = onnx.numpy_helper.from_array(np.array([0]), "first")
    graph.initializer.append(first)
    graph.node.append(onnx.helper.make_node("Gather", ["own", "first"], ["row"], axis=0))
    graph.node.append(onnx.helper.make_node("Shape", ["own"], ["shape"]))
    graph.node.append(onnx.helper.make_node("Expand", ["row", "shape"], [output.name]))
    path.write_bytes(changed.SerializeToString())
    counts = np.ones((30, len(run.units)), np.float32)
    assert export.largest_difference(run, export.OnnxDecoder(path), counts) < 1e-6
    assert export.difference_in_streams(run, path) > 1e-2


def test_a_session_that_verifies_little_is_named(made, recording, caplog):
    session = bd.read_session(recording)
    few = 2 * len(session.units) // 5
    less = dataclasses.replace(
        session, units=session.units[:few], spike_times=session.spike_times[:few]
    )
    export._in_order(made("gru"), made("gru").bin(less))
    line = f"{session.name}: verifies little, with .* bins and {few} of the decoder's"
    assert re.search(line, caplog.text)


def called(capsys, monkeypatch, *words) -> tuple[int, str, str]:
    from bci_decode.cli import main

    monkeypatch.setattr(sys, "argv", ["bci-decode", "export", *map(str, words)])
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def test_the_command_uses_the_runs_own_recording(made, recording, tmp_path, capsys, monkeypatch):
    run, path = made("gru"), tmp_path / "out.onnx"
    md5 = hashlib.md5(recording.read_bytes()).hexdigest()
    state = torch.load(run.folder / "best.pt")
    state["session"] |= {"name": "s", "md5": md5}
    own = tmp_path / "own"
    own.mkdir()
    torch.save(state, own / "best.pt")
    (own / "metrics.json").write_text(json.dumps({"data": {"file": str(recording)}}))
    code, out, _ = called(capsys, monkeypatch, own, path)
    assert code == 0 and path.is_file()
    assert out.startswith(f"wrote {path}: ") and " nodes\ninputs: counts (streams, " in out
    bins = len(run.bin(recording).counts)
    assert f"verified over {bins} bins of {recording.stem}, and over two streams" in out


def test_without_a_recording_counts_are_drawn(made, tmp_path, capsys, monkeypatch):
    words = made("gru").folder, tmp_path / "out.onnx", "--opset", 18
    code, out, _ = called(capsys, monkeypatch, *words)
    assert code == 0 and "2000 bins of counts drawn at random, and over two streams" in out
    assert onnx.load(words[1]).opset_import[0].version == 18


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("none", "{tmp}/a.onnx"), "no such run"),
        (("{run}", "{tmp}/a.pt"), "has another ending than .onnx; name a FILE.onnx"),
        (("{run}", "{tmp}/none/a.onnx"), "none: no such folder"),
        (("{run}", "{tmp}/folder.onnx"), "folder.onnx: is a folder"),
        (("{run}", "/proc/a.onnx"), "/proc"),
        (("{run}", "{tmp}/a.onnx", "--opset", "9"), "--opset: is 9; give 18 to 23"),
        (("{run}", "{tmp}/a.onnx", "--session", "{tmp}/none.mat"), "none.mat"),
        (("{run}", "{tmp}/a.onnx", "--session", ""), "--session: is empty; name a file"),
        (("{bad}", "{tmp}/a.onnx"), "needs all later bins"),
    ],
)
def test_mistakes_are_one_line(words, line, made, tmp_path, capsys, monkeypatch):
    (tmp_path / "folder.onnx").mkdir()
    places = {"run": made("gru").folder, "bad": made("both ways").folder, "tmp": tmp_path}
    code, out, err = called(capsys, monkeypatch, *(word.format(**places) for word in words))
    assert code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and line in err
    assert list(tmp_path.iterdir()) == [tmp_path / "folder.onnx"]


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_library_is_named(name, made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        BciDecodeError, match=rf"{name} is not installed; pip install 'bci_decode\["
    ):
        export.export_onnx(made("gru"), tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_is_noticed_before_the_run_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, _, err = called(capsys, monkeypatch, tmp_path / "no run", tmp_path / "out.onnx")
    assert code == 2 and "onnxruntime is not installed" in err
