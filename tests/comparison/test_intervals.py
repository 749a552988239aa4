"""Intervals in tables and figures, from the predictions of the runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure
from run_folders import A, B, compare, write_run

from bci_decode.comparison.figures import _draw_scatter
from bci_decode.comparison.finished_runs import read_runs
from bci_decode.comparison.groups import group_runs
from bci_decode.comparison.intervals import Resampled
from bci_decode.comparison.predictions import certainty
from bci_decode.evaluation.intervals import block_sums, chance_level, r2_intervals
from bci_decode.evaluation.metrics import r2

BINS, BLOCK = 620, 31


def truth(session: str, cut: int = 0) -> np.ndarray:
    return np.random.default_rng([len(session), ord(session[-1]), cut]).normal(0, 50, (BINS, 2))


def write_decoded(root: Path, session=A, model="gru", error=0.5, seed=0, cuts=None, cut=0) -> Path:
    """A run whose predictions are the truth and noise, with the scores that they have."""
    true = truth(session, cut)
    noise = np.random.default_rng([seed, len(model), cut]).normal(0, 50 * error, true.shape)
    decoded = true + noise
    x, y = r2(true, decoded)
    folder = write_run(root, session, model, seed, x, y, bins=BINS, cuts=cuts, cut=cut)
    np.savez(folder / "predictions.npz", true=true, decoded=decoded, bin_width=0.064)
    return folder


def resampled(folder: Path) -> Resampled:
    (group,) = group_runs(read_runs(folder)[0])
    return Resampled(group)


def saved(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(folder / "predictions.npz") as file:
        return file["true"], file["decoded"]


@pytest.fixture
def run(capsys, monkeypatch):
    return lambda folder, *words: compare(folder, capsys, monkeypatch, *words)


def test_the_interval_of_a_gain_is_that_of_the_same_blocks(tmp_path):
    """Against differences of scores, each from blocks that are drawn once for both models."""
    folders = [write_decoded(tmp_path, A, "gru", 0.6), write_decoded(tmp_path, A, "lngru", 0.5)]
    sums = [block_sums(*saved(folder), BLOCK) for folder in folders]
    rng, gains = np.random.default_rng(0), []
    for _ in range(4000):
        counts = np.bincount(rng.integers(0, 20, 20), minlength=20)[None].astype(float)
        base, model = (one.r2(counts).mean() for one in sums)
        gains.append(model - base)
    found = resampled(tmp_path)
    expected = np.percentile(gains, (2.5, 97.5))
    assert found.gain_interval("lngru", "gru", "r2") == pytest.approx(expected, abs=0.006)
    apart = np.percentile(
        np.subtract(*(found.whole[A, model][:, 2] for model in ("lngru", "gru"))), (2.5, 97.5)
    )
    assert found.gain_interval("lngru", "gru", "r2") == pytest.approx(apart)


def test_means_over_sessions_are_more_certain_than_one_session(tmp_path):
    for session in (A, B):
        write_decoded(tmp_path, session)
    found = resampled(tmp_path)
    one, both = (np.ptp(found.mean_interval("gru", names, "r2")) for names in ([A], [A, B]))
    assert 0.55 * one < both < 0.9 * one  # 1 / sqrt(2), of like sessions
    draws = [found.whole[session, "gru"][:, 2] for session in (A, B)]
    assert abs(np.corrcoef(*draws)[0, 1]) < 0.1  # sessions are drawn independently


def test_cuts_are_averaged_before_seeds_are(tmp_path):
    for seed in (0, 1):
        for cut in (0, 1):
            write_decoded(tmp_path, A, seed=seed, cuts=2, cut=cut)
    found = resampled(tmp_path)
    mean = np.mean([run.metrics["scores"]["test"]["r2"] for run in read_runs(tmp_path)[0]])
    low, high = found.mean_interval("gru", [A], "r2")
    assert low < mean < high
    assert found.whole[A, "gru"][:, 2].mean() == pytest.approx(mean, abs=0.01)


def test_tables_and_figures_show_them(tmp_path, run):
    for session in (A, B):
        write_decoded(tmp_path, session, "gru", 0.6)
        write_decoded(tmp_path, session, "lngru", 0.5)
    code, out, _ = run(tmp_path)
    found = resampled(tmp_path)
    low, high = found.mean_interval("gru", [A, B], "r2")
    assert code == 0 and f"| {low:.3f} to {high:.3f} |" in out
    low, high = found.gain_interval("lngru", "gru", "r2")
    assert f"| {low:.3f} to {high:.3f} |" in out
    assert f"| {A} | LN-GRU | GRU |" in out and "Gain in R², mean of x and y, by session" in out
    table = pd.read_csv(tmp_path / "sessions.csv")
    assert (table["test_r2_low"] < table["test_r2"]).all()
    assert (table["test_r2_high"] > table["test_r2"]).all() and (table["chance_r2"] < 0).all()
    (group,) = group_runs(read_runs(tmp_path)[0])
    axes = Figure().subplots()
    _draw_scatter("gru", axes, group)
    across = [
        line for line in axes.lines if len(set(line.get_ydata())) == 1 < len(line.get_xdata())
    ]
    ends = found.session_intervals()[A, "gru", "r2_x"]
    assert any(tuple(line.get_xdata()) == ends for line in across)
    assert "95 % interval" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_mark_and_its_intervals_are_of_the_same_seeds(tmp_path):
    """A seed that only the baseline has, much worse, is in neither."""
    for model, seed, error in (("gru", 0, 0.6), ("gru", 1, 2.0), ("lngru", 0, 0.5)):
        write_decoded(tmp_path, A, model, error, seed)
    (group,) = group_runs(read_runs(tmp_path)[0])
    axes = Figure().subplots()
    _draw_scatter("gru", axes, group)
    marks = [line.get_xdata()[0] for line in axes.lines if line.get_label()[0] == "_"]
    table = resampled(tmp_path).table
    seed = table[(table["model"] == "gru") & (table["seed"] == 0)].iloc[0]
    assert {seed["test_r2_x"], seed["test_r2_y"]} <= set(marks)
    across = [line.get_xdata() for line in axes.lines if len(set(line.get_ydata())) == 1]
    low, high = next(ends for ends in across if len(ends) == 2)
    assert low < seed["test_r2_x"] < high


def test_runs_of_earlier_versions_are_scored_from_their_predictions(tmp_path):
    folder = write_decoded(tmp_path)
    (old,) = read_runs(tmp_path)[0]
    assert "intervals" not in old.metrics
    true, decoded = saved(folder)
    expected = r2_intervals(true, decoded, 0.064)["r2"]
    found = certainty(old)
    assert [found["test_r2_low"], found["test_r2_high"]] == expected
    assert found["chance_r2"] == chance_level(true, decoded)["r2"]["mean"]
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics |= {"intervals": {"test": {"r2": [0.1, 0.2]}}, "chance": {"test": {"r2": None}}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    found = certainty(read_runs(tmp_path)[0][0])
    assert (found["test_r2_low"], found["test_r2_high"]) == (0.1, 0.2)
    assert np.isnan(found["chance_r2"])


@pytest.mark.parametrize("damage", ["absent", "no file of numpy", "other bins"])
def test_without_usable_predictions_the_scores_stand_alone(tmp_path, run, damage):
    write_decoded(tmp_path, A, "lngru")
    folder = write_decoded(tmp_path, A, "gru")
    path = folder / "predictions.npz"
    if damage == "other bins":
        np.savez(path, true=np.ones((9, 2)), decoded=np.ones((9, 2)), bin_width=0.064)
    elif damage == "absent":
        path.unlink()
    else:
        path.write_text(damage)
    code, out, _ = run(tmp_path)
    assert code == 0 and "| LN-GRU | GRU | x | 1 |" in out
    assert "interval of the mean |" not in out and "by session:" not in out


def test_simulated_and_recorded_sessions_share_no_interval_and_no_panel(tmp_path, run):
    for model in ("gru", "lngru"):
        write_decoded(tmp_path, A, model, 0.5)
        folder = write_decoded(tmp_path, "simulated", model, 1.5)
        metrics = json.loads((folder / "metrics.json").read_text())
        (folder / "metrics.json").write_text(json.dumps(metrics | {"recording": "simulated"}))
    groups = group_runs(read_runs(tmp_path)[0])
    assert [group.recording for group in groups] == ["excerpt", "simulated"]
    for group, session in zip(groups, (A, "simulated"), strict=True):
        assert {name for name, _ in Resampled(group).whole} == {session}
        axes = Figure().subplots()
        _draw_scatter("gru", axes, group)
        marks = [line for line in axes.lines if len(line.get_xdata()) == 1]
        assert len(marks) == 2  # an x and a y, of this session alone
    code, out, _ = run(tmp_path)
    assert code == 0 and out.count("### Test R² over sessions") == 2
    assert out.count("| all | GRU | mean of x and y | 1 |") == 2
    assert out.count("by session:") == 2


def test_settings_are_tabulated_with_intervals(tmp_path, run):
    for lag in (0.1, 0.02):
        for seed in (0, 1):
            folder = write_decoded(tmp_path / str(lag), seed=seed, error=0.5 + lag)
            settings = yaml.safe_load((folder / "config.yaml").read_text())
            settings["data"]["lag"] = lag
            (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    code, out, _ = run(tmp_path, "--by", "data.lag")
    rows = [line.split(" | ") for line in out.splitlines() if "| GRU | 1 | 2 |" in line]
    assert code == 0 and [row[0] for row in rows] == ["| 0.02", "| 0.1"]
    for row in rows:
        low, high = map(float, row[6].removesuffix(" |").split(" to "))
        assert low < float(row[4]) < high and float(row[5]) > 0
