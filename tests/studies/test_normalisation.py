"""The tables of norms and places, from small finished runs of both recipes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from recordings import ROOT, recording, write_mat73

from bci_decode.errors import BciDecodeError
from bci_decode.runs.build import build_model
from bci_decode.runs.compose import compose_config
from bci_decode.runs.run import run
from bci_decode.studies import normalisation as study

SHORT = (
    "data.bin_width=0.02", "data.window.length=8", "data.window.burn_in=2",
    "model.recurrent.hidden_size=4", "data.split.block=0.2",
)  # fmt: skip
FORMS = {"none": "outputs", "layer": "sum", "rms": "state"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three forms under the modern recipe, two of them stressed, and one that diverges."""
    folder = tmp_path_factory.mktemp("norms")
    file = write_mat73(folder / "toy.mat", recording())
    base = ["experiment=normalisation", "session=local", f"session.path={file}", *SHORT]

    def train(norm, seed, *words):
        form = [f"model.recurrent.norm={norm}", f"model.recurrent.place={FORMS[norm]}"]
        words = [*base, *form, f"seed={seed}", f"output_dir={folder}/runs", *words]
        return run(compose_config(*words), words=words, progress=False)

    for norm in FORMS:
        for seed in range(2):
            train(norm, seed)
    train("rms", 0, "optimizer.lr=3e-2", "trainer.epochs=2", f"output_dir={folder}/runs/lr3")
    return folder / "runs"


def test_a_row_for_each_form_with_its_gain_over_none(runs, tmp_path):
    text = study.normalisation([runs], tmp_path)
    forms = pd.read_csv(tmp_path / "forms.csv", keep_default_na=False, na_values=[""])
    assert dict(zip(forms["norm"], forms["place"], strict=True)) == FORMS
    scores = {}
    for norm, place in FORMS.items():
        folder = runs / "normalisation" / "toy" / f"{norm}-{place}"
        tables = [pd.read_csv(folder / f"seed{seed}" / "chained.csv") for seed in range(2)]
        scores[norm] = np.array([table["r2"].iloc[0] for table in tables])
    row = forms.set_index("norm").loc["rms"]
    assert row["R² modern"] == pytest.approx(scores["rms"].mean())
    gain = scores["rms"] - scores["none"]
    assert row["gain modern"] == pytest.approx(gain.mean())
    assert row["SE of gain modern"] == pytest.approx(gain.std(ddof=1) / 2**0.5)
    assert f"| layer | sum | 2 | {scores['layer'].mean():.3f} ± " in text
    stress = pd.read_csv(tmp_path / "stress.csv")
    assert stress[["lr", "epochs", "runs"]].to_numpy().tolist() == [[3, 2, 1]]


def test_other_runs_alone_are_refused(tmp_path, runs):
    lr3 = runs / "lr3"
    with pytest.raises(BciDecodeError, match="no run of experiment=normalisation"):
        study.normalisation([lr3], tmp_path)


def test_the_figure_needs_both_recipes_and_shows_late_falls(tmp_path):
    forms = pd.DataFrame(
        {
            "session": ["a", "a"], "norm": ["none", "layer"],
            "place": ["outputs", "sum"], "R² modern": [0.78, 0.77],
            "SE modern": [0.01, 0.01], "off the plateau": [np.inf, 8.0], "last epoch": [14, 14],
        }
    )  # fmt: skip
    study.draw_forms(tmp_path / "forms.png", forms)
    assert (tmp_path / "forms.png").stat().st_size > 10_000


def test_every_form_of_the_sweep_is_a_layer_that_can_be_made():
    sweep = yaml.safe_load((ROOT / "conf" / "sweep" / "norms_and_places.yaml").read_text())
    forms = yaml.safe_load(f"[{sweep['model.recurrent']}]")
    assert len(forms) == len({tuple(form.values()) for form in forms}) == 42
    for form in forms:
        words = [f"model.recurrent.{key}={value}" for key, value in form.items()]
        config = compose_config("experiment=normalisation_source", *words)
        config.model.recurrent.hidden_size = 4
        layer = build_model(config.model, 3, 2).recurrent
        assert (layer.norm, layer.place) == tuple(form.values())
        outputs, _ = layer(torch.zeros(2, 5, 3))
        assert outputs.shape == (2, 5, 4)
