"""A random search: reproducible draws, a table that resumes, and no look at the test part."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from composing import compose

from bci_decode.cli import run_command
from bci_decode.errors import BciDecodeError
from bci_decode.runs.search import (
    best_line,
    check_scorable,
    draw,
    hydra_value,
    read_space,
    search,
)

SPACE = """
words: [model=wiener, session.minutes=1]
space:
  model.alpha: {log: [10.0, 10000.0]}
  data.units: [all, merged]
"""


@pytest.fixture
def space(tmp_path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


def test_a_search_is_scored_by_validation_and_resumes(space, tmp_path):
    output, data = tmp_path / "out", [f"data_dir={tmp_path / 'data'}"]
    first = search(space, 2, output, data)
    with (output / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score"]) for row in rows] == [row["score"] for row in first]
    folder = output / "trial1/default/simulated/wiener/seed0"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert float(rows[1]["score"]) == pytest.approx(metrics["scores"]["val"]["r2"])
    assert float(rows[1]["score"]) != pytest.approx(metrics["scores"]["test"]["r2"])
    written = (folder / "metrics.json").stat().st_mtime_ns
    longer = search(space, 3, output, data)
    assert longer[:2] == first and len(longer) == 3
    assert (folder / "metrics.json").stat().st_mtime_ns == written
    best = max(longer, key=lambda row: row["score"])
    assert f"best of 3: trial {best['trial']}," in best_line(longer)
    # fewer trials keep the rows of all
    (output / "trials.csv").write_text("\n".join(read_lines(output)[:1] + read_lines(output)[2:]))
    assert search(space, 1, output, data) == longer
    assert len(read_lines(output)) == 4
    for words, seed, differs in ((data, 1, "seed"), ([*data, "data.lag=0.1"], 0, "words")):
        with pytest.raises(BciDecodeError, match=f"of a search with other {differs}; choose anot"):
            search(space, 2, output, words, seed=seed)
    space.write_text(SPACE.replace("[all, merged]", "[merged, all]"))
    with pytest.raises(BciDecodeError, match=r"search.yaml: is of a search with other space;"):
        search(space, 2, output, data)


def read_lines(output: Path) -> list[str]:
    return (output / "trials.csv").read_text().splitlines()


def test_a_chained_search_is_scored_by_its_cuts(space, tmp_path):
    words = [f"data_dir={tmp_path / 'data'}", "data.split=chained", "data.split.cuts=2"]
    (row,) = search(space, 1, tmp_path / "out", words)
    folder = tmp_path / "out/trial0/default/simulated/wiener/seed0"
    mean = json.loads((folder / "chained.json").read_text())["mean"]["r2"]
    assert row["score"] == pytest.approx(mean)


def test_a_trial_that_fails_has_its_reason(space, tmp_path):
    words = [f"data_dir={tmp_path / 'data'}", "data.split.train=0.99", "data.split.val=0.005"]
    (row,) = search(space, 1, tmp_path / "out", words)
    assert "change data.split.train" in row["failure"]
    with pytest.raises(BciDecodeError, match="no trial has a score; trial 0: .*data.split.train"):
        best_line([row])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "search.yaml",
        "trials.csv",
    ]
    # nothing of that search is left to mix with another one
    (row,) = search(space, 1, tmp_path / "out", words[:1])
    assert row["score"] > 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trainer.epochs=0"], "trainer.epochs: is 0; choose 1 to"),
        (["model.alpa=3"], "model.alpa"),
        (["data.units=all"], "data.units: is drawn by the space; remove data.units=all, or"),
        (["data.split.val=0"], "leaves a search only the test part"),
    ],
)
def test_a_mistake_of_all_trials_is_refused_before_any(space, tmp_path, words, line):
    with pytest.raises(BciDecodeError, match=line):
        search(space, 3, tmp_path / "out", words)
    assert not (tmp_path / "out").exists()


def test_values_of_a_space_are_words_of_the_command_line():
    space = {"data.split.cut": [None], "bidirectional": [True], "a": [[1, None, {"b": False}]]}
    words = [f"{key}={hydra_value(value)}" for key, value in draw(space, 0, 0).items()]
    assert words == ["data.split.cut=null", "bidirectional=true", "a=[1,null,{b:false}]"]
    config = compose(*words[:2])
    assert config.data.split.cut is None and config.bidirectional is True


def test_the_command_takes_words_after_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SPACE.replace(", session.minutes=1", ""))
    words = ["small.yaml", "--trials", "1", "session.minutes=1"]
    run_command("search", words)
    assert "best of 1: trial 0, R2" in capsys.readouterr().out
    assert (tmp_path / "outputs/search/small/trials.csv").exists()
    with pytest.raises(BciDecodeError, match="no trial has a score"):
        run_command("search", [*words, "data.split.train=0.99", "--output", "none"])


def test_draws_depend_on_the_seed_and_the_number_alone():
    space = {"a": {"log": [0.001, 1.0]}, "b": {"uniform": [2, 3]}, "c": [1, 2, 3]}
    drawn = [draw(space, 0, number) for number in range(200)]
    assert drawn[7] == draw(space, 0, 7) != draw(space, 1, 7)
    assert all(0.001 <= one["a"] <= 1 and 2 <= one["b"] <= 3 for one in drawn)
    assert 60 < sum(one["a"] < 0.03 for one in drawn) < 140  # half of the decades
    assert {one["c"] for one in drawn} == {1, 2, 3}


@pytest.mark.parametrize(
    "words",
    [
        ["data.split.val=0"],
        ["experiment=source_study"],
        ["experiment=source_study", "data.split=chained"],
        ["data.split=chained", "data.split.cut=1"],
    ],
)
def test_settings_without_a_validation_score_are_refused(words):
    with pytest.raises(BciDecodeError, match="leaves a search only the test part"):
        check_scorable(compose(*words))
    check_scorable(compose("data.split=chained", "data.split.val=0"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("space: {a: 3}", "space.a: is 3"),
        ("space: {a: {log: [0, 1]}}", "space.a: is"),
        ("space: {a: {uniform: [2, 1]}}", "space.a: is"),
        ("words: [model=gru]", "has no space"),
        ("a: [", "is no yaml"),
    ],
)
def test_a_space_that_is_none_is_one_line(tmp_path, text, words):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(BciDecodeError, match=words):
        read_space(tmp_path / "bad.yaml")
    with pytest.raises(BciDecodeError, match="no such search; choose gru"):
        read_space("nothing")
    assert set(read_space("gru")[0]) >= {"optimizer.lr"}
