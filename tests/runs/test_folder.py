"""A run's folder under kills: whatever is cut short, no whole run is lost and no two are mixed."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest

from bci_decode.errors import BciDecodeError
from bci_decode.runs.folder import (
    RUN_FILES,
    begun,
    held,
    is_complete,
    is_finished,
    leave_nothing,
    run_folder,
)


class Killed(BaseException):
    """As SIGKILL: nothing of ours runs after it."""


def write_run(folder: Path, owner: str, names=RUN_FILES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(owner)
    if "metrics.json" in names:
        metrics = {"owner": owner, "epochs": 1, "data": {"file": "a.mat", "md5": "0"}}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        (folder / "history.csv").write_text(f"{owner}\n0\n1\n")


def owners(folder: Path) -> set[str]:
    """Whose files there are, of the files that every run writes."""
    names = [
        name
        for name in RUN_FILES
        if (folder / name).exists() and name not in ("metrics.json", "history.csv", "config.yaml")
    ]
    return {(folder / name).read_text() for name in names}


def kill_at(monkeypatch, number: int) -> None:
    """Be killed right before the number-th change of the file system."""
    count = 0

    def counted(original):
        def call(*arguments, **options):
            nonlocal count
            count += 1
            if count == number:
                raise Killed
            return original(*arguments, **options)

        return call

    for owner, names in ((Path, ("replace", "rename", "unlink", "rmdir", "mkdir")), (os, ("replace",))):
        for name in names:
            monkeypatch.setattr(owner, name, counted(getattr(owner, name)))


def overwrite(folder: Path, outcome: str) -> None:
    with held(folder), begun(folder, {"owner": "new"}, overwrite=True):
        write_run(folder, "new", [name for name in RUN_FILES if name not in ("config.yaml", "metrics.json")])
        if outcome == "fails":
            raise BciDecodeError("diverged")
        write_run(folder, "new", [name for name in RUN_FILES if name != "config.yaml"])


@pytest.mark.parametrize("outcome", ["finishes", "fails"])
@pytest.mark.parametrize("number", range(1, 60))
def test_killed_anywhere_a_whole_run_stands_somewhere(tmp_path, monkeypatch, outcome, number):
    folder = tmp_path / "seed0"
    write_run(folder, "old")
    with monkeypatch.context() as patch:
        kill_at(patch, number)
        with contextlib.suppress(Killed, BciDecodeError):
            overwrite(folder, outcome)
    with held(folder):  # the next start
        pass
    here, aside = is_complete(folder), is_complete(folder / ".before")
    assert here or aside
    assert len(owners(folder)) <= 1 and owners(folder / ".before") <= {"old"}
    if here:
        assert not (folder / ".before").exists()
    assert not list(folder.glob("*.part")) and not (folder / ".gone").exists()
    overwrite(folder, "finishes")  # and from here one can go on
    assert is_complete(folder) and owners(folder) == {"new"} and not (folder / ".before").exists()


def test_a_failed_overwrite_keeps_both(tmp_path):
    folder = tmp_path / "seed0"
    write_run(folder, "old")
    with pytest.raises(BciDecodeError, match="diverged"):
        overwrite(folder, "fails")
    assert is_complete(folder) and owners(folder) == {"old"} and owners(folder / ".failed") == {"new"}


def test_what_was_overwritten_comes_back_only_when_this_run_fails(tmp_path):
    """A later command that is refused, with or without overwrite, touches neither of two runs."""
    folder = tmp_path / "seed0"
    write_run(folder, "old")
    with pytest.raises(Killed), held(folder), begun(folder, {}, overwrite=True):
        write_run(folder, "new", ["last.pt", "history.csv"])
        raise Killed
    assert leave_nothing(folder) and is_complete(folder / ".before") and (folder / "last.pt").read_text() == "new"
    with pytest.raises(BciDecodeError, match="diverged"), held(folder), begun(folder, {}, overwrite=False):
        raise BciDecodeError("diverged")
    assert is_complete(folder / ".before") and (folder / "last.pt").read_text() == "new"


def test_the_same_path_with_other_content_is_other_data(tmp_path):
    data, folder = tmp_path / "a.mat", tmp_path / "seed0"
    data.write_text("first")
    write_run(folder, "old")
    (folder / "config.yaml").write_text("seed: 0\n")
    metrics = json.loads((folder / "metrics.json").read_text())
    about = data.stat()
    md5 = "8b04d5e3775d298e78455efc5ca404d5"  # of "first"
    metrics["data"] = {"file": str(data), "bytes": 5, "modified_ns": about.st_mtime_ns, "md5": md5}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert is_finished(folder, {"seed": 0}, data)
    os.utime(data, ns=(0, 0))
    assert is_finished(folder, {"seed": 0}, data)  # touched, not changed
    data.write_text("other")
    with pytest.raises(BciDecodeError, match="holds a run on other data"):
        is_finished(folder, {"seed": 0}, data)
    data.unlink()
    assert is_finished(folder, {"seed": 0}, data)


@pytest.mark.parametrize("name", ["", None, "a/b", "..", "../x", "."])
def test_names_that_lead_out_are_refused(name):
    with pytest.raises(BciDecodeError, match=r"session.name"):
        run_folder("outputs", "default", name, "gru", 0)
    assert run_folder("outputs", "default", "indy_1", "gru", 0) == "default/indy_1/gru/seed0"


@pytest.mark.parametrize(
    ("bidirectional", "target", "name"),
    [
        (False, "position", "lngru-position"),
        (True, "velocity", "lngru-bidirectional"),
        (True, "acceleration", "lngru-bidirectional-acceleration"),
    ],
)
def test_variants_have_folders_of_their_own(bidirectional, target, name):
    folder = run_folder("outputs", "source_study", "indy_1", "lngru", 2, bidirectional, target)
    assert folder == f"source_study/indy_1/{name}/seed2"


def test_a_target_that_leads_out_is_refused():
    with pytest.raises(BciDecodeError, match=r"data.target: is '../x'; choose position, velocity, acceleration"):
        run_folder("outputs", "default", "indy_1", "gru", 0, False, "../x")
