"""The recipe of the best decoder, from the command's words to a decoder that is loaded again."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from recordings import recording, write_mat73

from bci_decode.errors import BciDecodeError
from bci_decode.models.ensemble import Ensemble
from bci_decode.runs.compose import compose_config
from bci_decode.runs.load import load_run
from bci_decode.runs.run import run

SHORT = (
    "data.bin_width=0.02", "data.window.length=8", "data.window.burn_in=2", "trainer.epochs=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("best")
    file = write_mat73(folder / "toy.mat", recording())
    return ["session=local", f"session.path={file}", f"output_dir={folder}/runs", *SHORT]


@pytest.mark.parametrize("model", ["gru", "lngru", "lru", "wiener"])
def test_any_model_takes_the_recipe(words, model):
    config = compose_config("experiment=best", f"model={model}", *words)
    folder = run(config, progress=False)
    report = json.loads((folder / "metrics.json").read_text())
    closed = model == "wiener"
    assert report["best_epoch"] == (1 if closed else 2)
    assert "last epoch" in report["selection_rule"] or closed
    assert report["protocol"]["split_bins"].keys() == {"train", "test"}
    assert (folder / "loss.png").stat().st_size > 10_000


def test_an_ensemble_with_a_delay_is_loaded_and_decodes_the_same(words):
    more = ["ensemble=3", "data.delay=0.04", "data.low_pass=20", "seed=1"]
    folder = run(compose_config("experiment=best", *words, *more), progress=False)
    loaded = load_run(folder)
    assert isinstance(loaded.model, Ensemble) and len(loaded.model.members) == 3
    report = json.loads((folder / "metrics.json").read_text())
    assert report["protocol"]["delay_s"] == 0.04 and report["protocol"]["low_pass_hz"] == 20
    file = report["data"]["file"]
    score = loaded.score(file).loc["mean", "r2"]
    assert score == pytest.approx(report["scores"]["test"]["r2"], abs=1e-4)
    members = [weights for name, weights in loaded.model.state_dict().items() if "head" in name]
    assert not np.allclose(members[0], members[2])


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("ensemble=0", "ensemble: is 0; choose 1 to 100"),
        ("data.delay=1000", "data.delay: is 1000 s, the recording only"),
        ("model.recurrent.norm=l2", "model.recurrent.norm: .*l2.* choose none, layer"),
        ("model.recurrent.place=gates", "model.recurrent.place: .*gates.* choose input"),
        ("data.split.block=0.01", "data.split.cuts"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(words, tmp_path, word, line):
    base = ["experiment=normalisation", *words, f"output_dir={tmp_path}/runs", word]
    with pytest.raises(BciDecodeError, match=line) as mistake:
        run(compose_config(*base), words=base, progress=False)
    assert "\n" not in str(mistake.value) and not list(tmp_path.rglob("*.csv"))


def test_weight_norm_cannot_stand_at_a_state(words):
    form = ["model.recurrent.norm=weight", "model.recurrent.place=state"]
    with pytest.raises(BciDecodeError, match=r"model.recurrent.place=input, recurrent or apart"):
        run(compose_config("experiment=normalisation", *words, *form), progress=False)


def test_a_unit_that_never_fires_leaves_numbers(tmp_path):
    variables = recording()
    variables["spikes"][0, 0] = np.zeros((0, 1))
    variables["spikes"][0, 1] = np.array([[variables["t"][-1, 0] - 0.1]])  # in the test part alone
    file = write_mat73(tmp_path / "toy.mat", variables)
    base = ["experiment=best", "session=local", f"session.path={file}", f"output_dir={tmp_path}/r"]
    for model in ("gru", "kalman_velocity"):
        folder = run(compose_config(*base, f"model={model}", *SHORT), progress=False)
        history = pd.read_csv(folder / "history.csv")
        assert np.isfinite(history["test_r2"]).all()
