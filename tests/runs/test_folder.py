"""A run's folder:

its name, whose run it holds, and that a kill at any moment loses no whole run.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from composing import compose

from bci_decode.errors import BciDecodeError
from bci_decode.runs.folder import (
    RESULTS,
    changed_settings,
    check_same_data,
    failure,
    is_complete,
    lock_file,
    model_folder,
    record_failure,
    run_folder,
    run_name,
    swept_folder,
    working_folder,
)
from bci_decode.runs.ownership import RunBusy, claim, finish, locked, start

TRAINED = {"model": {"recurrent": {"hidden_size": 8}}}


class Killed(BaseException):
    """As SIGKILL: nothing of ours runs after it."""


def write_run(folder: Path, owner: str, epochs: int = 1, **settings) -> None:
    """A finished run whose files say whose they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*RESULTS, "last.pt", "loss.png", "train.log"):
        (folder / name).write_text(owner)
    metrics = {"owner": owner, "epochs": epochs, "data": {"file": "a.mat", "md5": "0"}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    rows = "".join(f"{epoch},1.0\n" for epoch in range(epochs + 1))
    (folder / "history.csv").write_text("epoch,loss\n" + rows)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))


def owners(folder: Path) -> set[str]:
    return {(folder / name).read_text() for name in ("best.pt", "last.pt", "loss.png", "train.log")}


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

    changes = (
        (Path, ("replace", "rename", "unlink", "rmdir", "mkdir")),
        (os, ("replace", "unlink", "rmdir")),
    )
    for owner, names in changes:
        for name in names:
            monkeypatch.setattr(owner, name, counted(getattr(owner, name)))


def overwrite(folder: Path, fails: bool = False) -> None:
    with locked(folder):
        working = claim(folder, {"k": 2}, overwrite=True)
        start(folder, {"k": 2}, overwrite=True)
        (working / "last.pt").write_text("new")
        if fails:
            raise BciDecodeError("diverged")
        write_run(working, "new", k=2)
        finish(folder)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("number", range(1, 40))
def test_killed_anywhere_a_whole_run_is_there(tmp_path, monkeypatch, number, fails):
    folder = tmp_path / "seed0"
    write_run(folder, "old", k=1)
    with monkeypatch.context() as patch:
        kill_at(patch, number)
        with contextlib.suppress(Killed, BciDecodeError):
            overwrite(folder, fails)
    with locked(folder):  # the next start
        pass
    assert is_complete(folder) and len(owners(folder)) == 1
    overwrite(folder)
    assert owners(folder) == {"new"}
    assert {path.name for path in tmp_path.iterdir()} == {"seed0", ".seed0.lock"}


def test_an_overwriting_run_that_fails_touches_nothing(tmp_path):
    folder = tmp_path / "seed0"
    write_run(folder, "old", k=1)
    with pytest.raises(BciDecodeError, match="diverged"):
        overwrite(folder, fails=True)
    assert owners(folder) == {"old"} and (working_folder(folder) / "last.pt").read_text() == "new"


def test_files_of_the_user_survive_an_overwrite(tmp_path):
    folder = tmp_path / "seed0"
    write_run(folder, "old", k=1)
    (folder / "notes.txt").write_text("mine")
    overwrite(folder)
    assert (folder / "notes.txt").read_text() == "mine" and owners(folder) == {"new"}


@pytest.mark.parametrize("name", ["last.pt", "loss.png", "train.log"])
def test_a_finished_run_without_a_file_that_it_does_not_need_is_finished(tmp_path, name):
    """A user may delete last.pt to save disk: the run is not trained again."""
    folder = tmp_path / "seed0"
    write_run(folder, "old", k=1)
    (folder / name).unlink()
    with locked(folder):
        assert claim(folder, {"k": 1}, overwrite=False) is None
    assert (folder / "best.pt").read_text() == "old" and not working_folder(folder).exists()


def test_a_run_without_results_and_last_pt_is_not_started_again_in_place(tmp_path):
    folder = tmp_path / "seed0"
    write_run(folder, "old", k=1)
    (folder / "last.pt").unlink()
    (folder / "predictions.npz").unlink()
    with (
        pytest.raises(BciDecodeError, match=r"without predictions.npz, and no last.pt to mend it"),
        locked(folder),
    ):
        claim(folder, {"k": 1}, overwrite=False)
    assert (folder / "best.pt").read_text() == "old"


def test_a_file_in_the_place_of_the_folder_is_refused_and_stays(tmp_path):
    file = tmp_path / "seed0"
    file.write_text("of the user")
    with (
        pytest.raises(BciDecodeError, match=r"seed0: is a file; choose another output_dir="),
        locked(file),
    ):
        pass
    assert list(tmp_path.iterdir()) == [file] and file.read_text() == "of the user"


def test_other_settings_are_refused_with_both_values(tmp_path):
    folder = tmp_path / "seed0"
    write_run(folder, "old", names={"model": "gru"}, data={"units": "all"}, logger="none")
    settings = {"names": {"model": "gru"}, "data": {"units": "sorted"}, "logger": "wandb"}
    assert changed_settings(folder, settings) == {"data.units": ("all", "sorted")}
    with (
        pytest.raises(
            BciDecodeError, match=r"other settings \(data.units=all, here sorted\); overwrite"
        ),
        locked(folder),
    ):
        claim(folder, settings, overwrite=False)


def test_a_run_of_an_earlier_version_is_named_as_such(tmp_path):
    folder = tmp_path / "seed0"
    write_run(folder, "old", **TRAINED, trainer={"gemm": "auto"})
    with pytest.raises(BciDecodeError, match="holds a run of an earlier version"), locked(folder):
        claim(
            folder,
            TRAINED | {"names": {"model": "gru"}, "trainer": {"epochs": 2}},
            overwrite=False,
        )


def test_more_epochs_continue_a_copy_and_fewer_are_other_settings(tmp_path):
    folder = tmp_path / "seed0"
    write_run(folder, "old", **TRAINED, trainer={"epochs": 2})
    with locked(folder):
        working = claim(folder, TRAINED | {"trainer": {"epochs": 3}}, overwrite=False)
        assert not working.exists()  # a setting may still be refused
        start(folder, TRAINED | {"trainer": {"epochs": 3}}, overwrite=False)
        assert (working / "last.pt").read_text() == "old" and is_complete(folder)
        shutil.rmtree(working)
        with pytest.raises(BciDecodeError, match=r"trainer.epochs=2, here 1"):
            claim(folder, TRAINED | {"trainer": {"epochs": 1}}, overwrite=False)
        (folder / "last.pt").unlink()
        with pytest.raises(BciDecodeError, match=r"has no last.pt, so that it cannot be continued"):
            claim(folder, TRAINED | {"trainer": {"epochs": 3}}, overwrite=False)


def test_a_second_process_is_kept_out(tmp_path):
    with (
        locked(tmp_path / "seed0"),
        pytest.raises(BciDecodeError, match="another process is at this run"),
    ):
        locked(tmp_path / "seed0").__enter__()
    with locked(tmp_path / "seed0"):
        pass


def test_the_same_path_with_other_content_is_other_data(tmp_path):
    data, folder = tmp_path / "a.mat", tmp_path / "seed0"
    data.write_text("first")
    write_run(folder, "old", seed=0)
    metrics = json.loads((folder / "metrics.json").read_text())
    about = data.stat()
    md5 = "8b04d5e3775d298e78455efc5ca404d5"  # of "first"
    metrics["data"] = {"file": str(data), "bytes": 5, "modified_ns": about.st_mtime_ns, "md5": md5}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    check_same_data(folder, data)
    os.utime(data, ns=(0, 0))
    check_same_data(folder, data)  # touched, not changed
    data.write_text("other")
    with pytest.raises(BciDecodeError, match="holds a run on other data"):
        check_same_data(folder, data)
    data.unlink()
    check_same_data(folder, data)


def test_a_failure_is_noted_in_the_working_folder_and_goes_with_it(tmp_path):
    folder = tmp_path / "deep" / "model" / "seed0"
    record_failure(folder, "no spikes")
    assert failure(folder) == "no spikes" and not folder.exists()
    record_failure(folder, None)
    assert failure(folder) is None and not (tmp_path / "deep").exists()
    with locked(folder):
        pass
    assert not lock_file(folder).exists()


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        (["model=gru"], "outputs/default/simulated/gru/seed0"),
        (["data.target=position"], "outputs/default/simulated/lngru-position/seed0"),
        (
            ["bidirectional=true", "data.target=acceleration", "seed=2", "experiment=source_study"],
            "outputs/source_study/simulated/lngru-bidirectional-acceleration/seed2",
        ),
        (["session=local", "session.path=~/data/é.mat"], "outputs/default/é/lngru/seed0"),
        (["session.name=20160927", "output_dir=else"], "else/default/20160927/lngru/seed0"),
    ],
)
def test_the_folder_follows_from_the_settings(words, folder):
    assert run_folder(compose(*words)) == Path(folder)


@pytest.mark.parametrize("name", ['""', "a/b", "..", "../x", "."])
def test_names_that_lead_out_are_refused(name):
    with pytest.raises(BciDecodeError, match=r"session.name"):
        run_folder(compose(f"session.name={name}"))


def test_a_schedule_over_all_epochs_cannot_be_continued(tmp_path):
    folder = tmp_path / "seed0"
    settings = [TRAINED | {"trainer": {"epochs": n}, "scheduler": {"T_max": n}} for n in (2, 3)]
    write_run(folder, "old", **settings[0])
    refusal = "has a schedule that depends on trainer.epochs"
    with pytest.raises(BciDecodeError, match=refusal), locked(folder):
        claim(folder, settings[1], overwrite=False)


def test_training_keys_are_none_of_a_closed_form_model(tmp_path):
    folder = tmp_path / "seed0"
    write_run(folder, "old", model={"alpha": 1.0}, trainer={"epochs": 2})
    with locked(folder):
        more = {"model": {"alpha": 1.0}, "trainer": {"epochs": 90}}
        assert claim(folder, more, overwrite=False) is None


def test_a_start_that_fails_at_once_harms_no_finished_run(tmp_path):
    """A working folder without settings, or with failed.txt alone, is as good as none."""
    folder = tmp_path / "seed0"
    write_run(folder, "old", k=1)
    record_failure(folder, "no memory")
    with locked(folder):
        assert claim(folder, {"k": 1}, overwrite=False) is None
        assert owners(folder) == {"old"}


def test_a_refused_second_process_leaves_the_lock(tmp_path):
    folder = tmp_path / "deep" / "seed0"
    with locked(folder):
        for _ in range(2):
            with pytest.raises(RunBusy):
                locked(folder).__enter__()
        assert lock_file(folder).exists()


def test_what_belongs_to_an_overwritten_run_goes_with_it(tmp_path):
    folder = tmp_path / "seed0"
    write_run(folder, "old", k=1)
    for name in ("layers.png", "events.out.tfevents.1"):
        (folder / name).write_text("old")
    (folder / "evaluations").mkdir()
    overwrite(folder)
    names = {path.name for path in folder.iterdir()}
    assert "evaluations.old" in names and not names & {"layers.png", "events.out.tfevents.1"}


def test_swept_keys_are_a_level_above_the_seed(tmp_path):
    config = compose("model=gru", "names.swept='data.lag=0.1,optimizer.lr=0.01'")
    folder = run_folder(config)
    expected = "outputs/default/simulated/gru/data.lag=0.1,optimizer.lr=0.01/seed0"
    assert folder == Path(expected)
    for place in (folder, folder / "cut3"):
        assert model_folder(place) == Path("outputs/default/simulated/gru")
    assert run_name(folder / "cut3") == f"{expected}/cut3".removeprefix("outputs/")
    record_failure(tmp_path / folder, "no memory")
    record_failure(tmp_path / folder, None)
    assert [path.name for path in tmp_path.rglob("*")] == ["outputs"]


@pytest.mark.parametrize(
    ("swept", "name"),
    [
        ("", ""),
        ("optimizer.lr=1e-05", "optimizer.lr=1e-05"),
        ("data/split=chained", "data.split=chained"),
        ("model.layers=[1, 2]", r"model.layers=-1,-2--[0-9a-f]{8}"),
        ("init_from=../a:b", r"init_from=...a-b-[0-9a-f]{8}"),
        ("a=" + "x" * 300, r"a=x{118}-[0-9a-f]{8}"),
    ],
)
def test_names_of_swept_values_are_safe(swept, name):
    assert re.fullmatch(name, swept_folder(swept))


def test_values_that_look_alike_have_folders_of_their_own():
    alike = ["a=x y", "a=x-y", "a=x*y", "a=" + "x" * 300, "a=" + "x" * 301]
    assert len({swept_folder(one) for one in alike}) == len(alike)
