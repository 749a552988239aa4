"""scripts/explain.py as a user starts it, on small recordings and with few epochs."""

from __future__ import annotations

import runpy
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from matplotlib.image import imread
from recordings import ROOT, recording, write_mat73
from toys import config, made_data, made_decoder

from bci_decode.comparison.old_runs import present_history
from bci_decode.config import flatten
from bci_decode.runs.compose import resolved_config
from bci_decode.studies.distributions import normalized
from bci_decode.studies.dynamics import is_plain_sgd
from bci_decode.studies.dynamics_figures import RELATIVE, layer_title, norm_curves
from bci_decode.studies.plateau import OTHERS, PlateauTrainer, with_short_test

SCRIPT = ROOT / "scripts" / "explain.py"


@pytest.fixture
def explain(tmp_path, monkeypatch, capsys):
    """The command in a new folder: exit code, and what it printed and said."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["explain.py", *words])
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0), *capsys.readouterr()
        return 0, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """Half a minute of six channels."""
    return write_mat73(
        tmp_path_factory.mktemp("toy") / "toy.mat", recording(channels=6, samples=7500)
    )


def pictures_in(folder: Path) -> set[str]:
    for path in folder.glob("*.png"):
        assert len(np.unique(imread(path)[..., :3])) > 10  # drawn on, not blank
    return {path.name for path in folder.glob("*.png")}


def test_what_needs_no_session(tmp_path, explain):
    # with the jobs that make gives every call
    code, printed, said = explain(
        "--jobs", "2", "--parts", "functions", "distributions", "invariance"
    )
    assert code == 0, said
    folder = tmp_path / "outputs" / "explain"
    assert pictures_in(folder) == {"functions.png", "distributions.png"}
    assert "18 of 18 cells as in the paper" in printed
    moved = pd.read_csv(folder / "distributions.csv")
    after = moved[moved["when"] == "after LayerNorm"]
    np.testing.assert_allclose(after["mean"], 0, atol=1e-5)
    np.testing.assert_allclose(after["SD"], 1, atol=1e-2)
    assert moved["share outside ±4"].iloc[0] > 0.99 and (after["share outside ±4"] < 0.01).all()
    tables = {part.strip() for part in (folder / "tables.md").read_text().split("## ")}
    assert explain("--parts", "distributions")[0] == 0
    again = (folder / "tables.md").read_text().split("## ")
    # in place of the old one, the other kept
    assert len(again) == 3 and {part.strip() for part in again} == tables


def test_a_monitored_pair(tmp_path, toy, explain):
    named = tmp_path / "a monkey's.mat"  # what Hydra's command line would not take unquoted
    shutil.copy(toy, named)
    words = (
        "--parts",
        "dynamics",
        "--session",
        named.name,
        "--first-bins",
        "300",
        "--epochs",
        "2",
        "--output",
        "shown",
    )
    code, printed, said = explain(*words)
    assert code == 0, said
    folder = tmp_path / "shown" / "a monkey's" / "source_study"
    assert pictures_in(folder) == {"pre_activations.png", "shares.png", "norms.png"}
    inner = pd.read_csv(folder / "pre_activations.csv").set_index(
        ["model", "layer", "gate", "when"]
    )
    for model in ("gru", "lngru"):
        run = tmp_path / "shown" / "runs" / "source_study" / "a monkey's" / model / "seed0"
        history = present_history(pd.read_csv(run / "history.csv")).set_index("epoch")
        # of decoders made again, and as the training saw them
        for when, epoch in (("untrained", 0), ("epoch 2", 2)):
            share = inner.loc[(model, "l1", "reset", when), "outside"]
            assert share == pytest.approx(history.loc[epoch, "saturated_l1_reset"], abs=1e-9)
    trained = run / "last.pt"
    before = trained.stat().st_mtime_ns
    assert explain(*words)[1] == printed
    assert trained.stat().st_mtime_ns == before  # not trained again
    assert "a monkey's (15 units, 30 s), first 270 bins, seed 0, source_study" in printed
    code, _, said = explain(*words, "--first-bins", "200")
    assert code == 2 and "holds a run with other settings (--first-bins=300" in said
    assert "--overwrite trains again, another --output keeps both" in said


def test_steps_to_half_the_plateau(tmp_path, toy, explain):
    words = ("--parts", "plateau", "--session", str(toy), "--plateau-bins", "60",
             "--batch-sizes", "64", "--histories", "5", "--output", "shown",
             "--plateau-steps")  # fmt: skip
    code, printed, said = explain(*words, "1")
    assert code == 0, said
    folder = tmp_path / "shown" / "toy"
    assert pictures_in(folder) == {"plateau.png"}
    table = pd.read_csv(folder / "plateau.csv")
    assert {tuple(row) for row in table[["batch_size", "history", "model"]].to_numpy()} == {
        (16, 5, "gru"), (16, 5, "lngru"), (64, 10, "gru"), (64, 10, "lngru"),
        (16, 10, "gru"), (16, 10, "lngru"), (16, 10, "gru, outputs normalized"),
        (16, 10, "lngru, outputs not normalized"), (16, 10, "gru, AdamW"),
        (16, 10, "gru, counts z-scored"), (16, 10, "gru, targets z-scored"),
        (16, 10, "gru, learning rate 1e-4"),
    }  # fmt: skip
    assert (table["steps_per_epoch"] == -(-(61 - table["history"]) // table["batch_size"])).all()
    assert table["half_plateau_steps"].isna().all() and (table["epochs"] == 1).all()
    assert "| 16 | 10 | not within 1 (1) | not within 1 (1) |" in printed
    assert "first 60 bins train, the 408 after them test" in printed
    base = next((tmp_path / "shown" / "runs" / "plateau").iterdir())
    history = base / "batch64_history10" / "gru" / "seed0" / "history.csv"
    before = history.read_text()
    assert explain(*words, "3")[0] == 0  # continues, to whole epochs that hold so many steps
    epochs = pd.read_csv(folder / "plateau.csv").set_index(["batch_size", "model"])["epochs"]
    assert epochs[64].tolist() == [3, 3] and set(epochs[16]) == {1}
    assert history.read_text().startswith(before) and history.read_text().count("\n") == 5


@pytest.mark.parametrize(
    ("words", "plain"),
    [
        (["experiment=source_study"], True),
        (["experiment=source_study", "optimizer.momentum=0.9"], False),
        (["experiment=source_study", "trainer.clip_norm=1"], False),
        (["experiment=default"], False),
    ],
)
def test_the_relative_step_is_shown_of_plain_sgd_alone(tmp_path, words, plain):
    """Elsewhere learning rate x gradient is not what a step changes the weights by."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(resolved_config(*words)))
    assert is_plain_sgd(tmp_path) is plain
    history = pd.DataFrame(
        {
            "grad_norm_l0_ih": [1.0],
            "grad_norm_l0_hh": [3.0],
            "weight_norm_l0_hh": [6.0],
            "lr": [0.1],
        }
    )
    curves = norm_curves(history, "l0", plain)
    assert len(curves) == 3 + plain and (RELATIVE in curves) is plain
    if plain:
        assert curves[RELATIVE].tolist() == pytest.approx([0.05])


def test_layers_are_counted_from_one():
    assert [layer_title(name) for name in ("l0", "l1_reverse")] == ["layer 1", "layer 2, reverse"]


def test_each_variant_changes_one_thing():
    """Each variant's settings are the plain GRU's but for the key, or group, that its name says."""
    plain, found = flatten(resolved_config("experiment=source_study", "model=gru")), {}
    for name, words in OTHERS.items():
        own = flatten(resolved_config("experiment=source_study", "model=gru", *words))
        found[name] = {
            key: own.get(key) for key in {**plain, **own} if own.get(key) != plain.get(key)
        }
    adamw = found.pop("gru, AdamW")
    assert adamw["optimizer._target_"] == "torch.optim.AdamW" and all(
        key.startswith("optimizer.") for key in adamw
    )
    assert found == {
        "gru, counts z-scored": {"data.scale.counts": "zscore"},
        "gru, targets z-scored": {"data.scale.target": "zscore"},
        "gru, learning rate 1e-4": {"optimizer.lr": 1e-4},
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--parts", "plateau", "--session", "none.mat"), "none.mat: no such file"),
        (("--parts", "dynamics", "--session", "none.mat"), "error: none.mat: no such file"),
        (("--parts", "functions", "--output", "taken"), "error: taken: cannot be a folder"),
        (
            ("--parts", "functions", "--output", "taken/below"),
            "error: taken/below: cannot be a folder",
        ),
        (
            ("--parts", "dynamics", "--plateau-bins", "9"),
            "--plateau-bins is of the part plateau, which --parts leaves out",
        ),
        (
            ("--parts", "functions", "--session", "a.mat"),
            "--session is of the part dynamics or plateau or batch_norm, which",
        ),
        (("--parts", "dynamics", "--session", "TOY", "--first-bins", "999"), "change --first-bins"),
        (
            ("--parts", "plateau", "--session", "TOY", "--plateau-bins", "999"),
            "change --plateau-bins",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, toy, explain, words, message):
    (tmp_path / "taken").write_text("a file")
    code, _, said = explain(*(str(toy) if word == "TOY" else word for word in words))
    assert code == 2
    # argparse's own
    lines = [line for line in said.splitlines() if not line.startswith(("usage:", "  "))]
    assert [message in line for line in lines] == [True], said


def made(folder: Path, **changes) -> PlateauTrainer:
    folder.mkdir(exist_ok=True)
    adam = partial(torch.optim.Adam, lr=1e-2)
    return PlateauTrainer(
        made_decoder(), made_data(), folder, config(**{"epochs": 50} | changes), adam
    )


def test_a_plateau_run_stops_at_half_and_goes_on_where_it_was_cut(tmp_path):
    whole = made(tmp_path / "whole")
    history = whole.fit()
    variance = whole.data.parts["test"].target.var(axis=0).mean()
    below = history["test_loss"] < variance / 2
    assert below.sum() == 1 and below.iloc[-1] and len(history) < 51
    assert whole.half_epoch() == history["epoch"].iloc[-1]
    made(tmp_path / "cut", epochs=1).fit()
    resumed = made(tmp_path / "cut").fit()
    pd.testing.assert_frame_equal(
        history.drop(columns="seconds"), resumed.drop(columns="seconds"), check_exact=True
    )
    again = made(tmp_path / "cut").fit()
    assert len(again) == len(history)


def test_a_short_test_part_is_the_beginning_of_the_long_one():
    data = made_data()
    short = with_short_test(data, 50)
    np.testing.assert_array_equal(short.parts["test"].target, data.parts["test"].target[:50])
    assert short.slices["test"] == slice(500, 550) and len(short.parts["test"]) == 50
    assert with_short_test(data, 9999).slices == data.slices


def test_a_document_is_brought_up_to_date(tmp_path, explain):
    document = tmp_path / "docs" / "why.md"
    document.parent.mkdir()
    document.write_text(
        "Before\n<!-- table .: distributions -->\nold\n<!-- end -->\n"
        "between ![a](figures/functions.png)\n"
        "<!-- table own: losses -->\nkept\n<!-- end -->\nafter ![b](figures/own_norms.png)\n"
    )
    code, printed, said = explain(
        "--parts", "functions", "distributions", "--document", "docs/why.md"
    )
    assert code == 0, said
    text = document.read_text()
    assert "old" not in text and "| mean 7, SD 1 | before |" in text and "kept" in text
    assert text.startswith("Before\n<!-- table .: distributions -->\n| ") and text.endswith(
        "(figures/own_norms.png)\n"
    )
    assert "up to date, except for figure own_norms.png, table own: losses" in printed
    assert pictures_in(document.parent / "figures") == {"functions.png"}
    assert explain("--parts", "--document", "docs/why.md")[0] == 0
    assert document.read_text() == text
    code, _, said = explain("--parts", "--document", "docs/other.md")
    assert code == 2 and said.startswith("error: docs/other.md: no such document")


def test_the_bound_on_what_layernorm_leaves_outside_the_band():
    """At most 1/16 outside ±4 and at most sqrt(H - 1) in size, for any distribution."""
    random = torch.Generator().manual_seed(0)
    drawn = {
        "lognormal": torch.exp(2 * torch.randn(1024, generator=random)),
        "sparse": (torch.rand(1024, generator=random) < 0.01).float(),
        "one": torch.eye(1024)[0],
    }
    found = {name: normalized(values).abs() for name, values in drawn.items()}
    for name, values in found.items():
        assert 0 < (values > 4).float().mean() < 1 / 16, name
        assert values.max() <= 1023**0.5
    assert found["one"].max() == pytest.approx(1023**0.5, rel=0.01)
