"""Damaged, foreign, older and tampered files of a run: the right result, or one clear line.

One small run is trained, finished and interrupted. Each case copies it, damages one file, and then
loads, evaluates, compares, repeats or resumes it. What comes out equals the undamaged run to the
bit, or is a `BciDecodeError` of one line that names the file. With TESTED_GUARANTEES=all there are
ten times as many cases.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from composing import compose
from recordings import REAL
from sizes import FULL, cases

from bci_decode.comparison.finished_runs import read_runs
from bci_decode.errors import BciDecodeError
from bci_decode.evaluate import evaluate
from bci_decode.runs.checksums import SUMS
from bci_decode.runs.load import load_run
from bci_decode.runs.run import run
from bci_decode.training.checkpoint import save_checkpoint
from bci_decode.training.trainer import Trainer

SMALL = [
    "model=lngru",
    "trainer.epochs=4",
    "trainer.patience=null",
    "optimizer.lr=0.02",
    "model.recurrent.hidden_size=6",
    "model.recurrent.num_layers=1",
    "figures=none",
]
SIMULATED = ["session.minutes=1"]
EXCERPT = ["session=local", f"session.path={REAL}", "data.split.first_bins=900"]
FINISHED = ("config.yaml", "history.csv", "metrics.json", "predictions.npz", "best.pt", "last.pt")
INTERRUPTED = ("config.yaml", "history.csv", "best.pt", "last.pt")


@dataclass(frozen=True)
class Runs:
    """A finished run, and the same one interrupted; `strange` of another seed, `older` by an epoch.

    `result` is what the finished one gives, `longer` what two more epochs make of it.
    """

    home: Path
    words: list[str]
    recording: Path
    result: dict[str, Any]
    longer: dict[str, Any]

    def config(self, *words: str) -> Any:
        return compose(*self.words, *words)


@pytest.fixture(scope="module", params=[SIMULATED, *[EXCERPT] * (FULL and REAL.exists())])
def runs(request, tmp_path_factory) -> Runs:
    home, session = tmp_path_factory.mktemp("runs"), request.param
    words = [*SMALL, *session, f"data_dir={home / 'data'}"]
    finished, longer = home / "finished" / "seed0", home / "longer" / "seed0"
    run(compose(*words), finished, progress=False)
    run(compose(*words, "trainer.epochs=6"), longer, progress=False)
    run(compose(*words, "seed=1"), home / "strange" / "seed0", progress=False)
    for name, epoch, more in (
        ("interrupted", 3, []),
        ("strange", 3, ["seed=1", "overwrite=true"]),
        ("older", 2, []),
    ):
        interrupt(compose(*words, *more), home / name / "seed0", epoch)
    recording = Path(json.loads((finished / "metrics.json").read_text())["data"]["file"])
    known = result(finished, recording), result(longer, recording)
    return Runs(home, words, recording, *known)


def interrupt(config: Any, folder: Path, epoch: int) -> None:
    """Stop a run, as Ctrl-C does, while it trains this epoch."""
    train_epoch = Trainer._train_epoch

    def stopped(self):
        if len(self.history) == epoch:
            raise KeyboardInterrupt
        return train_epoch(self)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_train_epoch", stopped)
        run(config, folder, progress=False)


def result(folder: Path, recording: Path) -> dict[str, Any]:
    """What a run found, without its seconds: scores, history, and decoded output of two kinds."""
    report = json.loads((folder / "metrics.json").read_text())
    with np.load(folder / "predictions.npz") as arrays:
        saved = arrays["decoded"]
    history = pd.read_csv(folder / "history.csv").drop(columns="seconds")
    names = ("scores", "loss", "best_epoch", "epochs", "target_variance", "protocol", "intervals")
    return {name: report[name] for name in names} | {
        "history": history.to_csv(),
        "saved": saved.tobytes(),
        "decoded": decoded(folder, recording),
        "row": row(folder),
    }


def decoded(folder: Path, recording: Path) -> bytes:
    """What the run decodes of its own recording's test part."""
    return load_run(folder).predictions(recording)["decoded"].tobytes()


def row(folder: Path) -> str:
    """The row of the run in a comparison; a BciDecodeError if it is none of the finished runs."""
    found, others = read_runs(folder.parent)
    assert len(found) == 1 and not others.lines()
    return json.dumps({k: v for k, v in found[0].row().items() if k != "seconds"}, default=str)


def flip(path: Path, rng: np.random.Generator, _: Path) -> None:
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def cut(path: Path, rng: np.random.Generator, _: Path) -> None:
    os.truncate(path, int(rng.integers(1, path.stat().st_size)))


def empty(path: Path, rng: np.random.Generator, _: Path) -> None:
    path.write_bytes(b"")


def delete(path: Path, rng: np.random.Generator, _: Path) -> None:
    path.unlink()


def take(other: str) -> Callable:
    def taken(path: Path, rng: np.random.Generator, home: Path) -> None:
        source = home / other / path.parent.name / path.name
        if source.exists():
            shutil.copy(source, path)

    taken.__name__ = other
    return taken


def not_a_number(path: Path, rng: np.random.Generator, _: Path) -> None:
    """One value becomes NaN; a checkpoint is written as this project writes it."""
    if path.suffix == ".pt":
        state = torch.load(path, weights_only=True)
        best = state["best"]["decoder"] if "best" in state and rng.integers(2) else state["decoder"]
        values = best[list(best)[rng.integers(len(best))]]
        values.view(-1)[rng.integers(values.numel())] = torch.nan
        save_checkpoint(path, state)
    elif path.suffix == ".npz":
        with np.load(path) as arrays:
            changed = dict(arrays)
        changed["decoded"][0] = np.nan
        np.savez(path, **changed)
    else:
        digits = [i for i, char in enumerate(path.read_text()) if char in "123456789"]
        text = path.read_text()
        place = digits[rng.integers(len(digits))]
        path.write_text(text[:place] + "NaN" + text[place + 1 :])


WRONG: tuple[Any, ...] = (None, -1, "text", 1e300, [], {}, [[]], {"a": [1]}, True, torch.ones(3))


def wrong_type(path: Path, rng: np.random.Generator, _: Path) -> None:
    """One value, at any depth, becomes another of another type."""
    value = WRONG[rng.integers(len(WRONG) - (path.suffix != ".pt"))]
    if path.suffix == ".pt":
        state = torch.load(path, weights_only=True)
        replace_somewhere(state, value, rng)
        save_checkpoint(path, state)
    elif path.suffix == ".json":
        report = json.loads(path.read_text())
        replace_somewhere(report, value, rng)
        path.write_text(json.dumps(report))
    elif path.suffix == ".npz":
        with np.load(path) as arrays:
            changed = dict(arrays)
        changed[list(changed)[rng.integers(len(changed))]] = np.array("text")
        np.savez(path, **changed)
    else:
        path.write_bytes((b"\xff\xfe", b"- a\n- b\n", b"[" * 9999, b"a: *b\n")[rng.integers(4)])


def replace_somewhere(tree: Any, value: Any, rng: np.random.Generator) -> None:
    while True:
        key = list(tree)[rng.integers(len(tree))] if isinstance(tree, dict) else 0
        below = tree[key]
        if not isinstance(below, (dict, list)) or not below or rng.integers(3) == 0:
            tree[key] = value
            return
        tree = below


KINDS: tuple[Callable, ...] = (
    flip, flip, flip, cut, empty, delete, take("strange"), take("older"), not_a_number,
    wrong_type, wrong_type, flip,
)  # fmt: skip


def all_cases() -> list[tuple[str, str, int]]:
    """Folder, file and number of the damage, 200 of them; in the quick form, spread over all."""
    found = [
        (folder, name, number)
        for number in range(2 * len(KINDS))
        for folder, names in (("finished", (*FINISHED, SUMS)), ("interrupted", INTERRUPTED))
        for name in names
        if number < len(KINDS) or name.endswith((".pt", ".json", ".csv", SUMS))
    ]
    order = np.random.default_rng(0).permutation(len(found))
    return [found[place] for place in order[: cases(16, len(found))]]


@pytest.mark.parametrize(("state", "name", "number"), all_cases())
def test_a_damaged_file_changes_no_result(runs, tmp_path, state, name, number, tried):
    tried(1, f"damaged files of {state} runs")
    shutil.copytree(runs.home / state, tmp_path / state)
    folder = tmp_path / state / "seed0"
    place = folder if state == "finished" else folder.with_name("seed0.running")
    rng = np.random.default_rng([number, *name.encode()])
    KINDS[number % len(KINDS)](place / name, rng, runs.home)
    if state == "finished":
        gives(lambda: decoded(folder, runs.recording), runs.result["decoded"])
        gives(lambda: row(folder), runs.result["row"])
        if FULL:
            gives(
                lambda: evaluation(folder, runs.recording, tmp_path), runs.result["scores"]["test"]
            )
            copy = shutil.copytree(tmp_path / state, tmp_path / "longer") / "seed0"
            gives(lambda: rerun(runs, copy, "trainer.epochs=6"), runs.longer)
    gives(lambda: rerun(runs, folder), runs.result)


@pytest.mark.parametrize("value", ["many", "null", "[4]", "true", "-1.5"])
def test_settings_of_an_interrupted_run_that_were_edited_are_one_line(runs, tmp_path, value):
    folder = shutil.copytree(runs.home / "interrupted", tmp_path / "interrupted") / "seed0"
    path = folder.with_name("seed0.running") / "config.yaml"
    path.write_text(path.read_text().replace("  epochs: 4\n", f"  epochs: {value}\n"))
    with pytest.raises(BciDecodeError, match="other settings .trainer.epochs=.*, here 4"):
        rerun(runs, folder)


def test_a_finished_run_is_reported_where_no_lock_can_be_made(runs, tmp_path):
    """As on a read-only file system; more epochs are refused and change nothing."""
    folder = shutil.copytree(runs.home / "finished", tmp_path / "finished") / "seed0"
    lock = folder.with_name(".seed0.lock")
    lock.unlink(missing_ok=True)
    lock.mkdir()
    assert rerun(runs, folder) == runs.result
    with pytest.raises(BciDecodeError, match=r"seed0: cannot be written \(.*choose another output"):
        rerun(runs, folder, "trainer.epochs=6")
    assert result(folder, runs.recording) == runs.result
    assert {path.name for path in folder.parent.iterdir()} == {"seed0", ".seed0.lock"}


def test_the_checksums_are_those_of_sha256sum(runs):
    """Of every file that holds results, in the form that the tool reads."""
    folder = runs.home / "finished" / "seed0"
    lines = (folder / SUMS).read_text().splitlines()
    assert {line.partition("  ")[2] for line in lines} == set(FINISHED)
    for line in lines:
        digest, _, name = line.partition("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def gives(call: Callable[[], Any], expected: Any) -> None:
    """The expected result, or one line."""
    try:
        found = call()
    except BciDecodeError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return
    assert found == expected


def rerun(runs: Runs, folder: Path, *words: str) -> dict[str, Any]:
    run(runs.config(*words), folder, progress=False)
    return result(folder, runs.recording)


def evaluation(folder: Path, recording: Path, output: Path) -> dict[str, Any]:
    options = {"start": None, "stop": None, "seconds": 5.0, "figures": "png", "data_dir": "data"}
    arguments = argparse.Namespace(session=str(recording), output=output / "evaluation", **options)
    return evaluate(load_run(folder), arguments)[1]["scores"]
