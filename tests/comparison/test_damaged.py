"""Runs whose files are damaged or a stranger's: each is listed with the reason, or right."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from run_folders import write_run

from bci_decode.comparison.finished_runs import read_runs
from bci_decode.comparison.predictions import run_draws
from bci_decode.errors import BciDecodeError
from bci_decode.runs import reading
from bci_decode.runs.checksums import SUMS, write_checksums
from bci_decode.runs.reading import read_predictions


@pytest.fixture
def folder(tmp_path):
    write_run(tmp_path, "whole")
    return write_run(tmp_path)


def reason(folder) -> str:
    """Why the run is listed as damaged; the other one is compared."""
    runs, others = read_runs(folder.parents[3])
    assert len(runs) == 1 and not others.unfinished and not others.failed
    ((place, text),) = others.damaged
    assert place == folder and "\n" not in text and len(text) < 300
    return text


def rewrite(folder, **changes) -> None:
    report = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(report | changes))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("history.csv", "epoch,test_loss\n0,90\n1,80\n2,40\n3,3", "it is cut"),
        ("history.csv", "epoch,test_loss\n0,90\n2,40\n3,30\n", "rows are missing"),
        ("history.csv", "epoch,test_loss\n", "it is cut"),
        ("history.csv", "", "history.csv is damaged"),
        ("history.csv", "\0\0\n\xff", "history.csv is damaged"),
        ("config.yaml", None, "No such file"),
        ("config.yaml", "- a\n", "holds no settings"),
        ("config.yaml", "a: " + "[" * 5000, "config.yaml is damaged"),
        ("config.yaml", "a: " + "{b: " * 5000 + "}" * 5000, "config.yaml is damaged"),
        ("config.yaml", "a: 9" + "9" * 5000 + "\n", "config.yaml is damaged"),
        ("config.yaml", "a: 2001-99-99\n", "config.yaml is damaged"),
        ("config.yaml", "a: &a {b: *a}\n", "config.yaml is damaged"),
        ("metrics.json", '{"a": ' + "[" * 99999, "metrics.json is damaged"),
        ("metrics.json", '{"epochs": 9' + "9" * 5000 + "}", "metrics.json is damaged"),
        ("metrics.json", "[]", "no report"),
    ],
)
def test_a_file_of_another_form(folder, name, content, words):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content.encode("latin-1"))
    assert words in reason(folder)


def test_aliases_that_stand_for_billions_of_keys(folder):
    lines = ["k0: &k0 {a: 1, b: 1}"]
    lines += [f"k{i}: &k{i} {{a: *k{i - 1}, b: *k{i - 1}}}" for i in range(1, 60)]
    (folder / "config.yaml").write_text("\n".join(lines))
    assert yaml.safe_load((folder / "config.yaml").read_text())
    assert "holds no settings" in reason(folder)


@pytest.mark.parametrize("name", ["config.yaml", "history.csv", "metrics.json"])
def test_a_huge_file_is_not_read(folder, name):
    with (folder / name).open("ab") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    assert "more than" in reason(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"scores": {"test": {"r2": 99.0, "r2_x": 0.5, "r2_y": 0.7}}},
        {"scores": {"test": {"r2": 0.6, "r2_x": -np.inf, "r2_y": 0.7}}},
        {"scores": {"test": {"r2": "0.6", "r2_x": [], "r2_y": 0.7}}},
        {"scores": None},
        {"session": "../up"},
        {"session": ["own"]},
        {"model": 5},
        {"seed": "0"},
        {"epochs": 4},
        {"best_epoch": 99},
        {"best_epoch": None},
        {"loss": {"test": np.nan}},
        {"target_variance": {"test": "wide"}},
        {"data": []},
        {"seconds": {}},
        {"protocol": {}},
    ],
)
def test_a_report_that_cannot_be(folder, changes):
    rewrite(folder, **changes)
    assert "metrics.json is damaged" in reason(folder)


def test_a_reason_that_is_no_text_and_very_long(folder):
    failed = folder.with_name("seed1")
    failed.mkdir()
    with (failed / "failed.txt").open("wb") as file:
        file.write(b"\xff\xfe no memory\n")
        file.truncate(1 << 40)
    _, others = read_runs(folder.parents[3])
    assert others.failed == [(failed, "\ufffd\ufffd no memory")]


@pytest.mark.parametrize("name", ["config.yaml", "history.csv", "metrics.json", "predictions.npz"])
def test_a_file_that_changed_since_the_run_finished(folder, name):
    rewrite(folder, checksums=SUMS)
    arrays = {"true": np.zeros((100, 2)), "decoded": np.zeros((100, 2)), "bin_width": 0.1}
    np.savez(folder / "predictions.npz", **arrays)
    write_checksums(folder)
    assert len(read_runs(folder.parents[3])[0]) == 2
    content = bytearray((folder / name).read_bytes())
    before = bytes(content)
    content[-3] ^= 1
    (folder / name).write_bytes(content)
    assert f"{name} is not as it was when the run finished" in reason(folder)
    (folder / name).write_bytes(before)
    (folder / SUMS).unlink()
    assert f"{SUMS} is missing" in reason(folder)
    (folder / SUMS).write_bytes(b"\xff\xfe")
    assert f"{SUMS} does not list" in reason(folder)
    write_checksums(folder)
    (folder / "predictions.npz").unlink()
    assert "predictions.npz is damaged (it is missing)" in reason(folder)


def test_arrays_that_would_fill_the_memory(tmp_path, monkeypatch):
    """A header that claims more than there is, and megabytes of zeros in a few kilobytes."""
    path = tmp_path / "predictions.npz"
    arrays = {"true": np.zeros((9, 2)), "decoded": np.zeros((9, 2)), "bin_width": 0.1}
    np.savez(path, **arrays)
    names = tuple(arrays)
    assert set(read_predictions(path, names)) == set(arrays)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"(9, 2)", b"(9" + b"9" * 3 + b"2)"))
    with pytest.raises(BciDecodeError, match=r"predictions.npz: is damaged"):
        read_predictions(path, names)
    np.savez_compressed(path, **arrays | {"true": np.zeros((1 << 20, 2))})
    assert path.stat().st_size < 1 << 16
    monkeypatch.setattr(reading, "MAX_ARRAYS", 1 << 20)
    with pytest.raises(BciDecodeError, match="it is too large"):
        read_predictions(path, names)


def test_predictions_of_an_earlier_version_that_cannot_be_read_are_none(folder):
    (folder / "predictions.npz").write_bytes(b"PK\x03\x04 no archive")
    runs, others = read_runs(folder.parents[3])
    assert len(runs) == 2 and not others.damaged
    assert [run_draws(run) for run in runs] == [None, None]
