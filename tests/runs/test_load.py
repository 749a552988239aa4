"""From a run's folder back to a decoder: what it decodes is what the run reported."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from composing import compose
from recordings import recording, write_mat73
from sklearn.exceptions import NotFittedError

import bci_decode as bd
from bci_decode.cli import run_command
from bci_decode.errors import BciDecodeError
from bci_decode.runs.build import build_decoder, load_data
from bci_decode.runs.initial_weights import load_initial_weights
from bci_decode.runs.run import run

SMALL = ["trainer.epochs=2", "session.minutes=1", "model.recurrent.hidden_size=8"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def words(home) -> list[str]:
    return [f"output_dir={home / 'outputs'}", f"data_dir={home / 'data'}"]


MODELS = {
    "lngru": ["model=lngru", *SMALL],
    "history": [
        "experiment=source_study",
        "model=gru",
        "session.minutes=1",
        "data.split.first_bins=700",
        "trainer.epochs=1",
        "model.recurrent.hidden_size=8",
    ],
    "wiener": ["model=wiener", "session.minutes=1", "data.lag=0.06"],
    "merged": [
        "model=gru",
        *SMALL,
        "data.units=merged",
        "data.min_rate=1",
        "output_dir=${data_dir}/o",
    ],
}


@pytest.fixture(scope="module", params=list(MODELS))
def folder(request, home, words) -> Path:
    return run(compose(*words, *MODELS[request.param]), progress=False)


def session_of(folder: Path) -> bd.Session:
    return bd.read_session(json.loads((folder / "metrics.json").read_text())["data"]["file"])


def test_a_loaded_run_decodes_what_the_run_reported(folder):
    loaded, session = bd.load_run(folder), session_of(folder)
    with np.load(folder / "predictions.npz") as saved:
        decoded = loaded.predictions(session)
        np.testing.assert_array_equal(decoded["time"], saved["time"])
        np.testing.assert_array_equal(decoded["true"], saved["true"])
        np.testing.assert_allclose(decoded["decoded"], saved["decoded"], rtol=0, atol=1e-4)
    test = loaded.metrics["scores"]["test"]
    score = loaded.score(session)
    for name in ("r2", "cc", "rmse", "snr_db"):
        expected = [test[f"{name}_x"], test[f"{name}_y"], test[name]]
        np.testing.assert_allclose(score[name], expected, rtol=1e-5)
    assert list(score.index) == ["x", "y", "mean"]


def test_a_whole_session_is_decoded_from_the_past_alone(folder):
    loaded, session = bd.load_run(folder), session_of(folder)
    binned = loaded.bin(session)
    velocity = loaded.decode(session)
    assert list(velocity.columns) == ["time", "x", "y"] and len(velocity) == len(binned.counts)
    counts = binned.counts.copy()
    counts[500:] += 3
    changed = loaded.decode(type(binned)(**vars(binned) | {"counts": counts}))
    pd.testing.assert_frame_equal(velocity[:500], changed[:500], rtol=0, atol=1e-3)
    assert not np.allclose(velocity["x"][500:], changed["x"][500:])


def test_best_pt_is_self_contained_and_plain(folder, tmp_path):
    """It loads with weights_only, without the run's other files, and needs no Hydra application."""
    shutil.copy(folder / "best.pt", tmp_path / "mine.pt")
    state = torch.load(tmp_path / "mine.pt", weights_only=True)
    assert {"format", "version", "names", "model", "data", "units", "mean", "std"} <= set(state)
    session = session_of(folder)
    alone, whole = (bd.load_run(path).decode(session) for path in (tmp_path / "mine.pt", folder))
    pd.testing.assert_frame_equal(alone, whole)


def test_units_are_matched_by_channel_and_row(home, words, caplog):
    folder = run(compose(*words, *MODELS["lngru"]), progress=False)
    loaded, session = bd.load_run(folder), session_of(folder)
    binned = loaded.bin(session)
    order = np.random.default_rng(0).permutation(len(binned.units))
    fields = vars(binned) | {
        "counts": binned.counts[:, order],
        "units": binned.units.iloc[order].reset_index(drop=True),
    }
    pd.testing.assert_frame_equal(loaded.decode(type(binned)(**fields)), loaded.decode(session))
    fields |= {
        "counts": fields["counts"][:, 3:],
        "units": fields["units"][3:].reset_index(drop=True),
    }
    assert (loaded.match_units(type(binned)(**fields)) < 0).sum() == 3
    assert f"3 of the decoder's {len(binned.units)} units are missing" in caplog.text
    other = binned.units.assign(channel="elsewhere")
    with pytest.raises(BciDecodeError, match=r"none of the decoder's \d+ units is in it"):
        loaded.decode(type(binned)(**vars(binned) | {"units": other}))


def test_a_range_of_time_is_decoded_and_scored(folder):
    loaded, session = bd.load_run(folder), session_of(folder)
    start = session.t[0] + 10
    velocity = loaded.decode(session, start, start + 5)
    assert start <= velocity["time"].iloc[0] and velocity["time"].iloc[-1] <= start + 5 + 1e-6
    assert len(velocity) in (77, 78)
    assert len(loaded.score(session, start, start + 5)) == 3
    with pytest.raises(BciDecodeError, match="fewer than two bins lie from"):
        loaded.decode(session, start=1e9)


def test_what_cannot_be_loaded_is_one_line(folder, tmp_path):
    with pytest.raises(BciDecodeError, match="no such run, or it has no best.pt; name the folder"):
        bd.load_run(tmp_path / "absent")
    (tmp_path / "best.pt").write_bytes(b"no checkpoint")
    with pytest.raises(BciDecodeError, match="is damaged"):
        bd.load_run(tmp_path)
    state = torch.load(folder / "best.pt", weights_only=True)
    torch.save({"decoder": state["decoder"], "epoch": 1}, tmp_path / "best.pt")
    with pytest.raises(BciDecodeError, match="was written by an earlier version"):
        bd.load_run(tmp_path)
    state["model"]["settings"]["_target_"] = "os.system"
    torch.save(state, tmp_path / "best.pt")
    with pytest.raises(
        BciDecodeError, match=r"names os.system as a part of its model; if you trust"
    ):
        bd.load_run(tmp_path)


def test_raised_epochs_continue_to_the_result_of_one_long_run(home, words):
    """Three epochs, then two more, are equal to five at once, to the last bit."""
    small = ["model=lngru", "session.minutes=1", "model.recurrent.hidden_size=8", "seed=5"]
    elsewhere = [f"output_dir={home / 'long'}", words[1]]
    long = run(compose(*elsewhere, *small, "trainer.epochs=5"), progress=False)
    run(compose(*words, *small, "trainer.epochs=3"), progress=False)
    folder = run(compose(*words, *small, "trainer.epochs=5"), progress=False)
    histories = [
        pd.read_csv(path / "history.csv").drop(columns="seconds") for path in (long, folder)
    ]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    figures = [json.loads((path / "metrics.json").read_text()) for path in (long, folder)]
    assert figures[0]["scores"] == figures[1]["scores"] and figures[1]["epochs"] == 5


def test_init_from_starts_with_the_weights_of_a_run(home, words):
    folder = run(compose(*words, *MODELS["lngru"]), progress=False)
    again = compose(*words, *MODELS["lngru"], f"init_from={folder}", "seed=7")
    warm = pd.read_csv(run(again, progress=False) / "history.csv")
    cold = pd.read_csv(folder / "history.csv")
    best = json.loads((folder / "metrics.json").read_text())["best_epoch"]
    assert warm["val_loss"][0] == pytest.approx(cold["val_loss"][best], rel=1e-6)
    with pytest.raises(BciDecodeError, match=r"has none of these units"):
        run(compose(*words, *MODELS["lngru"], f"init_from={folder}", "data.units=merged", "seed=8"))
    with pytest.raises(BciDecodeError, match=r"is of another model"):
        wide = "model.recurrent.hidden_size=9"
        run(compose(*words, *MODELS["lngru"], wide, f"init_from={folder}", "seed=8"))


def test_init_from_matches_inputs_by_channel_and_row(home, words, caplog):
    """In another order, and with a unit that the other run did not have."""
    folder = run(compose(*words, *MODELS["lngru"]), progress=False)
    state = torch.load(folder / "best.pt", weights_only=True)
    config = compose(*words, *MODELS["lngru"])
    data = load_data(config)
    order = np.random.default_rng(0).permutation(len(data.units))
    units = data.units.iloc[order].reset_index(drop=True)
    units.loc[2, "channel"] = "another"
    decoder = build_decoder(config, data)
    fresh = decoder.recurrent.weight_ih_l0.detach().clone()
    with caplog.at_level("INFO"):
        load_initial_weights(decoder, folder, dataclasses.replace(data, units=units))
    assert f"weights for {len(units) - 1} of {len(units)} units" in caplog.text
    expected = state["decoder"]["recurrent.weight_ih_l0"][:, order].clone()
    expected[:, 2] = fresh[:, 2]
    torch.testing.assert_close(decoder.recurrent.weight_ih_l0.detach(), expected)


def test_ranges_that_the_run_learned_from_are_named(folder, caplog):
    loaded, session = bd.load_run(folder), session_of(folder)
    early = loaded.predictions(session, session.t[0], session.t[0] + 10)
    assert early["overlaps"] == ["train"] and "which the run learned from" in caplog.text
    assert loaded.predictions(session)["overlaps"] == []


def test_training_leaves_the_threads_and_the_random_state_alone(home, words):
    torch.manual_seed(123)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    run(compose(*words, *MODELS["lngru"], "seed=11"), progress=False)
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads


def test_an_estimator_refuses_what_it_cannot_learn_from():
    counts, velocity = np.zeros((1000, 3)), np.zeros((1000, 4))
    with pytest.raises(BciDecodeError, match="D up to 3"):
        bd.RNNDecoder().fit(counts.tolist(), velocity)
    with pytest.raises(BciDecodeError, match="model=wiener: is no recurrent model"):
        bd.RNNDecoder(model="wiener").fit(counts, velocity[:, :2])
    with pytest.raises(NotFittedError):
        bd.RNNDecoder().predict(counts)


def test_an_estimator_selects_on_validation_whatever_the_recipe():
    rng = np.random.default_rng(0)
    counts = rng.poisson(3.0, (600, 3))
    words = ["experiment=source_study", "model.recurrent.hidden_size=8"]
    decoder = bd.RNNDecoder("gru", epochs=3, overrides=words).fit(counts, counts[:, :2] * 10.0)
    assert np.ptp(decoder.predict(counts), axis=0).min() > 0
    assert decoder.history_["val_loss"].notna().all()


def test_train_is_the_command_as_a_function(tmp_path):
    file = write_mat73(tmp_path / "my (odd) é.mat", recording(samples=25_000))
    overrides = ["trainer.epochs=1", "model.recurrent.hidden_size=8", "data.lag=0.06"]
    loaded = bd.train(file, "gru", overrides, output_dir=tmp_path / "out", progress=False)
    assert loaded.folder == tmp_path / "out" / "default" / "my (odd) é" / "gru" / "seed0"
    assert loaded.config.lag == 0.06 and len(loaded.history) == 2
    assert bd.train(file, "gru", overrides, output_dir=tmp_path / "out").folder == loaded.folder


def test_train_loads_the_parts_that_its_caller_named(tmp_path, monkeypatch):
    """A part of one's own is made; who loads the run later has to trust it."""
    (tmp_path / "mylab.py").write_text("import torch\nclass Head(torch.nn.Linear): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = [*SMALL, "model.head._target_=mylab.Head", f"data_dir={tmp_path}"]
    loaded = bd.train(None, "gru", words, output_dir=tmp_path / "out", progress=False)
    assert type(loaded.model.head).__module__ == "mylab"
    with pytest.raises(BciDecodeError, match="names mylab.Head as a part of its model"):
        bd.load_run(loaded.folder)
    assert bd.load_run(loaded.folder, trust=("mylab.",)).axes == loaded.axes
    words = [str(loaded.folder), "--session", str(next(tmp_path.glob("*.mat")))]
    with pytest.raises(BciDecodeError, match=r"--trust mylab\. as an option, or load_run"):
        run_command("evaluate", words)
    with pytest.raises(BciDecodeError, match="--trust: is ''; name a package"):
        run_command("evaluate", [*words, "--trust="])
    run_command("evaluate", [*words, "--trust", "other.", "--trust", "mylab."])
    assert list((loaded.folder / "evaluations").glob("*/evaluation.json"))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_an_estimator_learns_from_arrays(axes):
    rng = np.random.default_rng(0)
    counts = rng.poisson(3.0, (1500, 4))
    velocity = np.stack([counts[:, k] - counts[:, (k + 1) % 4] for k in range(axes)], axis=1) * 20.0
    small = [
        "model.recurrent.hidden_size=16",
        "model.dropout=0",
        "model.recurrent.dropout=0",
        "optimizer.lr=0.02",
    ]
    decoder = bd.RNNDecoder(model="gru", epochs=60, overrides=small).fit(
        counts[:1000], velocity[:1000]
    )
    assert decoder.predict(counts[1000:]).shape == (500, axes)
    assert decoder.score(counts[1000:], velocity[1000:]) > 0.7
    with pytest.raises(BciDecodeError, match="give counts"):
        decoder.fit(counts, velocity[:-1])


def test_the_package_is_imported_quickly_and_lazily():
    heavy = "{'torch', 'numpy', 'pandas', 'hydra'}"
    code = f"import sys, bci_decode; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    for name in bd.__all__:
        assert getattr(bd, name) is not None


def test_evaluate_scores_and_draws_another_file(folder, tmp_path):
    session = session_of(folder)
    command = [
        sys.executable,
        "-m",
        "bci_decode.evaluate",
        str(folder),
        "--session",
        str(session.path),
    ]
    done = subprocess.run([*command, "--output", "e"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    assert report["scores"]["r2"] == pytest.approx(metrics["scores"]["test"]["r2"])
    assert (
        f"{metrics['scores']['test']['r2']:.3f}" in done.stdout and "test part alone" in done.stderr
    )
    assert {path.name for path in (tmp_path / "e").iterdir()} == {
        "evaluation.json",
        "predictions.npz",
        "trajectory.png",
    }
    wrong = subprocess.run(
        [*command[:-1], "absent.mat"], cwd=tmp_path, capture_output=True, text=True
    )
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: absent.mat: no such file")


@pytest.mark.parametrize("order", ["import bci_decode.train; ", ""])
def test_train_is_a_function_whether_the_command_is_imported_or_not(order, tmp_path):
    """`bci_decode.train` is the module of the command and, as an attribute, the function."""
    call = "bd.train(model='nope')"
    code = f"{order}import bci_decode as bd; bd.load_run; {call}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert "BciDecodeError: model=nope: there is none; choose one of " in done.stderr
