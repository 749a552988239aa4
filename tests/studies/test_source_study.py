"""The source study's table and curves beside runs, on run folders of known figures; expected values reckoned by hand."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import yaml
from composing import compose
from omegaconf import OmegaConf
from run_folders import A, B, compare, write_run

from bci_decode.comparison.finished_runs import group_runs, read_runs
from bci_decode.comparison.tables import run_table
from bci_decode.data.catalog import catalog
from bci_decode.studies.source_study import (
    ablation_table,
    curves,
    differences,
    first_below_half,
    honest_text,
    plateau_end,
    study_settings,
)

HONEST = {
    "epoch": 2, "r2": 0.3, "r2_x": 0.2, "r2_y": 0.4, "loss": 70.0, "val_bins": [500, 520], "bins": [530, 600],
    "at_test_choice": {"epoch": 3, "r2": 0.5, "r2_x": 0.45, "r2_y": 0.55, "loss": 50.0},
}  # fmt: skip


def write_study(root: Path, session=A, model="lngru", honest=None, simulated=False, words=(), **about) -> Path:
    """A finished run of the study, or of it with other `words`; its data are the published session's where there is one."""
    md5 = catalog()[session].md5 if session in catalog() else session
    folder = write_run(root, session, model, experiment="source_study", val=None, md5=md5, **about)
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"honest": honest}))
    settings = composed_settings(model, about.get("target", "velocity"), *words)
    if simulated:
        settings["session"] = {"_target_": "bci_decode.data.simulate.simulated_session"}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return folder


@cache
def composed_text(*words: str) -> str:
    config = compose("experiment=source_study", "session=local", "session.path=a.mat", *words)
    return yaml.safe_dump(OmegaConf.to_container(config, resolve=True), sort_keys=False)


def composed_settings(model: str, target: str, *words: str) -> dict:
    way = f"bidirectional={str(model.endswith('bidirectional')).lower()}"
    return yaml.safe_load(composed_text(f"model={model.split('-')[0]}", f"data.target={target}", way, *words))


@pytest.fixture
def run(capsys, monkeypatch):
    return lambda folder: compare(folder, capsys, monkeypatch)


def table_of(folder: Path) -> pd.DataFrame:
    return ablation_table(group_runs(read_runs(folder)[0])).set_index(["target", "decoder", "direction"])


def test_the_ablation_table_by_hand(tmp_path):
    for session, x, bins in ((A, 0.4, 100), (B, 0.6, 300)):
        write_study(tmp_path, session, x=x, y=x + 0.2, bins=bins)
    write_study(tmp_path, A, "lngru-bidirectional", x=0.1, y=0.2)
    table = table_of(tmp_path)
    assert len(table) == 12 and table["sessions"].notna().sum() == 2
    row = table.loc[("velocity", "LN-GRU", "forward")]
    assert row[["published R² x", "published SD x", "published R² y", "published SD y"]].tolist() == [
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
    assert table.loc[("position", "LN-GRU", "forward"), "weighted R² x"] == 0.2
    rows = table.loc[[("velocity", "LN-GRU", "forward")]].set_index("differs from the study in")["weighted R² x"]
    assert rows.to_dict() == {"": 0.1, "data.bin_width=0.02": 0.3}


@pytest.mark.parametrize("model", ["gru", "lngru-bidirectional"])
@pytest.mark.parametrize(("target", "history"), [("position", 20), ("velocity", 10), ("acceleration", 10)])
def test_the_recipes_own_variants_differ_in_nothing(tmp_path, model, target, history):
    free = ("trainer.watch=true", "trainer.device=cpu", "data.split.val_of_rest=0")
    (run,) = read_runs(write_study(tmp_path, model=model, target=target, words=free))[0]
    assert differences(run) == ""
    assert study_settings(model, target)["data.window.length"] == run.settings["data.window.length"] == history


@pytest.mark.parametrize(
    ("model", "words", "told"),
    [
        ("lngru", "model.norm=null", "model.norm=None"),
        ("lngru", "model.recurrent.affine=true", "model.recurrent.affine=True"),
        ("lngru", "model.recurrent.bias=false", "model.recurrent.bias=False"),
        ("lngru", "model.head.width=64", "model.head.width=64"),
        ("gru", "+model.norm._target_=bci_decode.layers.HistoryNorm", "model.norm._target_=bci_decode.layers.recurrent.HistoryNorm"),
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
def test_every_setting_that_is_not_the_studys_is_told(tmp_path, model, words, told):
    (run,) = read_runs(write_study(tmp_path, model=model, words=(words,)))[0]
    assert differences(run) == told


def test_compare_prints_and_writes_the_table(tmp_path, run):
    write_study(tmp_path, x=0.5, y=0.7)
    code, out, _ = run(tmp_path)
    assert code == 0 and "ablation.csv and summary.md" in out
    line = next(line for line in out.splitlines() if line.startswith("| velocity | LN-GRU | forward |"))
    assert "0.640 ± 0.110 / 0.750 ± 0.050 | 0.500 / 0.700 | 0.500 / 0.700 | 1 | recorded |  |" in line
    assert "| velocity | GRU | both | 0.650 ± 0.120 / 0.740 ± 0.070 |  |  |  |  |  |" in out
    assert len(pd.read_csv(tmp_path / "ablation.csv")) == 12
    write_run(tmp_path / "another")
    _, out, _ = run(tmp_path / "another")
    assert "ablation" not in out and not (tmp_path / "another" / "ablation.csv").exists()


def test_how_long_a_curve_stays_and_when_it_has_fallen():
    epochs = [0, 4, 10, 20, 30]
    assert plateau_end(epochs, [101, 99, 98, 97, 99], 100) == 10
    assert plateau_end(epochs, [101, 99, 100, 102, 98], 100) == 30
    assert pd.isna(plateau_end(epochs, [103, 99, 98, 97, 99], 100))
    assert first_below_half(epochs, [101, 51, 50, 49, 60], 100) == 20
    assert pd.isna(first_below_half(epochs, [101, 99, 98, 97, 50], 100))


def test_losses_stand_beside_the_curve_of_the_check(tmp_path, run):
    losses = {"gru": (100, 99, 99, 99, 98.5, 97, 60), "lngru": (100, 90, 60, 49, 55, 40, 30)}
    for model, curve in losses.items():
        write_study(tmp_path, "mine", model, losses=curve)
    _, out, _ = run(tmp_path)
    assert "| epoch | mine gru seed 0 | mine lngru seed 0 | check: GRU | check: LN-GRU |" in out
    assert "| 4 | 98.500 | 55 | 5964 | 4297 |" in out and "| 5 | 97 | 40 |  |  |" in out
    assert "| 20 |  |  | 5219 | 1629 |" in out and "Check: the recipe on the whole 30-unit recording" in out
    assert (
        "- GRU: test loss within 2 % of the target's variance up to epoch 4; in the check, its loss at epoch 0 for the "
        "variance: up to epoch 10," in out
    )
    assert "- LN-GRU: test loss below half of the target's variance from epoch 3;" in out


def test_no_such_curve_beside_other_targets_and_other_recipes(tmp_path, run):
    write_study(tmp_path / "a", target="position", unit="mm")
    write_run(tmp_path / "b")
    _, out, _ = run(tmp_path)
    assert out.count("### Test loss by epoch") == 2 and "check: GRU" not in out and "within 2 %" not in out


def test_many_runs_have_a_median(tmp_path, run):
    for number in range(13):
        write_study(tmp_path, f"mine{number}", losses=(100, 90, 40 if number < 5 else 60, 60 if number == 12 else 30))
    _, out, _ = run(tmp_path)
    assert "| epoch | lngru, median of 13 runs | check: GRU" in out and "| 2 | 60 |" in out
    assert "from epoch 3 (median of 12 runs, 2 to 3; 1 never);" in out


def test_honest_scores_have_a_table_of_their_own(tmp_path, run):
    write_study(tmp_path, "mine", "lngru", honest=HONEST, x=0.91, y=0.93)
    write_study(tmp_path, "mine", "gru", x=0.91, y=0.93)
    _, out, _ = run(tmp_path)
    assert "| LN-GRU | 1 | 1 | 2 | 0.200 / 0.400 / 0.300 | 0.300 | 0.450 / 0.550 / 0.500 | 0.500 |" in out
    honest = out[out.index("### Honest") : out.index("### LN-GRU less GRU")]
    assert "0.91" not in honest and "| GRU |" not in honest
    row = pd.read_csv(tmp_path / "sessions.csv").set_index("model").loc["lngru"]
    assert row[["honest_epoch", "honest_bins", "honest_r2", "honest_r2_at_test_choice"]].tolist() == [2, 70, 0.3, 0.5]
    assert row["test_r2"] == pytest.approx(0.92)


def test_honest_means_over_sessions_are_weighted_by_the_bins_scored(tmp_path):
    write_study(tmp_path, "mine", honest=HONEST)
    write_study(tmp_path, "other", honest=HONEST | {"r2": 0.6, "bins": [530, 740]})
    text = "\n".join(honest_text(run_table(read_runs(tmp_path)[0])))
    assert "| LN-GRU | 2 | 2 | 2 | 0.200 / 0.400 / 0.450 | 0.525 |" in text  # (70 * .3 + 210 * .6) / 280
    write_study(tmp_path / "none", "third")
    assert honest_text(run_table(read_runs(tmp_path / "none")[0])) == []


def test_both_directions_are_paired_apart(tmp_path, run):
    for model, x in (("gru", 0.1), ("lngru", 0.2), ("gru-bidirectional", 0.3), ("lngru-bidirectional", 0.7)):
        write_study(tmp_path, "mine", model, x=x, y=0.5)
    _, out, _ = run(tmp_path)
    assert "### LN-GRU less GRU," in out and "| x | 1 | 1 | 0.100 | 0.100 |" in out
    assert "### LN-GRU bidirectional less GRU bidirectional," in out and "| x | 1 | 1 | 0.400 | 0.400 |" in out


def test_bidirectional_runs_alone_have_no_pair(tmp_path, run):
    write_study(tmp_path, "mine", "gru-bidirectional")
    code, out, _ = run(tmp_path)
    assert code == 0 and "No session has both a GRU and an LN-GRU run" in out


def test_the_curves_are_whole():
    table = curves().pivot(index="epoch", columns="decoder", values="test_loss")
    assert table["GRU"].dropna().to_dict() == {0: 5966, 4: 5964, 10: 5957, 20: 5219, 30: 3260, 40: 2160, 50: 1785}
    assert table["LN-GRU"].dropna().to_dict() == {0: 5937, 4: 4297, 10: 2097, 20: 1629, 30: 1552}
    assert curves()[["source", "protocol", "session"]].notna().all(axis=None) and set(curves()["target"]) == {
        "velocity"
    }
