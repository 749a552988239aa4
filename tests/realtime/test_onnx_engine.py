"""The ONNX engine equals the others, and an exported file needs neither PyTorch nor a run."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from live_runs import made_run
from recordings import ROOT

import bci_decode as bd
from bci_decode.data.simulate import simulated_session
from bci_decode.errors import BciDecodeError
from bci_decode.realtime.decoder import StreamingDecoder
from bci_decode.realtime.onnx.decoder import OnnxDecoder
from bci_decode.realtime.onnx.engine import OnnxEngine
from bci_decode.realtime.onnx.export import export_onnx

SMALL = "model.recurrent.hidden_size=6"
KINDS = {
    "gru": ("model=gru", SMALL),
    "lngru": ("model=lngru", "data.low_pass=2", SMALL),  # its filter has a state of its own
    "skipping bins": ("model=lstm", "data.window.step=2", SMALL),
    "history": ("model=gru", "data.window.kind=history", "data.window.length=4", SMALL),
    "kalman": ("model=kalman_velocity", "model.lag=2"),
}
EXAMPLE = ROOT / "docs" / "examples" / "onnx_step.py"
WITHOUT_TORCH = "import sys; sys.modules['torch'] = sys.modules['onnx'] = None; "


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    folder = tmp_path_factory.mktemp("session")
    return bd.read_session(simulated_session(folder, seed=0, minutes=2, channels=4))


@pytest.fixture(scope="module")
def made(session, tmp_path_factory):
    """A function that makes a run of a kind, and a decoder with the ONNX engine, once each."""
    home, runs = tmp_path_factory.mktemp("runs"), {}

    def make(kind: str):
        if kind not in runs:
            run = made_run(home / kind.replace(" ", "_"), session, *KINDS[kind])
            runs[kind] = run, StreamingDecoder(run, "onnx")
        run, decoder = runs[kind]
        decoder.reset()
        return run, decoder, run.bin(session).counts[:, run.match_units(run.bin(session))]

    return make


@pytest.fixture(scope="module")
def exported(made, tmp_path_factory):
    """A file of the GRU."""
    path = tmp_path_factory.mktemp("exported") / "gru.onnx"
    export_onnx(made("gru")[0], path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_equals_the_whole_session(kind, made, session):
    run, decoder, counts = made(kind)
    assert type(decoder._engine) is OnnxEngine
    whole = run.decode(session)[list(run.axes)].to_numpy()
    decoded = decoder.predict(counts)
    sd = run.bin(session).kinematics.std(axis=0)
    assert (np.abs(decoded - whole).max(axis=0) <= 1e-6 * sd).all()
    assert decoded.dtype == np.float64


@pytest.mark.parametrize("kind", KINDS)
def test_preparing_the_next_bin_changes_no_bit(kind, made):
    _, decoder, counts = made(kind)
    plain = decoder.predict(counts[:60])
    decoder.reset()
    for bin_, expected in zip(counts, plain, strict=False):
        decoder.prepare()
        np.testing.assert_array_equal(decoder.step(bin_), expected)
        decoder.prepare()
        decoder.prepare()


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_state_continues_to_the_bit(kind, made):
    run, decoder, counts = made(kind)
    decoder.predict(counts[:30])
    state = decoder.state
    decoder.prepare()
    rest = decoder.predict(counts[30:60])
    decoder.prepare()
    decoder.state = state
    np.testing.assert_array_equal(decoder.predict(counts[30:60]), rest)
    torch_decoder = StreamingDecoder(run, "torch")
    torch_decoder.state = state  # both engines have the same state
    expected = torch_decoder.predict(counts[30:60])
    np.testing.assert_allclose(rest, expected, rtol=0, atol=1e-5 * expected.std())


def test_the_step_is_cut_where_it_has_products(made):
    cut = {kind: made(kind)[1]._engine._early is not None for kind in KINDS}
    assert cut == {**dict.fromkeys(KINDS, True), "history": False}


def test_a_file_decodes_as_its_run(made, exported):
    run, decoder, counts = made("gru")
    alone = OnnxDecoder(exported)
    expected = decoder.predict(counts[:100])
    outputs = alone.predict(counts[:50])
    state = alone.state
    rest = alone.predict(counts[50:100])
    np.testing.assert_allclose(np.concatenate([outputs, rest]), expected, rtol=0, atol=1e-4)
    other = OnnxDecoder(exported)
    other.state = state
    np.testing.assert_array_equal(other.predict(counts[50:100]), rest)
    other.reset()
    np.testing.assert_array_equal(other.predict(counts[:50]), outputs)
    assert alone.axes == decoder.axes and alone.bin_width == decoder.bin_width
    assert alone.lag == decoder.lag and alone.unit == decoder.unit and alone.model == "gru"
    assert alone.target == "velocity" and alone.count_window is alone.presence is None
    assert alone.units == [tuple(unit) for unit in run.state["units"]]
    assert alone.predict(counts[:0]).shape == (0, 2)


def test_a_state_of_a_file_is_a_copy(made, exported):
    decoder, (_, _, counts) = OnnxDecoder(exported), made("gru")
    decoder.predict(counts[:5])
    state = decoder.state
    following = decoder.step(counts[5])
    decoder.state = state
    for values in state.values():
        values[:] = 9
    np.testing.assert_array_equal(decoder.step(counts[5]), following)
    with pytest.raises(BciDecodeError, match="state: has"):
        decoder.state = {}
    with pytest.raises(BciDecodeError, match=r"state: model.state0: is not finite"):
        decoder.state = {name: values * np.nan for name, values in state.items()}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda counts: counts[:-1], r"counts: have shape \(\d+,\), the decoder needs"),
        (lambda counts: counts[None], "have shape"),
        (lambda counts: np.where(np.arange(len(counts)) == 2, np.nan, counts), "nan for unit 2"),
        (lambda counts: np.where(np.arange(len(counts)) == 3, np.inf, counts), "inf for unit 3"),
        (lambda counts: np.where(np.arange(len(counts)) == 1, -1.0, counts), "-1.0 for unit 1"),
        (lambda counts: np.where(np.arange(len(counts)) == 1, 1e300, counts), "inf for unit 1"),
        (lambda counts: counts.astype(str), "are of type <U"),
    ],
)
def test_bad_counts_are_refused_and_leave_the_state(change, line, made, exported):
    decoder, (_, _, counts) = OnnxDecoder(exported), made("gru")
    first = decoder.step(counts[0])
    with pytest.raises(BciDecodeError, match=line):
        decoder.step(change(counts[1]))
    following = decoder.step(counts[1])
    decoder.reset()
    np.testing.assert_array_equal(decoder.predict(counts[:2]), [first, following])


def test_files_that_are_no_decoder_are_refused(exported, tmp_path):
    def refused(name: str, line: str):
        with pytest.raises(BciDecodeError, match=f"{name}: {line}") as error:
            OnnxDecoder(tmp_path / name)
        assert "\n" not in str(error.value)

    refused("none.onnx", "no such file")
    (tmp_path / "text.onnx").write_text("no model")
    refused("text.onnx", "onnxruntime cannot load it")
    (tmp_path / "cut.onnx").write_bytes(exported.read_bytes()[:2000])
    refused("cut.onnx", "onnxruntime cannot load it")
    model = onnx.load(exported)
    props = {prop.key: prop.value for prop in model.metadata_props}
    onnx.helper.set_model_props(model, {**props, "format": "bci_decode step 2"})
    onnx.save(model, tmp_path / "later.onnx")
    refused("later.onnx", "has the format 'bci_decode step 2', not 'bci_decode step 1'")
    onnx.helper.set_model_props(model, {**props, "units": "channel 1"})
    onnx.save(model, tmp_path / "damaged.onnx")
    refused("damaged.onnx", "metadata: units: is 'channel 1', not JSON; write it again")
    onnx.helper.set_model_props(model, {**props, "state": '[{"name": "model.state0"}]'})
    onnx.save(model, tmp_path / "state.onnx")
    refused("state.onnx", "metadata: state: does not describe arrays; write it again")
    onnx.helper.set_model_props(model, {key: props[key] for key in props if key != "lag"})
    onnx.save(model, tmp_path / "less.onnx")
    refused("less.onnx", "metadata: lag: is missing; write it again")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    refused("other.onnx", "is another ONNX model")


def test_what_another_program_notes_in_a_file_is_left_alone(exported, tmp_path):
    model, path = onnx.load(exported), tmp_path / "noted.onnx"
    props = {prop.key: prop.value for prop in model.metadata_props}
    onnx.helper.set_model_props(model, {**props, "optimized_by": "a tool, version 2"})
    onnx.save(model, path)
    assert OnnxDecoder(path).units == OnnxDecoder(exported).units


def python(*words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_file_needs_no_pytorch(exported):
    code = (
        f"from bci_decode.realtime.onnx.decoder import OnnxDecoder as D; d = D({str(exported)!r})"
    )
    out = python("-c", f"{WITHOUT_TORCH}{code}; print(d.step([1] * len(d.units)).shape)")
    assert out == "(2,)\n"


def test_the_example_decodes_without_pytorch(made, exported, tmp_path):
    _, _, counts = made("gru")
    np.save(tmp_path / "counts.npy", counts[:40])
    arguments = ["onnx_step.py", str(exported), str(tmp_path / "counts.npy")]
    code = f"import runpy; sys.argv = {arguments}; runpy.run_path({str(EXAMPLE)!r})"
    heading, *lines = python("-c", WITHOUT_TORCH + code).splitlines()
    assert heading == "time_s,x_mm/s,y_mm/s"
    values = np.array([line.split(",") for line in lines], float)
    expected = OnnxDecoder(exported).predict(counts[:40])
    np.testing.assert_allclose(values[:, 1:], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(values[:, 0], 0.064 * np.arange(1, 41), atol=5e-4)
    assert len(python(str(EXAMPLE), str(exported)).splitlines()) == 21  # counts drawn at random
