"""Comparisons of run folders with known scores; expected values are calculated by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from run_folders import NAN, A, B, C, compare, write_run

from bci_decode.comparison.figures import _draw_losses
from bci_decode.comparison.finished_runs import monkey_of, read_runs
from bci_decode.comparison.groups import group_runs
from bci_decode.comparison.pairs import paired_tests
from bci_decode.comparison.tables import (
    epoch_table,
    mean_and_sd,
    run_table,
    score_table,
    session_table,
)
from bci_decode.runs.figures import _history_figure, run_title

PAIR = [("lngru", "gru")]
D = "loco_20170213_02"


@pytest.fixture
def run(capsys, monkeypatch):
    return lambda folder, *words: compare(folder, capsys, monkeypatch, *words)


def sessions_of(folder: Path) -> pd.DataFrame:
    return session_table(run_table(read_runs(folder)[0]))


def test_mean_and_sd_plain_and_weighted():
    assert mean_and_sd([0.4, 0.6, 0.5]) == pytest.approx((0.5, 0.1))
    # (40 + 180 + 100) / 600; (100 * (2/15)^2 + 300 * (1/15)^2 + 200 * (1/30)^2) / 600 = 1 / 180
    assert mean_and_sd([0.4, 0.6, 0.5], [100, 300, 200]) == pytest.approx(
        (8 / 15, (1 / 180) ** 0.5)
    )
    assert mean_and_sd([0.4], [100]) == pytest.approx((0.4, NAN), nan_ok=True)


def test_scores_over_sessions_by_monkey(tmp_path):
    for session, x, bins in ((A, 0.4, 100), (B, 0.6, 300), (C, 0.5, 200)):
        write_run(tmp_path, session, x=x, y=x + 0.2, bins=bins)
    table = score_table(sessions_of(tmp_path)).set_index(["monkey", "model", "score"])
    assert table.index.get_level_values("monkey").unique().tolist() == ["indy", "loco", "all"]
    expected = {
        ("indy", 0.0): (2, 0.5, 0.02**0.5, 0.55, 0.0075**0.5),
        ("loco", 0.0): (1, 0.5, NAN, 0.5, NAN),
        ("all", 0.0): (3, 0.5, 0.1, 8 / 15, (1 / 180) ** 0.5),
        ("all", 0.2): (3, 0.7, 0.1, 8 / 15 + 0.2, (1 / 180) ** 0.5),
    }
    for (monkey, more), figures in expected.items():
        row = table.loc[(monkey, "gru", "r2_y" if more else "r2_x")]
        assert tuple(row)[:-1] == pytest.approx(figures, nan_ok=True)


def test_seeds_are_averaged_before_sessions_are(tmp_path):
    for seed, x in ((0, 0.1), (1, 0.2), (2, 0.6)):
        write_run(tmp_path, A, seed=seed, x=x)
    write_run(tmp_path, B, x=0.5)
    table = sessions_of(tmp_path)
    assert table[["session", "seeds", "r2_x"]].values.tolist() == [
        [A, 3, pytest.approx(0.3)],
        [B, 1, 0.5],
    ]
    assert score_table(table).loc[0, "mean"] == pytest.approx(0.4)


def test_a_score_that_is_no_number_is_reported(tmp_path, run):
    write_run(tmp_path, A, x=None)
    write_run(tmp_path, B, x=0.5)
    assert score_table(sessions_of(tmp_path)).loc[0, ["score", "sessions", "mean"]].tolist() == [
        "r2_x",
        1,
        0.5,
    ]
    code, out, _ = run(tmp_path)
    assert code == 0 and f"R² is no number, and in no mean, for: {A} gru" in out


def test_paired_tests_by_hand(tmp_path):
    """Gains -.01, .02, .03, ...: one sign of 7 is negative, and 2 of 128 rank sums are as far."""
    for number, gain in enumerate((-0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07)):
        write_run(tmp_path, f"own{number}", "gru", x=0.5)
        write_run(tmp_path, f"own{number}", "lngru", x=0.5 + gain)
    write_run(tmp_path, "unpaired", "lngru", x=0.1)
    row = paired_tests(run_table(read_runs(tmp_path)[0]), PAIR).iloc[0]
    assert row[["paired sessions", "higher"]].tolist() == [7, 6]
    assert row["mean gain"] == pytest.approx(0.26 / 7) and row["median gain"] == pytest.approx(0.04)
    assert row["sign test p"] == pytest.approx(2 * (1 + 7) / 128)
    assert row["Wilcoxon p"] == pytest.approx(2 * 2 / 128)


def test_a_seed_of_one_model_alone_is_in_no_pair(tmp_path, run):
    write_run(tmp_path, A, "gru", seed=0, x=0.5)
    write_run(tmp_path, A, "gru", seed=1, x=0.9)
    write_run(tmp_path, A, "lngru", seed=0, x=0.6)
    row = paired_tests(run_table(read_runs(tmp_path)[0]), PAIR).iloc[0]
    assert row["mean gain"] == pytest.approx(0.1)
    assert "Left out of the pairs: 1 runs whose seed the other model lacks" in run(tmp_path)[1]


@pytest.mark.parametrize(("count", "gain"), [(5, 0.1), (1, 0.1), (6, 0.0)])
def test_no_tests_where_they_mean_nothing(tmp_path, run, count, gain):
    for number in range(count):
        write_run(tmp_path, f"own{number}", "gru")
        write_run(tmp_path, f"own{number}", "lngru", x=0.5 + gain, y=0.7 + gain)
    _, out, _ = run(tmp_path)
    assert f"| LN-GRU | GRU | x | {count} |" in out and "| Wilcoxon p |" not in out
    assert "none with fewer than 6 paired sessions, or if no session differs" in out


def test_median_epochs(tmp_path):
    for seed, losses in enumerate(
        [(90, 60, 40, 30), (90, 49, 40, 30), (90, 80, 70, 60), (90, 80, 70, 49)]
    ):
        write_run(tmp_path, "own", "gru", seed, losses=losses)
    write_run(tmp_path, "own", "lngru", losses=(90, 80, 70, 60), val=(9, 8, 7, 6))
    table = epoch_table(run_table(read_runs(tmp_path)[0])).set_index("model")
    assert table.loc["gru"].tolist() == [4, 2.5, 1, 2, 2]  # 2, 1, never, 3
    assert table.loc["lngru"].tolist() == pytest.approx([1, NAN, 1, 3, 3], nan_ok=True)


def test_without_a_validation_part_there_is_no_best_validation_loss(tmp_path, run):
    write_run(tmp_path, val=None)
    _, out, _ = run(tmp_path)
    assert (
        "No validation part, so no best validation loss." in out
        and "| best validation loss |" not in out
    )


def test_what_has_no_figures_is_listed(tmp_path, run):
    for session, model in ((A, "gru"), (A, "lngru"), (B, "gru"), (C, "gru"), (D, "gru")):
        write_run(tmp_path, session, model)
    failed = tmp_path / "default" / B / "gru" / "seed0"
    (failed / "metrics.json").unlink()
    (failed / "failed.txt").write_text("the loss became nan\nat length\n")
    unfinished = tmp_path / "default" / C / "gru" / "seed0"
    (unfinished / "metrics.json").unlink()
    aside = tmp_path / "default" / A / "gru" / "seed0" / ".before"  # an overwritten run: no run
    aside.mkdir()
    (aside / "config.yaml").write_text("seed: 0\n")
    code, out, _ = run(tmp_path)
    assert code == 0
    for text in (out, (tmp_path / "summary.md").read_text()):
        assert "Runs: 3 finished, 1 failed, 1 not finished, 0 damaged, 1 missing" in text
        assert [line for line in text.splitlines() if line.startswith("- ")] == [
            f"- failed: {failed} (the loss became nan)",
            f"- not finished: {unfinished}",
            f"- missing: {tmp_path / 'default' / D / 'lngru' / 'seed0'}",
        ]
    assert len(pd.read_csv(tmp_path / "sessions.csv")) == 3


def test_a_finished_run_whose_later_start_failed_counts_and_says_so(tmp_path, run):
    folder = write_run(tmp_path)
    (folder / "failed.txt").write_text("holds a run with other settings\n")
    _, out, _ = run(tmp_path)
    assert (
        "Runs: 1 finished, 0 failed" in out
        and f"- {folder} (holds a run with other settings)" in out
    )


def test_files_and_figures(tmp_path, run):
    for number in range(10):
        for model in ("gru", "lngru", "other"):
            write_run(tmp_path, f"own{number}", model, x=0.3 + 0.01 * number)
    code, out, _ = run(tmp_path)
    assert code == 0 and "wrote comparison.png, r2_scatter.png, sessions.csv and summary.md" in out
    files = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert files == {"comparison.png", "r2_scatter.png", "sessions.csv", "summary.md"}
    for name in ("comparison.png", "r2_scatter.png"):
        # something was drawn
        assert len(np.unique(imread(tmp_path / name).reshape(-1, 4), axis=0)) > 10
    assert "The 30 runs one by one: `sessions.csv`." in out
    assert "| epoch | gru, median of 10 runs | lngru, median of 10 runs | other, median of" in out
    assert pd.read_csv(tmp_path / "sessions.csv")["half_plateau_epoch"].tolist() == [2] * 30


def test_few_runs_are_shown_one_by_one(tmp_path, run):
    for seed in (1, 2):
        write_run(tmp_path, model="lngru", seed=seed)
    code, out, _ = run(tmp_path)
    assert (
        code == 0
        and "| epoch | own lngru seed 1 | own lngru seed 2 |" in out
        and "| 1 | 80 | 80 |" in out
    )
    assert "No session has both a GRU and another model" in out
    assert imread(tmp_path / "r2_scatter.png").shape[0] > 300


def test_protocols_never_share_a_column(tmp_path, run):
    write_run(tmp_path / "a", model="gru", x=0.1)
    write_run(tmp_path / "b", model="lngru", x=0.9, lag=0.1)
    write_run(tmp_path / "c", model="lngru", target="position", unit="mm", experiment="places")
    groups = group_runs(read_runs(tmp_path)[0])
    assert [group.name for group in groups] == [
        "default (data.lag=0.0)",
        "default (data.lag=0.1)",
        "places",
    ]
    code, out, _ = run(tmp_path)
    assert code == 0 and "3 kinds of runs" in out
    assert out.count("No session has both") == 3
    assert (
        out.count("## Published: R² of position") == 1
        and out.count("## Published: R² of velocity") == 1
    )
    table = pd.read_csv(tmp_path / "sessions.csv")
    assert table["protocol"].nunique() == 3 and table["data.lag"].tolist()[1] == 0.1


def test_device_seed_and_watching_are_no_protocol(tmp_path):
    for seed in range(3):
        write_run(tmp_path, seed=seed)
    assert len(group_runs(read_runs(tmp_path)[0])) == 1


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({}, "is a second run of the name and protocol of"),
        ({"seed": 1, "md5": "another"}, "has a session of other data than"),
    ],
)
def test_one_name_for_two_things_is_refused(tmp_path, run, other, words):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", **other)
    code, _, error = run(tmp_path)
    assert code == 2 and words in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", ""), ("metrics.json", "{}"), ("metrics.json", "[]"),
        ("metrics.json", '{"session": "a"}'), ("history.csv", ""), ("history.csv", "epoch\n0\n"),
        ("history.csv", "epoch,test_loss\n0,many\n"),
        ("history.csv", "epoch,test_loss,val_loss\n0,90,9\n1,80,8\n"),  # cut
        ("history.csv", "epoch,test_loss,val_loss\n"), ("metrics.json", "[" * 100000),
        ("config.yaml", "a: [\n"), ("config.yaml", None),
    ],
)  # fmt: skip
def test_a_damaged_run_is_one_line(tmp_path, run, name, content):
    folder = write_run(tmp_path)
    (folder / name).unlink() if content is None else (folder / name).write_text(content)
    code, _, error = run(tmp_path)
    assert (
        code == 2
        and error.count("\n") == 1
        and f"holds no finished run; damaged: {folder}" in error
    )
    write_run(tmp_path, "whole")
    code, out, _ = run(tmp_path)
    assert (
        code == 0
        and f"- damaged: {folder}" in out
        and "1 finished, 0 failed, 0 not finished, 1 damaged" in out
    )


def test_metrics_that_lack_a_key_that_only_the_text_takes(tmp_path, run):
    for key in ("selection_rule", "data"):
        folder = write_run(tmp_path / key)
        metrics = json.loads((folder / "metrics.json").read_text())
        del metrics[key]
        (folder / "metrics.json").write_text(json.dumps(metrics))
        assert run(tmp_path / key)[0] == 2


def test_without_finished_runs(tmp_path, run):
    assert "no such folder" in run(tmp_path / "absent")[2]
    code, _, error = run(tmp_path)
    assert code == 2 and "holds no finished run; train first" in error
    (tmp_path / "default").mkdir()
    (tmp_path / "default" / "failed.txt").write_text("no memory\n")
    assert "holds no finished run; failed: " in run(tmp_path)[2]


def test_monkeys():
    assert [monkey_of(name) for name in (A, C, "indy_excerpt", "simulated")] == [
        "indy",
        "loco",
        "indy",
        "simulated",
    ]


@pytest.mark.parametrize(
    ("losses", "limit"), [((300, 90, 40), 125), ((300, 200, 130), 330), ((124, 120, 90), 125)]
)
def test_no_loss_curve_lies_wholly_outside_its_picture(tmp_path, losses, limit):
    """The target varies by 100: where no loss comes down to 125 the axis is longer."""
    write_run(tmp_path, losses=losses, val=None)
    (group,) = group_runs(read_runs(tmp_path)[0])
    axes = Figure().subplots()
    _draw_losses(axes, group)
    assert axes.get_ylim() == pytest.approx((0, limit))
    # the training part's alone would be seen
    history = group.runs[0].history.assign(train_loss=50.0)
    figure = _history_figure(history, group.runs[0].metrics, "loss")
    assert figure.axes[0].get_ylim() == pytest.approx((0, limit))


def test_a_runs_pictures_say_its_target(tmp_path):
    for target in ("velocity", "position"):
        write_run(tmp_path / target, target=target)
    titles = [run_title(run.metrics) for run in read_runs(tmp_path)[0]]
    assert titles == ["own, GRU, position, seed 0 (default)", "own, GRU, seed 0 (default)"]
