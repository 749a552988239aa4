"""A packed run: one file, the same decoder to the last bit, and nothing of the machine in it."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from composing import compose
from safetensors.torch import load, save
from sizes import cases

import bci_decode as bd
from bci_decode import pack as command
from bci_decode.cli import run_command
from bci_decode.errors import BciDecodeError
from bci_decode.runs.checksums import write_checksums
from bci_decode.runs.packed import (
    MAX_HEADER,
    Packed,
    _put,
    read_packed,
    without_paths,
    write_packed,
)
from bci_decode.runs.run import run

SMALL = ["session.minutes=1", "session.channels=6", "trainer.epochs=1", "figures=none"]
WIDTH = "model.recurrent.hidden_size=8"
MODELS = {
    "lngru": ["model=lngru", WIDTH],
    "ensemble": ["model=gru", WIDTH, "ensemble=2"],
    "wiener": ["model=wiener"],
    "kalman": ["model=kalman"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("packed")
    words = [*SMALL, f"data_dir={home / 'data'}", f"output_dir={home / 'outputs'}"]
    return {name: run(compose(*words, *more), progress=False) for name, more in MODELS.items()}


@pytest.fixture(scope="module")
def session(runs) -> Path:
    return Path(bd.load_run(runs["wiener"]).metrics["data"]["file"])


@pytest.fixture
def packed(runs, tmp_path) -> Path:
    return command.pack(bd.load_run(runs["lngru"]), tmp_path / "shared" / "mine.safetensors")


def command_says(capsys, *words: object) -> str:
    run_command(str(words[0]), [str(word) for word in words[1:]])
    return capsys.readouterr().out


def refused(path: Path) -> str:
    with pytest.raises(BciDecodeError) as failure:
        bd.load_run(path)
    line = str(failure.value)
    assert "\n" not in line and len(line) < 600
    return line


@pytest.mark.parametrize("name", MODELS)
def test_a_packed_run_decodes_as_its_folder_does(runs, session, name):
    folder = bd.load_run(runs[name])
    file = bd.load_run(command.pack(folder))
    assert file.source.parent == runs[name] and file.source.suffix == ".safetensors"
    pd.testing.assert_frame_equal(file.decode(session), folder.decode(session), check_exact=True)
    assert file.state.keys() == folder.state.keys() and file.history.equals(folder.history)
    for key, weights in folder.state["decoder"].items():
        assert torch.equal(file.state["decoder"][key], weights)
        assert file.state["decoder"][key].dtype == weights.dtype
        assert file.state["decoder"][key].stride() == weights.stride()
    report = dict(folder.metrics)
    assert file.metrics == report | {"data": report["data"] | {"file": session.name}}


def test_nothing_of_the_machine_is_in_the_file(runs, session, tmp_path):
    """Nor is the parent's place of a recalibrated run, in its checkpoint and its report."""
    fitted = tmp_path / "fitted"
    words = ["--seconds", "15", "--steps", "0", "--output", fitted]
    run_command("recalibrate", [str(word) for word in (runs["ensemble"], session, *words)])
    parent = bd.load_run(fitted).state["parent"]
    assert Path(parent["folder"]).is_absolute() and Path(parent["session_file"]).is_absolute()
    for folder in (runs["lngru"], fitted):
        content = command.pack(bd.load_run(folder), tmp_path / f"{folder.name}.safetensors")
        for part in (*runs["lngru"].parts[1:3], tmp_path.parts[-1], Path.home().name + "/"):
            assert part.encode() not in content.read_bytes(), part
    assert bd.load_run(content).state["parent"]["session_file"] == session.name


def test_paths_are_shortened_and_other_texts_are_not():
    tree = {"a": ["/home/ann/x.mat", r"C:\Users\ann\x.mat", "~/x.mat", "../ann/x.mat"],
            "units": [["/odd channel", "M1", 0]], "unit": "mm/s", "n": 1}  # fmt: skip
    assert without_paths(tree) == tree | {"a": ["x.mat"] * 4}


def test_the_commands_take_a_packed_run(packed, session, capsys):
    said = command_says(capsys, "evaluate", packed, "--session", session)
    beside = packed.with_suffix("")
    assert str(beside / "evaluations") in said
    report = json.loads(next(beside.glob("evaluations/*/evaluation.json")).read_text())
    assert report["run"] == str(packed)
    command_says(capsys, "stream", packed, "--replay", session, "--speed", "max")
    assert len(list(beside.glob("streams/*/stream.json"))) == 1
    command_says(capsys, "recalibrate", packed, session, "--seconds", "15", "--steps", "0")
    (fitted,) = beside.glob("recalibrated/*/metrics.json")
    assert json.loads(fitted.read_text())["parent"]["folder"] == str(packed.resolve())


def test_another_run_starts_from_a_packed_one(packed, runs, tmp_path):
    words = [*SMALL, *MODELS["lngru"], "optimizer.lr=1e-12"]
    data = Path(bd.load_run(runs["lngru"]).metrics["data"]["file"]).parent
    words += [f"data_dir={data}"]
    folder = run(compose(*words, f"init_from={packed}", f"output_dir={tmp_path}"), progress=False)
    mine, theirs = (bd.load_run(path).state["decoder"] for path in (folder, packed))
    assert all(torch.allclose(mine[key], theirs[key], atol=1e-6) for key in theirs)


# the card


def test_the_card_tells_data_protocol_and_scores(packed, capsys):
    card = command_says(capsys, "pack", packed, "--card")
    report = bd.load_run(packed).metrics
    for text in ("Simulated: no animal", "license MIT", "Bins of 64 ms", "medical device",
                 f"| mean | {report['scores']['test']['r2']:.3f} |", report["selection_rule"],
                 f"{report['chance']['test']['r2_x']['mean']:.3f}", "load_run("):  # fmt: skip
        assert text in card, text


@pytest.mark.parametrize(
    ("kind", "stated", "expected"),
    [
        ("recorded", None, "license CC BY 4.0.\n- Citation: O'Doherty"),
        ("excerpt", None, "An excerpt of a published recording"),
        ("own file", None, "License of the data: not stated"),
        ("own file", "CC0, lab of A", "License of the data: CC0, lab of A"),
    ],
)
def test_the_card_names_the_license_of_the_data(runs, tmp_path, kind, stated, expected):
    folder = tmp_path / "run"
    shutil.copytree(runs["wiener"], folder)
    report = json.loads((folder / "metrics.json").read_text()) | {"recording": kind}
    (folder / "metrics.json").write_text(json.dumps(report))
    write_checksums(folder)
    assert expected in command.packed_run(bd.load_run(folder), stated).card


def test_what_has_no_effect_is_refused(runs, packed, tmp_path):
    loaded = bd.load_run(runs["wiener"])
    with pytest.raises(BciDecodeError, match="--license: is for a recording of your own"):
        command.pack(loaded, tmp_path / "a.safetensors", "CC0")
    with pytest.raises(BciDecodeError, match="must end in .safetensors"):
        command.pack(loaded, tmp_path / "a.bin")
    with pytest.raises(BciDecodeError, match="mine.safetensors: is packed already"):
        command.pack(bd.load_run(packed), tmp_path / "a.safetensors")
    with pytest.raises(BciDecodeError, match="--overwrite: has no effect with --card"):
        run_command("pack", [str(packed), "--card", "--overwrite"])
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]


def test_another_file_is_not_overwritten(runs, packed):
    before, loaded = packed.read_bytes(), bd.load_run(runs["wiener"])
    with pytest.raises(BciDecodeError, match=r"mine.safetensors: is there already; .*--overwrite"):
        command.pack(loaded, packed)
    assert packed.read_bytes() == before
    command.pack(loaded, packed, overwrite=True)
    assert list(packed.parent.iterdir()) == [packed] and "wiener" in read_packed(packed).card


# files of others


def test_a_damaged_file_is_one_line(packed):
    """Every changed, removed and added byte shows, wherever it is."""
    content, draw = packed.read_bytes(), random.Random(0)
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(cases(30, 400)):
        changed = bytearray(content)
        at = draw.randrange(draw.choice([8, header, len(content)]))
        kind = draw.choice(["byte", "cut", "lost", "added"])
        if kind == "byte":
            changed[at] ^= draw.randrange(1, 256)
        elif kind == "cut":
            del changed[at:]
        elif kind == "lost":
            del changed[at : at + draw.randrange(1, 9)]
        else:
            changed[at:at] = draw.randbytes(draw.randrange(1, 9))
        packed.write_bytes(changed)
        assert "is damaged, or no packed run of this project" in refused(packed)


def test_a_changed_file_with_a_right_digest_is_loaded_or_one_line(packed):
    """As a stranger may write it: the digest is no seal against one who knows it."""
    content, draw = packed.read_bytes(), random.Random(1)
    header = 8 + int.from_bytes(content[:8], "little")
    digest, lines = read_digest(content), set()
    for _ in range(cases(30, 400)):
        changed = bytearray(content)
        for _ in range(draw.choice([1, 1, 5])):
            changed[draw.randrange(8, header)] = draw.choice(b'0123456789"{}[],:ae-. \x00\xff')
        plain = bytes(changed).replace(digest, b"0" * 64, 1)
        right = hashlib.sha256(plain).hexdigest().encode()
        packed.write_bytes(plain.replace(b"0" * 64, right, 1))
        try:
            bd.load_run(packed)
        except BciDecodeError as mistake:
            lines.add(str(mistake))
            assert "\n" not in str(mistake) and len(str(mistake)) < 600
    assert lines


def read_digest(content: bytes) -> bytes:
    found = re.search(b'"sha256":"([0-9a-f]{64})"', content)
    assert found is not None
    return found[1]


def test_foreign_files_are_one_line(packed, tmp_path):
    content = packed.read_bytes()
    others = {
        "empty": b"", "text": b"no tensors", "foreign": save({"weight": torch.zeros(2)}),
        "other metadata": save({"weight": torch.zeros(2)}, {"format": "pt"}),
        "best.pt": b"PK\x03\x04" + content, "large header": (MAX_HEADER + 1).to_bytes(8, "little"),
    }  # fmt: skip
    for name, other in others.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(other)
        assert "is damaged, or no packed run" in refused(path), name


def test_an_oversized_file_is_refused_unread(packed):
    with packed.open("r+b") as file:
        file.truncate(5 << 30)  # sparse
    assert "is damaged" in refused(packed)


def resealed(path: Path, change) -> None:
    """What a stranger writes with this project's own writer."""
    found = read_packed(path)
    state, report = found.state, found.report
    change(state, report)
    with pytest.raises(BciDecodeError):  # what is written is read, so it is not left there
        write_packed(path, Packed(state, report, found.history, found.card))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bci_decode.runs.packed.read_packed", lambda path: None)
        write_packed(path, Packed(state, report, found.history, found.card))


def broken_weights(state, report):
    next(iter(state["decoder"].values())).fill_(np.nan)


def broken_units(state, report):
    state["units"] = state["units"][1:]


def broken_split(state, report):
    state["session"]["split_bins"] = {"test": [5, 1]}


@pytest.mark.parametrize(
    ("change", "key"),
    [(broken_weights, "decoder"), (broken_units, "mean"), (broken_split, "session")],
)
def test_the_content_is_checked_as_that_of_a_checkpoint(packed, change, key):
    resealed(packed, change)
    assert f"{key}: is not as this project writes it" in refused(packed)


def test_other_code_is_not_called(packed):
    found = read_packed(packed)
    found.state["model"]["settings"]["_target_"] = "os.system"
    write_packed(packed, found)
    assert "names os.system as a part of its model" in refused(packed)


def test_a_tensor_takes_an_empty_place_alone(packed):
    found = read_packed(packed)
    assert set(load(packed.read_bytes())) == {
        *(f"decoder/{name}" for name in found.state["decoder"]),
        *(f"{key}/{name}" for key in ("mean", "std") for name in ("counts", "target")),
    }
    for name in ("names/model", "absent", "units/0", "units/x", "decoder/a~1b", "version/0"):
        tree = {"names": {"model": "gru"}, "units": [["M1 001", "M1", 0]], "version": "1"}
        with pytest.raises((ValueError, LookupError, TypeError)):
            _put(tree, name, torch.zeros(1))


def test_content_of_any_shape_comes_back(packed):
    """Lists of dictionaries with tensors in them, say, and names with slashes."""
    found = read_packed(packed)
    more = {"a/b": {"~c": torch.arange(3)}, "rows": [{"x": torch.ones(2, 2)}, {"x": None}],
            "turned": torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
            "scalar": torch.tensor(2.5, dtype=torch.float64),
            "none": torch.zeros(0, 4)}  # fmt: skip
    write_packed(packed, Packed(found.state | {"more": more}, found.report, found.history, "card"))
    again = read_packed(packed).state["more"]
    assert torch.equal(again["a/b"]["~c"], torch.arange(3)) and again["rows"][1] == {"x": None}
    assert torch.equal(again["rows"][0]["x"], torch.ones(2, 2)) and again["scalar"] == 2.5
    assert torch.equal(again["turned"], more["turned"])
    assert again["turned"].stride() == more["turned"].stride()
    assert again["none"].shape == (0, 4) and list(again) == list(more)
