"""Live decoding gives what decoding a whole session gives, for every model and window."""

from __future__ import annotations

import dataclasses
import logging
import threading

import numpy as np
import pytest
from live_runs import made_run

import bci_decode as bd
from bci_decode.data.simulate import simulated_session
from bci_decode.errors import BciDecodeError
from bci_decode.realtime.decoder import WARM_UP, StreamingDecoder
from bci_decode.realtime.engines import TorchEngine

SMALL = "model.recurrent.hidden_size=32"
RECURRENT = (
    "gru", "lngru", "normgru", "lstm", "lnlstm", "rnn", "lnrnn", "mingru", "lru", "hgrn",
    "gru_prenorm", "gru_postnorm",
)  # fmt: skip
HISTORY = ("data.window.kind=history", "data.window.length=6", SMALL)
KINDS = {
    **{name: (f"model={name}", SMALL) for name in RECURRENT},
    # random weights with gain 1 are chaotic: they amplify the last bit
    "lnrnn": ("model=lnrnn", "model.recurrent.initial_gain=0.5", SMALL),
    "sum": ("model=lngru", "model.recurrent.place=sum", SMALL),
    "sum2": ("model=lngru", "model.recurrent.place=sum2", SMALL),
    "aegru": ("experiment=aegru", SMALL),
    "batch norm per step": ("model=normgru", "model.recurrent.norm=batch_per_step", SMALL),
    "ensemble": ("model=lngru", "ensemble=3", SMALL),
    "filtered": ("model=gru", "data.low_pass=2", SMALL),
    "filtered lstm": ("model=lstm", "data.low_pass=2", SMALL),
    "skipping bins": ("model=gru", "data.count_window=0.128", "data.window.step=2", SMALL),
    "skipping bins lstm": ("model=lstm", "data.count_window=0.128", "data.window.step=2", SMALL),
    "presence": ("model=gru", "data.presence=0.004", SMALL),
    "unscaled counts": ("model=gru", "data.scale.counts=none", SMALL),
    "wiener": ("model=wiener",),
    "cascade": ("model=cascade",),
    "kalman": ("model=kalman",),
    "kalman with lag": ("model=kalman_velocity", "model.lag=3"),
    "kalman from its prior": ("model=kalman", "model.steady_state=false", "model.lag=1"),
    "history": ("model=gru", *HISTORY),
    "history lngru": ("model=lngru", "data.window.step=2", *HISTORY),
    "history lstm": ("model=lstm", "data.window.step=2", *HISTORY),
    "history ensemble": ("model=gru", "ensemble=2", *HISTORY),
    "history both ways": ("model=gru", "bidirectional=true", *HISTORY),
    "source study": (
        "experiment=source_study", "model=lngru", "data.split.first_bins=700",
        "data.window.length=6", SMALL,
    ),
}  # fmt: skip
# In float32 the whole session decoded at once is itself that far from float64, in the target's SD.
PRECISION = {"lru": 4e-6, "lnrnn": 4e-6, "aegru": 4e-6}
MOST_BINS = 2000  # the whole session of 120 s, but for AEGRU, whose bins of 4 ms are 30,000
FAST = {
    "gru", "lngru", "sum", "sum2", "ensemble", "filtered", "skipping bins", "presence",
    "unscaled counts", "history", "history lngru", "history ensemble", "source study",
}  # fmt: skip


def engines_of(kind: str) -> tuple[str, ...]:
    return ("fast", "torch") if kind in FAST else ("torch",)  # "fast" then is the same engine


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> bd.Session:
    folder = tmp_path_factory.mktemp("session")
    return bd.read_session(simulated_session(folder, seed=0, minutes=2, channels=8))


@pytest.fixture(scope="module")
def made(session, tmp_path_factory):
    """A function that makes a run of a kind once; returns it with the session's bins and scores."""
    home, runs = tmp_path_factory.mktemp("runs"), {}

    def make(kind: str):
        if kind not in runs:
            run = made_run(home / kind.replace(" ", "_"), session, *KINDS[kind])
            binned = run.bin(session)
            stop = binned.edges[MOST_BINS] if len(binned.counts) > MOST_BINS else None
            decoded = run.decode(binned, stop=stop)
            runs[kind] = run, binned, decoded[list(run.axes)].to_numpy()
        return runs[kind]

    return make


@pytest.mark.parametrize(("kind", "engine"), [(k, e) for k in KINDS for e in engines_of(k)])
def test_bin_by_bin_equals_the_whole_session(kind, engine, made):
    run, binned, whole = made(kind)
    decoder = StreamingDecoder(run, engine, units=binned.units)
    decoded = decoder.predict(binned.counts[: len(whole)])
    error = np.abs(decoded - whole).max(axis=0)
    sd = binned.kinematics.std(axis=0)
    assert (error <= PRECISION.get(kind, 1e-6) * sd).all(), error / sd
    assert whole.std(axis=0).min() > 1e-4 * sd.max()
    assert decoded.dtype == np.float64 and decoded.shape == whole.shape


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_kernels_run_what_they_can(kind, made):
    assert StreamingDecoder(made(kind)[0]).runs_on == ("fast" if kind in FAST else "torch")


@pytest.mark.parametrize("engine", ["fast", "torch"])
@pytest.mark.parametrize("kind", ["gru", "lru", "kalman with lag", "filtered", "history lngru",
                                  "skipping bins", "history ensemble"])  # fmt: skip
def test_a_saved_state_continues_to_the_bit(kind, engine, made, tmp_path):
    run, binned, _ = made(kind)
    counts = binned.counts[:, run.match_units(binned)][:120]
    decoder = StreamingDecoder.load(run.folder, engine)
    decoder.predict(counts[:50])
    np.savez(tmp_path / "state.npz", **decoder.state)
    rest = decoder.predict(counts[50:])
    other = StreamingDecoder.load(run.folder, engine)
    with np.load(tmp_path / "state.npz") as state:
        other.state = dict(state)
    np.testing.assert_array_equal(other.predict(counts[50:]), rest)
    other.reset()
    decoder.reset()
    np.testing.assert_array_equal(other.predict(counts[:50]), decoder.predict(counts[:50]))


def test_a_state_is_a_copy(made):
    run, binned, _ = made("gru")
    decoder = StreamingDecoder(run, units=binned.units)
    decoder.predict(binned.counts[:5])
    state = decoder.state
    following = decoder.step(binned.counts[5])
    for values in state.values():
        values *= 1  # not read-only
    decoder.state = state
    for values in state.values():
        values[:] = 9
    np.testing.assert_array_equal(decoder.step(binned.counts[5]), following)


@pytest.mark.parametrize("kind", ["gru", "lngru", "ensemble", "skipping bins", "history", "lstm"])
def test_preparing_the_next_bin_changes_no_bit(kind, made):
    run, binned, _ = made(kind)
    plain, prepared = (StreamingDecoder(run, units=binned.units) for _ in range(2))
    for counts in binned.counts[:60]:
        expected = plain.step(counts)
        np.testing.assert_array_equal(prepared.step(counts), expected)
        prepared.prepare()


def test_what_is_prepared_is_not_used_for_another_state(made):
    run, binned, _ = made("lngru")
    decoder = StreamingDecoder(run, units=binned.units)
    start = decoder.state
    first = decoder.step(binned.counts[0])
    decoder.step(binned.counts[1])
    decoder.prepare()
    decoder.state = start
    np.testing.assert_array_equal(decoder.step(binned.counts[0]), first)
    decoder.prepare()
    decoder.reset()
    np.testing.assert_array_equal(decoder.step(binned.counts[0]), first)


@pytest.mark.parametrize("engine", ["fast", "torch"])
@pytest.mark.parametrize("kind", ["lngru", "history", "unscaled counts", "wiener"])
def test_units_in_another_order_or_missing(kind, engine, made, caplog):
    run, binned, _ = made(kind)
    kept = np.random.default_rng(0).permutation(len(binned.units))[: len(binned.units) - 3]
    units = binned.units.iloc[kept].reset_index(drop=True)
    some = dataclasses.replace(binned, counts=binned.counts[:, kept], units=units)
    whole = run.decode(some)[list(run.axes)].to_numpy()
    caplog.clear()
    decoder = StreamingDecoder(run, engine, units=some.units)
    assert sum("are missing" in line for line in caplog.messages) == 1
    decoded = decoder.predict(some.counts)
    np.testing.assert_allclose(decoded, whole, rtol=0, atol=1e-6 * binned.kinematics.std())


def test_two_decoders_in_one_process_do_not_interfere(made):
    (run, binned, _), (other_run, other_binned, _) = made("gru"), made("lngru")
    pairs = [
        (StreamingDecoder(run, units=binned.units), binned.counts),
        (StreamingDecoder(run, units=binned.units), binned.counts[100:]),
        (StreamingDecoder(other_run, units=other_binned.units), other_binned.counts),
    ]
    mixed = [[], [], []]
    for t in range(80):
        for (decoder, counts), outputs in zip(pairs, mixed, strict=True):
            outputs.append(decoder.step(counts[t]))
            decoder.prepare()
    for (decoder, counts), outputs in zip(pairs, mixed, strict=True):
        decoder.reset()
        np.testing.assert_array_equal(decoder.predict(counts[:80]), outputs)


@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_two_decoders_in_two_threads_do_not_interfere(engine, made):
    kinds = ("gru", "lngru", "history", "gru")
    alone, together, threads = [], [None] * len(kinds), []
    for kind in kinds:
        run, binned, _ = made(kind)
        alone.append(StreamingDecoder(run, engine, units=binned.units).predict(binned.counts))

    def decode(number: int, kind: str) -> None:
        run, binned, _ = made(kind)
        decoder = StreamingDecoder(run, engine, units=binned.units)
        together[number] = decoder.predict(binned.counts)

    for number, kind in enumerate(kinds):
        threads.append(threading.Thread(target=decode, args=(number, kind)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_swap_between_two_bins_loses_none(made):
    (run, binned, _), (other, _, _) = made("gru"), made("lngru")
    decoder = StreamingDecoder(run, units=binned.units)
    first = WARM_UP + 40
    before = decoder.predict(binned.counts[:first])
    decoder.swap(other.folder)
    after = decoder.predict(binned.counts[first : first + 50])
    assert decoder.run.folder == other.folder
    expected = StreamingDecoder(run, units=binned.units).predict(binned.counts[:first])
    np.testing.assert_array_equal(before, expected)
    fresh = StreamingDecoder(other, units=binned.units)
    outputs = fresh.predict(binned.counts[first - WARM_UP : first + 50])
    np.testing.assert_array_equal(after, outputs[WARM_UP:])


def test_swaps_from_another_thread_change_no_output(made):
    """A run that replaces itself has seen the same bins, if there have been no more than 512."""
    run, binned, _ = made("lngru")
    expected = StreamingDecoder(run, units=binned.units).predict(binned.counts[:WARM_UP])
    decoder, done = StreamingDecoder(run, units=binned.units), threading.Event()

    def swap() -> None:
        while not done.is_set():
            decoder.swap(run)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        found = decoder.predict(binned.counts[:WARM_UP])
    finally:
        done.set()
        thread.join()
    np.testing.assert_array_equal(found, expected)


def test_a_reset_during_a_swap_is_kept(made, monkeypatch):
    run, binned, _ = made("gru")
    decoder, original = StreamingDecoder(run, units=binned.units), StreamingDecoder._decode
    decoder.predict(binned.counts[:50])

    def interrupted(self, *arguments):
        monkeypatch.setattr(StreamingDecoder, "_decode", original)
        original(self, *arguments)
        decoder.reset()

    monkeypatch.setattr(StreamingDecoder, "_decode", interrupted)
    decoder.swap(run)
    fresh = StreamingDecoder(run, units=binned.units)
    np.testing.assert_array_equal(decoder.step(binned.counts[9]), fresh.step(binned.counts[9]))


def test_a_swap_after_a_state_was_set_continues_from_it(made):
    run, binned, _ = made("gru")
    decoder, other = (StreamingDecoder(run, units=binned.units) for _ in range(2))
    decoder.predict(binned.counts[:90])
    other.state = decoder.state
    other.swap(run)
    np.testing.assert_array_equal(other.step(binned.counts[90]), decoder.step(binned.counts[90]))


def test_a_swap_to_other_bins_is_refused(made, session, tmp_path):
    run, binned, _ = made("gru")
    decoder = StreamingDecoder(run, units=binned.units)
    wider = made_run(tmp_path / "wider", session, *KINDS["gru"], "data.bin_width=0.096")
    with pytest.raises(BciDecodeError, match=r"data.bin_width: is 0.096, in the running decoder"):
        decoder.swap(wider)
    assert decoder.run is run


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        (np.zeros(7), r"counts: have shape \(7,\), the decoder needs \(\d+,\)"),
        (np.zeros((1, 3)), r"counts: have shape \(1, 3\)"),
        (None, r"are nan for unit 2"),
        (-1, r"are -1.0 for unit 2"),
        (np.inf, r"are inf for unit 2"),
        (1e39, r"are inf for unit 2"),
        ("many", r"counts: are of type <U"),
    ],
)
def test_bad_counts_are_one_line_and_change_nothing(counts, line, made):
    run, binned, _ = made("gru")
    decoder = StreamingDecoder(run, units=binned.units)
    decoder.predict(binned.counts[:5])
    state = decoder.state
    if not isinstance(counts, np.ndarray):
        value, counts = counts, binned.counts[5].astype(str if isinstance(counts, str) else float)
        counts[2] = np.nan if value is None else value
    with pytest.raises(BciDecodeError, match=line) as error:
        decoder.step(counts)
    assert "\n" not in str(error.value)
    for name, values in decoder.state.items():
        np.testing.assert_array_equal(values, state[name])


def test_models_that_need_later_bins_are_refused(session, tmp_path):
    run = made_run(tmp_path / "both", session, "model=gru", "bidirectional=true", SMALL)
    for engine in ("fast", "torch"):
        with pytest.raises(BciDecodeError, match=r"bidirectional: its output for a bin needs all"):
            StreamingDecoder(run, engine)
    norm = "+model.norm={_target_:bci_decode.layers.HistoryNorm}"
    run = made_run(tmp_path / "norm", session, "model=gru", norm, SMALL)
    with pytest.raises(BciDecodeError, match=r"HistoryNorm looks ahead inside a sequence"):
        StreamingDecoder(run)


def test_wrong_words(made, tmp_path):
    run, _, _ = made("gru")
    with pytest.raises(BciDecodeError, match=r"engine: is 'slow'; choose fast, torch"):
        StreamingDecoder(run, "slow")
    with pytest.raises(BciDecodeError, match="no such run"):
        StreamingDecoder.load(tmp_path)
    decoder = StreamingDecoder(run)
    with pytest.raises(BciDecodeError, match="state: has"):
        decoder.state = {"h": np.zeros(3)}
    with pytest.raises(BciDecodeError, match="state: 0.h: is not finite"):
        decoder.state = decoder.state | {"0.h": np.full((1, 2, 32), np.nan)}
    with pytest.raises(BciDecodeError, match=r"state: recent: are \(3, 1\)"):
        decoder.state = decoder.state | {"recent": np.zeros((3, 1))}


def test_the_fast_engine_says_why_it_is_not_used(made, caplog):
    caplog.set_level(logging.INFO)
    StreamingDecoder(made("lstm")[0])
    assert "the torch engine runs it: not LSTM" in caplog.text


def test_without_compiled_kernels_pytorch_runs(made, monkeypatch):
    monkeypatch.setattr("bci_decode.layers.cpu.prepare", lambda *_: False)
    assert isinstance(StreamingDecoder(made("gru")[0])._engine, TorchEngine)


def test_what_a_decoder_says_of_itself(made):
    decoder = StreamingDecoder(made("gru")[0])
    assert decoder.axes == ("x", "y") and decoder.unit == "mm/s" and decoder.target == "velocity"
    assert decoder.bin_width == 0.064 and decoder.lag == 0.0
    assert decoder.predict(np.zeros((0, len(decoder.units)))).shape == (0, 2)
