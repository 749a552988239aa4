"""The two published protocols from a file to a score, and the published rows beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from composing import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from bci_decode.data.catalog import catalog
from bci_decode.data.session import read_session
from bci_decode.data.simulate import simulated_file
from bci_decode.errors import BciDecodeError
from bci_decode.runs.compose import CONF
from bci_decode.runs.folder import changed_settings
from bci_decode.runs.load import load_run
from bci_decode.runs.run import run
from bci_decode.studies.compare import compare_runs
from bci_decode.studies.peers import peer_sessions, peers

EXPERIMENTS = ["neurobench", "aegru"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("protocols")
    simulated_file(folder / "own.mat", seed=2, minutes=1.2, channels=6)
    return folder


def words(home: Path, experiment: str, *more: str) -> list[str]:
    session = ["session=local", f"session.path={home / 'own.mat'}"]
    few = ["trainer.epochs=1", f"output_dir={home / 'outputs'}"]
    few += ["data.window.stride=7"] if experiment == "aegru" else ["model.recurrent.hidden_size=8"]
    return [f"experiment={experiment}", *session, *few, *more]


@pytest.fixture(scope="module")
def folders(home) -> dict[str, Path]:
    return {name: run(compose(*words(home, name)), progress=False) for name in EXPERIMENTS}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_score_is_of_one_output_every_4_ms_of_the_last_quarter_of_the_reaches(
    home, folders, experiment
):
    session = read_session(home / "own.mat")
    metrics = json.loads((folders[experiment] / "metrics.json").read_text())
    saved = np.load(folders[experiment] / "predictions.npz")
    np.testing.assert_allclose(np.diff(saved["time"]), 0.004, atol=1e-6)
    changes = np.flatnonzero((np.diff(session.target_pos, axis=0) != 0).any(axis=1)) + 1
    starts = np.append(0, changes)
    train = len(starts) // 2
    first = starts[train + (len(starts) - train) // 2]
    # the gap, in which spikes would count in two parts
    assert saved["time"][0] == pytest.approx(session.t[first] + 0.076, abs=1e-6)
    assert saved["time"][-1] == session.t[-1]
    sample = np.searchsorted(session.t, saved["time"] - 1e-6)
    velocity = 250 * np.gradient(session.cursor_pos, axis=0)[sample]
    np.testing.assert_allclose(saved["true"], velocity, rtol=1e-3, atol=0.05)
    sse = ((saved["decoded"] - saved["true"]) ** 2).sum(0)
    r2 = 1 - sse / ((saved["true"] - saved["true"].mean(0)) ** 2).sum(0)
    assert metrics["scores"]["test"]["r2"] == pytest.approx(r2.mean())
    protocol = metrics["protocol"]
    assert protocol["split_by"] == "reaches" and protocol["window"]["step"] == 20
    assert (protocol["presence_s"], protocol["count_window_s"]) == (0.004, 0.08)
    assert protocol["source"] == "cursor_pos" and protocol["units"] == "merged"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_loaded_run_decodes_the_same_stream(home, folders, experiment):
    saved = np.load(folders[experiment] / "predictions.npz")
    found = load_run(folders[experiment]).predictions(home / "own.mat")
    np.testing.assert_allclose(found["time"], saved["time"])
    np.testing.assert_allclose(found["decoded"], saved["decoded"], rtol=1e-3, atol=0.05)


def test_aegru_decodes_five_counts_of_80_ms_from_a_zero_state(home, folders):
    loaded, saved = load_run(folders["aegru"]), np.load(folders["aegru"] / "predictions.npz")
    assert loaded.config.window.learn == loaded.config.window.length == 5
    assert loaded.model.recurrent.place == "state" and loaded.model.encoder.output_size == 32
    binned = loaded.bin(home / "own.mat")
    first = loaded.state["session"]["split_bins"]["test"][0]
    for output in (80, 1234, len(saved["decoded"]) - 1):  # bin 80 is the first with five counts
        bins = first + output - 20 * np.arange(4, -1, -1)
        window = torch.from_numpy(binned.counts[bins].astype(np.float32))
        with torch.no_grad():
            last = loaded.model(window[None])[0][0, -1]  # mm per sample
        np.testing.assert_allclose(250 * last, saved["decoded"][output], rtol=1e-3, atol=0.05)


def test_published_rows_have_a_table_of_their_own(home, folders):
    text = compare_runs(list(folders.values()), home / "compared")
    tables = text.split("### Published, same sessions and split")
    assert len(tables) == 3
    for part in tables[1:]:
        part = part.split("###")[0]
        assert (
            "AEGRU pruned | 0.698 | 0.009 | 0.763 | 0.653 | 0.763 | 0.682 | 0.624 | 0.704" in part
        )
        assert "scores say nothing about these" in part and "no window crosses" in part
        assert "own" not in part.split("| decoder")[1]
    assert "data.window.stride=7" in text and "the reaches of a session" in text
    assert "with the counts of 80 ms" in text


def test_the_published_rows_are_whole():
    table = peers()
    assert peer_sessions() == [name for name in catalog() if name in peer_sessions()]
    of_sessions = table[table["session"].notna()]
    assert of_sessions["r2"].mean() == pytest.approx(0.698, abs=5e-4)
    means = table[table["session"].isna()]
    assert means["decoder"].is_unique and means["source"].notna().all()
    assert means["r2"].between(0.5, 0.75).all()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_sweep_of_the_experiment_is_over_the_six_sessions(experiment):
    text = (CONF / "experiment" / f"{experiment}.yaml").read_text()
    (key, value), *others = yaml.safe_load(text)["hydra"]["sweeper"]["params"].items()
    overrides = OverridesParser.create().parse_overrides([f"{key}={value}"])
    (jobs,) = BasicSweeper.split_arguments(overrides, None)
    assert [job[0] for job in jobs] == [f"session={name}" for name in peer_sessions()]
    assert not others


def test_make_data_neurobench_fetches_the_six_sessions():
    text = (CONF.parent / "Makefile").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("NEUROBENCH = ")]
    assert line.split()[2:] == peer_sessions()


def test_other_models_take_the_same_protocols(home):
    config = compose(*words(home, "aegru", "model=gru", "model.recurrent.hidden_size=4"))
    assert "encoder" not in config.model and config.data.count_window == 0.08


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["trainer.monitor_layers=true"], "trainer.monitor_layers: sees the counts, which this"),
        (["data.presence=0.003"], "data.presence: is 0.003 s, not a divisor of data.bin_width"),
        (["data.count_window=0.01"], "data.count_window: is 0.01 s, not a multiple of data.bin"),
        (["data.window.learn=6"], "data.window.learn: is 6 of 5 bins"),
        (["data.target=position"], "data.scale.target: is per_sample, a unit of velocity"),
    ],
)
def test_a_mistake_leaves_no_folder(home, more, line):
    with pytest.raises(BciDecodeError) as refusal:
        run(compose(*words(home, "aegru", *more, f"output_dir={home / 'refused'}")), progress=False)
    assert line in str(refusal.value)
    assert not list((home / "refused").rglob("config.yaml"))


def test_a_run_of_a_version_without_these_keys_is_not_another_run(home, folders, tmp_path):
    """Its config.yaml lacks them; the same command must find the run finished."""
    folder = folders["neurobench"]
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    here = yaml.safe_load((folder / "config.yaml").read_text())
    for key in ("presence", "count_window", "difference"):
        del settings["data"][key]
    del settings["data"]["split"]["by"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    changed = changed_settings(tmp_path, here)
    assert changed == {
        "data.presence": (None, 0.004),
        "data.count_window": (None, 0.08),
        "data.difference": ("bin", "central"),
        "data.split.by": ("time", "reaches"),
    }
    here["data"] |= {"presence": None, "count_window": None, "difference": "bin"}
    here["data"]["split"]["by"] = "time"
    assert changed_settings(tmp_path, here) == {}
