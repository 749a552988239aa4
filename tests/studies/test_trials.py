"""Trials of recipes: what is trained, kept and printed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from recordings import ROOT, recording, write_mat73

from bci_decode.errors import BciDecodeError
from bci_decode.runs.compose import compose_config, typed_config
from bci_decode.studies import trials as study

SHORT = (
    "data.bin_width=0.02 data.window.length=8 data.window.burn_in=2 data.split.block=0.2 "
    "trainer.epochs=1 model.recurrent.hidden_size=4"
)


@pytest.fixture
def listed(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text(f"best: {SHORT}\nlarger step: {SHORT} optimizer.lr=2e-2\n")
    return path


def test_a_list_is_trained_once_and_continued(tmp_path, listed):
    file = write_mat73(tmp_path / "toy.mat", recording())
    table = tmp_path / "trials.csv"
    rows = study.run_trials(study.read_trials(listed, 1, cuts=2), file, table)
    assert len(rows) == 4 and rows["r2"].between(-5, 1).all()
    assert rows["r2"].tolist() == pytest.approx(rows[["r2_x", "r2_y"]].mean(axis=1), abs=1e-5)
    first = table.read_text()
    again = study.run_trials(study.read_trials(listed, 2, cuts=2), file, table)
    assert len(again) == 8 and table.read_text().startswith(first)
    text = study.text(again)
    gains = again.groupby(["trial", "seed"])["r2"].mean().unstack(0)
    gain = gains["larger step"] - gains["best"]
    assert f"{gain.mean():.3f} | {gain.std(ddof=1) / 2**0.5:.3f}" in text


def test_a_summary_pairs_seeds_and_leaves_out_those_that_lack_a_cut():
    scores = {("best", 0): (0.7, 0.8), ("best", 1): (0.6, 0.7), ("b", 0): (0.9, 0.8)}
    rows = [
        {"trial": name, "seed": seed, "cut": cut, "r2": r2, "seconds": 1.0, "words": ""}
        for (name, seed), values in scores.items()
        for cut, r2 in enumerate(values)
    ]
    rows.append({"trial": "b", "seed": 1, "cut": 0, "r2": 0.99, "seconds": 1.0, "words": ""})
    table = study.summary(pd.DataFrame(rows)).set_index("trial")
    assert table.loc["best", "R²"] == pytest.approx(0.7)
    assert table.loc["best", "SE"] == pytest.approx(np.std([0.75, 0.65], ddof=1) / 2**0.5)
    assert table.loc["b", "seeds"] == 1 and table.loc["b", "gain over best"] == pytest.approx(0.1)


def test_a_file_that_is_no_list_is_refused(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text("- a\n- b\n")
    with pytest.raises(BciDecodeError, match="is no list of trials"):
        study.read_trials(path, 1, 1)


@pytest.mark.parametrize("content", ["no\n", "", "a,b\n1,2\n", "\x00"])
def test_a_foreign_table_is_refused_and_kept(tmp_path, listed, content):
    table = tmp_path / "mine.csv"
    table.write_text(content)
    with pytest.raises(BciDecodeError, match="mine.csv: is no table of trials"):
        study.run_trials(study.read_trials(listed, 1, cuts=2), None, table)
    assert table.read_text() == content


def test_no_seed_is_refused(listed):
    with pytest.raises(BciDecodeError, match="--seeds: is 0; choose 1 or more"):
        study.read_trials(listed, 0, cuts=2)


def test_every_published_trial_composes():
    names = {t.name: t.words for t in study.read_trials(ROOT / "docs" / "trials.yaml", 1, cuts=1)}
    assert names["best"] == () and len(names) > 20
    for words in names.values():
        typed_config(compose_config("experiment=best", *words))
