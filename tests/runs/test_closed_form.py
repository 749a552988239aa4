"""Every closed-form model through a whole run: trained, reported, loaded again, decoded."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from composing import compose
from recordings import ROOT

import bci_decode as bd
from bci_decode.errors import BciDecodeError
from bci_decode.runs.build import build_decoder, load_data
from bci_decode.runs.run import run
from bci_decode.style import model_label, model_looks
from bci_decode.training.closed_form import fit_closed_form

MODELS = ("wiener", "cascade", "kalman", "kalman_velocity")


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> list[str]:
    home = tmp_path_factory.mktemp("runs")
    return [f"output_dir={home / 'outputs'}", f"data_dir={home / 'data'}", "session.minutes=1"]


@pytest.fixture(scope="module", params=MODELS)
def folder(request, words) -> Path:
    return run(compose(*words, f"model={request.param}"), progress=False)


def test_has_the_files_and_figures_of_any_run(folder):
    names = {path.name for path in folder.iterdir()}
    figures = {"loss.png", "r2.png", "trajectory.png"}
    assert names >= {"best.pt", "config.yaml", "history.csv", "predictions.npz"} | figures
    history = pd.read_csv(folder / "history.csv")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert history["epoch"].tolist() == [1] and history["lr"].isna().all()
    assert metrics["scores"]["test"]["r2"] == pytest.approx(history["test_r2"][0])
    assert "closed form" in metrics["selection_rule"]
    chosen = re.search(r"alpha [0-9e+]+, chosen by the fit", (folder / "train.log").read_text())
    assert bool(chosen) == (metrics["model"] in ("wiener", "cascade"))


def test_a_loaded_run_decodes_what_the_run_reported(folder):
    loaded = bd.load_run(folder)
    session = bd.read_session(loaded.metrics["data"]["file"])
    with np.load(folder / "predictions.npz") as saved:
        again = loaded.predictions(session)
        np.testing.assert_array_equal(again["true"], saved["true"])
        np.testing.assert_allclose(again["decoded"], saved["decoded"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["wiener", "cascade"])
def test_the_penalty_is_chosen_on_the_validation_part(words, name):
    """And on no bin of the test part: what is there changes nothing that was learned."""
    config = compose(*words, f"model={name}")
    data = load_data(config)
    learned = []
    for test in (data.parts["test"].target, 5 - data.parts["test"].target):
        data.parts["test"].target[:] = test
        model = build_decoder(config, data)
        fit_closed_form(model, data)
        learned.append(model.fitted_arrays())
    np.testing.assert_equal(*learned)
    model = build_decoder(config, data)
    val, train = data.parts["val"], data.parts["train"]
    target = data.target_scaler.transform
    model.fit(train.counts, target(train.target), val.counts, target(val.target))
    np.testing.assert_equal(model.fitted_arrays(), learned[0])
    fixed = compose(*words, f"model={name}", "model.alpha=3000", "data.split.val=0")
    data = load_data(fixed)
    model = build_decoder(fixed, data)
    fit_closed_form(model, data)
    assert model.alpha_ == 3000


@pytest.mark.parametrize("target", ["position", "acceleration"])
def test_a_kalman_filter_of_another_target(words, target):
    folder = run(compose(*words, "model=kalman", f"data.target={target}"), progress=False)
    assert bd.load_run(folder).metrics["scores"]["test"]["r2"] > 0


@pytest.mark.parametrize(
    ("model", "setting", "line"),
    [
        ("wiener", "model.alpha=-1", "model.alpha: is -1"),
        ("cascade", "model.degree=0", "model.degree: is 0"),
        ("kalman", "model.lag=-2", "model.lag: is -2"),
        ("kalman", "model.lag=10000", "model.lag: is 10000, for which 656 bins"),
        ("kalman_velocity", "data.target=position", "model.state: lacks position, the target"),
    ],
)
def test_a_wrong_setting_is_one_line_and_leaves_no_result(words, model, setting, line):
    config = compose(*words, f"model={model}", setting, "seed=7")
    with pytest.raises(BciDecodeError, match=line):
        run(config, progress=False)
    home = Path(words[0].removeprefix("output_dir="))
    assert not list(home.glob("**/seed7*"))


def test_a_singular_covariance_is_one_line_and_leaves_no_result(words):
    config = compose(*words, "model=kalman", "data.units=all", "data.bin_width=2", "seed=8",
                     "data.window.length=2", "data.window.burn_in=1")  # fmt: skip
    with pytest.raises(BciDecodeError, match=r"model.shrinkage: .* units need more than \d+ bins"):
        run(config, progress=False)
    assert not list(Path(words[0].removeprefix("output_dir=")).glob("**/seed8*"))


@pytest.mark.parametrize("model", MODELS)
def test_each_has_a_label_and_looks_of_its_own(model):
    assert (ROOT / "conf" / "model" / f"{model}.yaml").exists()
    assert model_label(model) != model
    looks = [(look["color"], str(look["linestyle"])) for look in model_looks(MODELS).values()]
    assert len(set(looks)) == len(MODELS)
