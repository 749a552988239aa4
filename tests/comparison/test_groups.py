"""What may share a table: models, kinds of recordings, variants; and what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from run_folders import A, B, compare, write_run

from bci_decode.comparison.finished_runs import read_runs
from bci_decode.comparison.groups import group_runs, missing_runs
from bci_decode.comparison.hyperparameters import hyperparameter_tables
from bci_decode.comparison.pairs import model_pairs

MANY = ("gru", "lngru", "wiener", "tdnn", "fir", "m1", "m2", "m3", "m4", "m5")


@pytest.fixture
def run(capsys, monkeypatch):
    return lambda folder, *words: compare(folder, capsys, monkeypatch, *words)


def groups_of(*folders: Path):
    return group_runs(read_runs(*folders)[0])


def set_recording(folder: Path, kind: str) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"recording": kind}))


def test_simulated_and_recorded_sessions_are_never_averaged(tmp_path, run):
    write_run(tmp_path, A, x=0.2, y=0.2)
    set_recording(write_run(tmp_path, "simulated", x=0.8, y=0.8), "simulated")
    assert [group.name for group in groups_of(tmp_path)] == [
        "default, excerpt",
        "default, simulated",
    ]
    _, out, _ = run(tmp_path)
    assert "| all | GRU | x | 1 | 0.200 |" in out and "| all | GRU | x | 1 | 0.800 |" in out
    assert "0.500" not in out


def test_every_model_is_in_every_table(tmp_path, run):
    for number in range(6):
        for place, model in enumerate(MANY):
            x, fixed = 0.3 + 0.01 * place, model == "wiener"
            write_run(tmp_path, f"own{number}", model, x=x, y=x, closed_form=fixed)
    code, out, _ = run(tmp_path)
    labels = ["GRU", "LN-GRU", "Wiener filter", *sorted(MANY[3:])]
    parts = out.split("\n### ")
    scores, gains, epochs, sessions = (
        next(part for part in parts if part.startswith(title))
        for title in ("Test R² over", "Gain in", "Median epochs", "Sessions, mean")
    )
    assert code == 0 and [f"| all | {label} | x |" in scores for label in labels] == [True] * 10
    assert [f"| {label} | GRU | x | 6 | 6 |" in gains for label in labels] == [False] + [True] * 9
    assert "Each model is tested on its own" in gains and "Wilcoxon p" in gains
    assert [f"| {label} | 6 |" in epochs for label in labels] == [True] * 2 + [False] + [True] * 7
    assert all(f"| {label} R² x" in sessions for label in labels)


def test_a_baseline_of_the_users_choice(tmp_path, run):
    for model, x in (("gru", 0.3), ("lngru", 0.4), ("tdnn", 0.6)):
        write_run(tmp_path, model=model, x=x)
    for words in (["--baseline", "tdnn"], ["compare.baseline=tdnn"]):
        _, out, _ = run(tmp_path, *words)
        assert "Gain in test R² over tdnn" in out and "| GRU | tdnn | x | 1 | 0 | -0.300 |" in out
        assert "| LN-GRU | tdnn | x | 1 | 0 | -0.200 |" in out
    code, _, error = run(tmp_path, "--baseline", "tcn")
    assert code == 2 and error == (
        "error: --baseline: no run has the model tcn; choose gru, lngru, tdnn\n"
    )


def test_bidirectional_models_pair_with_the_bidirectional_baseline():
    models = ["gru", "gru-bidirectional", "lngru", "lngru-bidirectional", "fir"]
    assert model_pairs(models, "gru") == [
        ("lngru", "gru"), ("lngru-bidirectional", "gru-bidirectional"), ("fir", "gru"),
    ]  # fmt: skip
    assert model_pairs(["gru", "lngru-bidirectional"], "gru") == []


def test_a_model_in_closed_form(tmp_path, run):
    """Its history is one row, epoch 1 without a learning rate; a loss there may be no number."""
    write_run(tmp_path, model="gru")
    folder = write_run(tmp_path, model="wiener", closed_form=True, losses=(60,))
    code, out, _ = run(tmp_path)
    assert code == 0 and "| 3 | 30 | 60 |" not in out and "| 4 |" not in out
    assert "| 2 | 40 | 60 |" in out and "| Wiener filter | GRU | x | 1 |" in out
    history = pd.read_csv(folder / "history.csv").assign(test_loss=float("nan"))
    history.to_csv(folder / "history.csv", index=False)
    assert run(tmp_path)[0] == 0


def test_settings_of_a_model_may_be_swept(tmp_path, run):
    """Runs of one model that differ in its own settings are variants, each in its own group."""
    for hidden, shift in ((16, 0.0), (32, 0.1)):
        for seed, x in enumerate((0.4, 0.6)):
            write_run(tmp_path / str(hidden), x=x + shift, y=x + shift, seed=seed, hidden=hidden)
    names = [group.name for group in groups_of(tmp_path)]
    assert names == [f"default (model.recurrent.hidden_size={hidden})" for hidden in (16, 32)]
    (table,) = hyperparameter_tables(groups_of(tmp_path)).values()
    assert table["model.recurrent.hidden_size"].tolist() == [16, 32]
    assert table["mean R²"].tolist() == pytest.approx([0.5, 0.6])
    assert table["SE over seeds"].tolist() == pytest.approx([0.1, 0.1])
    _, out, _ = run(tmp_path)
    assert "| 16 | GRU | 1 | 2 | 0.500 | 0.100 |" in out


def test_r2_by_setting(tmp_path, run):
    for lag, x in ((0.1, 0.6), (0.02, 0.4)):
        for session, more in ((A, 0.0), (B, 0.1)):
            write_run(tmp_path / f"lag{lag}", session, x=x + more, y=x + more, lag=lag)
    (table,) = hyperparameter_tables(groups_of(tmp_path / "lag0.1", tmp_path / "lag0.02")).values()
    assert table["data.lag"].tolist() == [0.02, 0.1]
    assert table["mean R²"].tolist() == pytest.approx([0.45, 0.65])
    assert table["SE over seeds"].isna().all() and table["sessions"].tolist() == [2, 2]
    assert hyperparameter_tables(groups_of(tmp_path / "lag0.1")) == {}
    _, out, _ = run(tmp_path / "lag0.1", str(tmp_path / "lag0.02"), "--by", "data.lag")
    assert "| 0.02 | GRU | 2 | 2 | 0.450 |  |" in out and f"to {tmp_path}\n" in out
    assert (tmp_path / "comparison.png").exists()
    _, out, _ = run(tmp_path, "--by", "data.bin_width")
    assert "| data.bin_width | data.lag | model |" in out and "| 0.064 | 0.02 | GRU |" in out
    code, _, error = run(tmp_path, "--by", "data.lagg")
    assert code == 2 and "no run has the setting data.lagg; runs differ in data.lag\n" in error


def test_two_targets_never_share_a_table_of_settings(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", target="position", unit="mm")
    assert hyperparameter_tables(groups_of(tmp_path)) == {}


def test_only_what_another_model_has_is_missing(tmp_path):
    """An extra seed, another protocol or a bidirectional run demands nothing of the others."""
    for session in (A, B):
        write_run(tmp_path, session, "gru")
    write_run(tmp_path, A, "lngru")
    write_run(tmp_path, A, "lngru-bidirectional", seed=1)
    write_run(tmp_path, A, "lngru-position", target="position", unit="mm", seed=2)
    runs, incomplete = read_runs(tmp_path)
    assert missing_runs(group_runs(runs), incomplete) == [
        str(tmp_path / "default" / B / "lngru" / "seed0")
    ]
    (tmp_path / "default" / B / "lngru" / "seed0.running").mkdir(parents=True)
    (tmp_path / "default" / B / "lngru" / "seed0.running" / "config.yaml").write_text("seed: 0\n")
    runs, incomplete = read_runs(tmp_path)
    assert missing_runs(group_runs(runs), incomplete) == []
    assert incomplete.lines() == [f"not finished: {tmp_path / 'default' / B / 'lngru' / 'seed0'}"]


def test_a_run_that_trains_again_counts_as_it_was(tmp_path, run):
    folder = write_run(tmp_path)
    running = folder.with_name("seed0.running")
    running.mkdir()
    (running / "config.yaml").write_text("seed: 0\n")
    (running / "metrics.json").write_text("{}")
    _, out, _ = run(tmp_path)
    assert "1 finished, 0 failed, 0 not finished, 0 damaged" in out
    assert f"- {folder} (a later start is not finished)" in out


def test_many_missing_runs_are_not_all_listed(tmp_path, run):
    for number in range(20):
        write_run(tmp_path, f"own{number}", "gru")
    write_run(tmp_path, "own0", "lngru")
    _, out, _ = run(tmp_path)
    assert out.count("- missing: ") == 13 and "- missing: 7 more" in out
