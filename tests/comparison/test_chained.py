"""Runs of the cuts of a chained split make one score; expected values are calculated by hand."""

from __future__ import annotations

import pytest
from run_folders import A, B, compare, write_run

from bci_decode.comparison.finished_runs import read_runs
from bci_decode.comparison.groups import group_runs, missing_runs
from bci_decode.comparison.hyperparameters import hyperparameter_tables
from bci_decode.comparison.pairs import paired_tests
from bci_decode.comparison.tables import partial_seeds, run_table, score_table, session_table

# R2 of x and of y of the two cuts, by seed: their means are .3 and .5
CUTS = {0: (0.2, 0.4), 1: (0.4, 0.6)}


def write_cuts(root, session=A, model="gru", more=0.0, seeds=CUTS, **options):
    for seed, scores in seeds.items():
        for cut, x in enumerate(scores):
            score = x + more
            write_run(root, session, model, seed, score, score, cuts=2, cut=cut, **options)


def test_cuts_are_averaged_before_seeds(tmp_path):
    write_cuts(tmp_path, bins=100)
    (group,) = group_runs(read_runs(tmp_path)[0])
    sessions = session_table(run_table(group.runs))
    # the seeds' means are .3 and .5: their SD is .1 * sqrt(2), their SE .1
    assert sessions[["seeds", "test_bins", "r2_x", "se_r2_x"]].values.tolist() == [
        [2, 200, pytest.approx(0.4), pytest.approx(0.1)]
    ]


def test_the_error_of_a_mean_over_sessions_is_that_of_its_seeds(tmp_path):
    write_cuts(tmp_path, A)
    write_cuts(tmp_path, B, more=0.1)
    sessions = session_table(run_table(read_runs(tmp_path)[0]))
    row = score_table(sessions).set_index(["monkey", "score"]).loc[("all", "r2_x")]
    assert row["mean"] == pytest.approx(0.45)
    assert row["SE over seeds"] == pytest.approx((0.1**2 + 0.1**2) ** 0.5 / 2)


def test_a_seed_that_lacks_a_cut_is_in_no_mean(tmp_path, capsys, monkeypatch):
    write_cuts(tmp_path, seeds={0: (0.2, 0.4), 1: (0.9,)})
    assert session_table(run_table(read_runs(tmp_path)[0]))["r2_x"].tolist() == [pytest.approx(0.3)]
    _, out, _ = compare(tmp_path, capsys, monkeypatch)
    assert f"Seeds that lack a cut, and are in no mean: {A} gru seed 1." in out


def test_seeds_of_different_cuts_are_in_no_mean(tmp_path):
    for seed, cut in ((0, 0), (1, 1)):
        write_run(tmp_path, A, seed=seed, x=0.2 + 0.4 * seed, y=0.2, cuts=2, cut=cut)
    table = run_table(read_runs(tmp_path)[0])
    assert partial_seeds(table) == [f"{A} gru seed 0", f"{A} gru seed 1"]
    assert session_table(table).empty
    write_run(tmp_path, A, seed=1, x=0.4, y=0.2, cuts=2, cut=0)
    table = run_table(read_runs(tmp_path)[0])
    assert partial_seeds(table) == [f"{A} gru seed 0"]
    assert session_table(table)["r2_x"].tolist() == [pytest.approx(0.5)]


def test_one_cut_alone_may_be_compared(tmp_path):
    write_cuts(tmp_path, seeds={0: (0.2,), 1: (0.4,)})
    assert session_table(run_table(read_runs(tmp_path)[0]))["r2_x"].tolist() == [pytest.approx(0.3)]


def test_pairs_and_missing_runs_know_the_cut(tmp_path):
    write_cuts(tmp_path, model="gru")
    write_cuts(tmp_path, model="lngru", more=0.1, seeds={0: CUTS[0], 1: CUTS[1][:1]})
    runs, incomplete = read_runs(tmp_path)
    row = paired_tests(run_table(runs), [("lngru", "gru")]).iloc[0]
    assert row["mean gain"] == pytest.approx(0.1)
    assert missing_runs(group_runs(runs), incomplete) == [
        str(tmp_path / "default" / A / "lngru" / "seed1" / "cut1")
    ]


def test_chained_runs_and_others_are_apart(tmp_path, capsys, monkeypatch):
    write_cuts(tmp_path / "a")
    write_run(tmp_path / "b", A, x=0.9, y=0.9)
    assert len(group_runs(read_runs(tmp_path)[0])) == 2
    code, out, _ = compare(tmp_path, capsys, monkeypatch)
    assert code == 0 and "forward-chained cross-validation: 2 cuts" in out
    assert "| all | GRU | x | 1 | 0.400 |  | 0.400 |  | 0.100 |" in out
    assert "Mean over cuts, then over seeds, first" in out
    assert "| seed | cut | select_on |" in out


def test_settings_are_tabulated_over_cuts_and_seeds(tmp_path):
    write_cuts(tmp_path / "a", lag=0.0)
    write_cuts(tmp_path / "b", lag=0.1, more=0.2)
    (table,) = hyperparameter_tables(group_runs(read_runs(tmp_path)[0]), "data.lag").values()
    assert table["data.lag"].tolist() == [0.0, 0.1]
    assert table["mean R²"].tolist() == pytest.approx([0.4, 0.6])
    assert table["SE over seeds"].tolist() == pytest.approx([0.1, 0.1])
    assert table["runs"].tolist() == [4, 4]
