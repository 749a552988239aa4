"""The source study's table and curves beside run folders with known scores."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import yaml
from run_folders import A, B, compare, write_run

from bci_decode.comparison.finished_runs import half_plateau_epoch, read_runs
from bci_decode.comparison.groups import group_runs
from bci_decode.comparison.tables import holdout_table, run_table
from bci_decode.data.catalog import catalog
from bci_decode.runs.compose import resolved_config
from bci_decode.studies.published import plateau_end, published_scores, reference_curves
from bci_decode.studies.source_study import ablation_table, differences, study_settings

HOLDOUT = {
    "epoch": 2, "r2": 0.3, "r2_x": 0.2, "r2_y": 0.4, "loss": 70.0, "val_bins": [500, 520],
    "bins": [530, 600],
    "at_test_selected_epoch": {"epoch": 3, "r2": 0.5, "r2_x": 0.45, "r2_y": 0.55, "loss": 50.0},
}  # fmt: skip


def write_study(
    root: Path, session=A, model="lngru", holdout=None, simulated=False, words=(), **about
) -> Path:
    """A finished run of the study, or of it with other `words`.

    Its data are the published session's where there is one.
    """
    md5 = catalog()[session].md5 if session in catalog() else session
    folder = write_run(root, session, model, experiment="source_study", val=None, md5=md5, **about)
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"holdout": holdout}))
    settings = composed_settings(model, about.get("target", "velocity"), *words)
    if simulated:
        settings["session"] = {"_target_": "bci_decode.data.simulate.simulated_session"}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return folder


@cache
def composed_text(*words: str) -> str:
    return yaml.safe_dump(resolved_config("experiment=source_study", *words), sort_keys=False)


def composed_settings(model: str, target: str, *words: str) -> dict:
    way = f"bidirectional={str(model.endswith('bidirectional')).lower()}"
    return yaml.safe_load(
        composed_text(f"model={model.split('-')[0]}", f"data.target={target}", way, *words)
    )


@pytest.fixture
def run(capsys, monkeypatch):
    return lambda folder: compare(folder, capsys, monkeypatch)


def table_of(folder: Path) -> pd.DataFrame:
    return ablation_table(group_runs(read_runs(folder)[0])).set_index(
        ["target", "decoder", "direction"]
    )


def test_the_ablation_table_by_hand(tmp_path):
    for session, x, bins in ((A, 0.4, 100), (B, 0.6, 300)):
        write_study(tmp_path, session, x=x, y=x + 0.2, bins=bins)
    write_study(tmp_path, A, "lngru-bidirectional", x=0.1, y=0.2)
    table = table_of(tmp_path)
    assert len(table) == 12 and table["sessions"].notna().sum() == 2
    row = table.loc[("velocity", "LN-GRU", "forward")]
    assert row[
        ["published R² x", "published SD x", "published R² y", "published SD y"]
    ].tolist() == [
        0.64,
        0.11,
        0.75,
        0.05,
    ]
    # (40 + 180) / 400; (100 * .15^2 + 300 * .05^2) / 400 = .0075
    weighted = ["weighted R² x", "weighted SD x", "weighted R² y", "weighted SD y"]
    assert row[weighted].tolist() == pytest.approx([0.55, 0.0075**0.5, 0.75, 0.0075**0.5])
    assert row[["plain R² x", "plain R² y", "sessions", "recording"]].tolist() == [
        pytest.approx(0.5),
        pytest.approx(0.7),
        2,
        "recorded",
    ]
    assert table.loc[("velocity", "LN-GRU", "both"), "weighted R² x"] == 0.1


def test_recorded_sessions_excerpts_and_simulated_ones_never_share_a_row(tmp_path):
    write_study(tmp_path, A, x=0.1)
    write_study(tmp_path, A + "_30units", x=0.2)
    write_study(tmp_path, "sim1", x=0.3, simulated=True)
    write_study(tmp_path, "mine", x=0.4)
    rows = table_of(tmp_path).loc[[("velocity", "LN-GRU", "forward")]]
    found = dict(zip(rows["recording"], rows["weighted R² x"], strict=True))
    assert found == {"recorded": 0.1, "excerpt": 0.2, "simulated": 0.3, "own file": 0.4}


def test_a_file_under_a_published_name_is_not_the_published_session(tmp_path):
    folder = write_study(tmp_path, A)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["data"]["md5"] = "another"
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert table_of(tmp_path)["recording"].dropna().tolist() == ["excerpt"]


def test_targets_and_protocols_have_rows_of_their_own(tmp_path):
    write_study(tmp_path / "a", x=0.1)
    write_study(tmp_path / "b", x=0.2, target="position", unit="mm")
    write_study(tmp_path / "c", x=0.3, words=("data.bin_width=0.02",))
    table = table_of(tmp_path)
    assert table.loc[[("position", "LN-GRU", "forward")], "weighted R² x"].tolist() == [0.2]
    rows = table.loc[[("velocity", "LN-GRU", "forward")]].set_index("differs from the study in")[
        "weighted R² x"
    ]
    assert rows.to_dict() == {"": 0.1, "data.bin_width=0.02": 0.3}


@pytest.mark.parametrize("model", ["gru", "lngru-bidirectional"])
@pytest.mark.parametrize(
    ("target", "history"), [("position", 20), ("velocity", 10), ("acceleration", 10)]
)
def test_the_recipes_own_variants_differ_in_nothing(tmp_path, model, target, history):
    free = ("trainer.monitor_layers=true", "trainer.device=cpu", "data.split.val_from_test=0")
    (run,) = read_runs(write_study(tmp_path, model=model, target=target, words=free))[0]
    assert differences(run) == ""
    assert (
        study_settings(model, target)["data.window.length"]
        == run.settings["data.window.length"]
        == history
    )


@pytest.mark.parametrize(
    ("model", "words", "difference"),
    [
        ("lngru", "model.norm=null", "model.norm=None"),
        ("lngru", "model.recurrent.affine=true", "model.recurrent.affine=True"),
        ("lngru", "model.recurrent.bias=false", "model.recurrent.bias=False"),
        ("lngru", "model.head.width=64", "model.head.width=64"),
        (
            "gru",
            "+model.norm._target_=bci_decode.layers.HistoryNorm",
            "model.norm._target_=bci_decode.HistoryNorm",
        ),
        ("gru", "model.recurrent._target_=torch.nn.RNN", "model.recurrent._target_=torch.nn.RNN"),
        ("gru", "+optimizer.weight_decay=0.1", "optimizer.weight_decay=0.1"),
        ("gru", "~optimizer.momentum", "optimizer.momentum=None"),
        ("gru", "trainer.clip_norm=1", "trainer.clip_norm=1.0"),
        ("gru", "data.window.length=7", "data.window.length=7"),
        (
            "gru",
            "scheduler=cosine",
            "scheduler._target_=torch.optim.lr_scheduler.CosineAnnealingLR, scheduler.T_max=75",
        ),
    ],
)  # fmt: skip
def test_every_setting_that_is_not_the_studys_is_listed(tmp_path, model, words, difference):
    (run,) = read_runs(write_study(tmp_path, model=model, words=(words,)))[0]
    assert differences(run) == difference


def test_compare_prints_and_writes_the_table(tmp_path, run):
    write_study(tmp_path, x=0.5, y=0.7)
    code, out, _ = run(tmp_path)
    assert code == 0 and "sessions.csv, ablation.csv and summary.md" in out
    line = next(
        line for line in out.splitlines() if line.startswith("| velocity | LN-GRU | forward |")
    )
    assert (
        "0.640 ± 0.110 / 0.750 ± 0.050 | 0.500 / 0.700 | 0.500 / 0.700 | 1 | recorded |  |" in line
    )
    assert "| velocity | GRU | both | 0.650 ± 0.120 / 0.740 ± 0.070 |  |  |  |  |  |" in out
    assert len(pd.read_csv(tmp_path / "ablation.csv")) == 12
    write_run(tmp_path / "another")
    _, out, _ = run(tmp_path / "another")
    assert "ablation" not in out and not (tmp_path / "another" / "ablation.csv").exists()


def test_how_long_a_curve_stays_and_when_it_has_fallen():
    def curve(*losses):
        return pd.DataFrame({"epoch": [0, 4, 10, 20, 30], "test_loss": losses})

    assert plateau_end(curve(101, 99, 98, 97, 99), 100) == 10
    assert plateau_end(curve(101, 99, 100, 102, 98), 100) == 30
    assert plateau_end(curve(103, 99, 98, 97, 99), 100) is None
    assert half_plateau_epoch(curve(101, 51, 50, 49, 60), 100) == 20
    assert half_plateau_epoch(curve(101, 99, 98, 97, 50), 100) is None


def test_losses_stand_beside_the_curve_of_the_check(tmp_path, run):
    losses = {"gru": (100, 99, 99, 99, 98.5, 97, 60), "lngru": (100, 90, 60, 49, 55, 40, 30)}
    for model, curve in losses.items():
        write_study(tmp_path, "mine", model, losses=curve)
    _, out, _ = run(tmp_path)
    assert "| epoch | mine gru seed 0 | mine lngru seed 0 | check: GRU | check: LN-GRU |" in out
    assert "| 4 | 98.500 | 55 | 5964 | 4297 |" in out and "| 5 | 97 | 40 |  |  |" in out
    assert (
        "| 20 |  |  | 5219 | 1629 |" in out
        and "Check: the recipe on the whole 30-unit recording" in out
    )
    assert "| GRU | 1 | 4 | never | 10 | 40 |" in out
    assert "| LN-GRU | 1 | 0 | 3 | 0 | 10 |" in out


def test_no_such_curve_beside_other_targets_and_other_recipes(tmp_path, run):
    write_study(tmp_path / "a", target="position", unit="mm")
    write_run(tmp_path / "b")
    _, out, _ = run(tmp_path)
    assert out.count("### Test loss by epoch") == 2
    assert "check: GRU" not in out and "within 2 %" not in out


def test_many_runs_have_a_median(tmp_path, run):
    for number in range(13):
        write_study(
            tmp_path,
            f"mine{number}",
            losses=(100, 90, 40 if number < 5 else 60, 60 if number == 12 else 30),
        )
    _, out, _ = run(tmp_path)
    assert "| epoch | lngru, median of 13 runs | check: GRU" in out and "| 2 | 60 |" in out
    assert "| LN-GRU | 13 | 0 (0 to 0) | 3 (2 to 3; 1 never) |" in out


def test_holdout_scores_have_their_own_table(tmp_path, run):
    write_study(tmp_path, "mine", "lngru", holdout=HOLDOUT, x=0.91, y=0.93)
    write_study(tmp_path, "mine", "gru", x=0.91, y=0.93)
    _, out, _ = run(tmp_path)
    assert (
        "| LN-GRU | 1 | 1 | 2 | 0.200 / 0.400 / 0.300 | 0.300 | 0.450 / 0.550 / 0.500 | 0.500 |"
        in out
    )
    part = out[out.index("### Holdout") : out.index("### Gain in")]
    assert "0.91" not in part and "| GRU |" not in part
    row = pd.read_csv(tmp_path / "sessions.csv").set_index("model").loc["lngru"]
    columns = ["holdout_epoch", "holdout_bins", "holdout_r2", "holdout_r2_at_test_selected_epoch"]
    assert row[columns].tolist() == [2, 70, 0.3, 0.5]
    assert row["test_r2"] == pytest.approx(0.92)


def test_holdout_means_over_sessions_are_weighted_by_the_bins_scored(tmp_path):
    write_study(tmp_path, "mine", holdout=HOLDOUT)
    write_study(tmp_path, "other", holdout=HOLDOUT | {"r2": 0.6, "bins": [530, 740]})
    (row,) = holdout_table(run_table(read_runs(tmp_path)[0])).itertuples(index=False)
    # (70 * .3 + 210 * .6) / 280
    assert row[4] == "0.200 / 0.400 / 0.450" and row[5] == pytest.approx(0.525)
    write_study(tmp_path / "none", "third")
    assert len(holdout_table(run_table(read_runs(tmp_path / "none")[0]))) == 0


def test_both_directions_are_paired_apart(tmp_path, run):
    for model, x in (
        ("gru", 0.1),
        ("lngru", 0.2),
        ("gru-bidirectional", 0.3),
        ("lngru-bidirectional", 0.7),
    ):
        write_study(tmp_path, "mine", model, x=x, y=0.5)
    _, out, _ = run(tmp_path)
    assert "| LN-GRU | GRU | x | 1 | 1 | 0.100 | 0.100 |" in out
    assert "| LN-GRU bidirectional | GRU bidirectional | x | 1 | 1 | 0.400 | 0.400 |" in out


def test_bidirectional_runs_alone_have_no_pair(tmp_path, run):
    write_study(tmp_path, "mine", "gru-bidirectional")
    code, out, _ = run(tmp_path)
    assert code == 0 and "No session has both a GRU and another model" in out


def test_a_model_without_a_published_score_has_a_row(tmp_path, run):
    """Also one that is not in `conf/`, of which nothing is known."""
    folder = write_study(tmp_path, model="lngru", x=0.5)
    other = tmp_path / "source_study" / A / "tcn" / "seed0"
    shutil.copytree(folder, other)
    metrics = json.loads((other / "metrics.json").read_text())
    (other / "metrics.json").write_text(json.dumps(metrics | {"model": "tcn"}))
    table = table_of(tmp_path)
    assert len(table) == 13
    row = table.loc[("velocity", "tcn", "forward")]
    assert row["weighted R² x"] == 0.5 and row["differs from the study in"] == "model unknown"
    code, out, _ = run(tmp_path)
    assert code == 0 and "| velocity | tcn | forward |  | 0.500 / 0.700 |" in out


def test_published_scores_carry_their_protocol(tmp_path, run):
    for session in (A, B):
        write_run(tmp_path, session)
    _, out, _ = run(tmp_path)
    wu = "Wu 2021 | 64 ms bins; first 5000 train and the rest test; best epoch by TEST R2;"
    assert f"| LN-GRU | 0.640 | 0.110 | 0.750 | 0.050 | {wu}" in out
    assert "| rEFH | 0.580 | 0.150 | 0.740 | 0.060 | Makin 2018 | 64 ms bins;" in out
    assert (
        "GRU 76, LN-GRU 32 (Wu 2021; 64 ms bins;" in out and "rEFH R² x (Makin 2018: 64 ms)" in out
    )
    assert f"| {A} | 100 | 0.500 | 0.700 | 0.672 | 0.845 | 98 | 34 |" in out


def test_the_published_scores_are_whole():
    table = published_scores()
    assert table[["source", "protocol", "decoder", "target"]].notna().all(axis=None)
    for decoder, column in (("rEFH", "r2_x"), ("GRU", "best_epoch"), ("LN-GRU", "best_epoch")):
        sessions = table[table["session"].notna() & (table["decoder"] == decoder)]
        assert set(sessions["session"]) == set(catalog()) and sessions[column].notna().all()
    means = table[table["session"].isna()].groupby("target").size()
    assert means.to_dict() == {"position": 5, "velocity": 5, "acceleration": 5}


def test_the_curves_are_whole():
    curves = reference_curves()
    table = curves.pivot(index="epoch", columns="decoder", values="test_loss")
    gru = {0: 5966, 4: 5964, 10: 5957, 20: 5219, 30: 3260, 40: 2160, 50: 1785}
    lngru = {0: 5937, 4: 4297, 10: 2097, 20: 1629, 30: 1552}
    assert table["GRU"].dropna().to_dict() == gru and table["LN-GRU"].dropna().to_dict() == lngru
    assert curves[["source", "protocol", "session"]].notna().all(axis=None)
    assert set(curves["target"]) == {"velocity"}
