"""Own files on the command line: patterns, any characters in names, session=local implied."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import train_here
from composing import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from recordings import recording, write_mat73

from bci_decode.errors import BciDecodeError
from bci_decode.runs.own_files import own_files, quoted

NAMES = ["a b.mat", "a,b.mat", "it's.mat", "a=b.mat", "é.mat", "[x].mat", "(p).mat", "{c}.mat",
         "#h;.mat", "glob(x).mat", "${x}.mat", "$x.mat", "-m.mat"]  # fmt: skip
if os.name == "posix":
    NAMES += [
        'q"q.mat',
        "back\\slash.mat",
        'both\\"x.mat',
        "\\${y}.mat",
        "*.mat",
        " .mat",
        "two\nlines.mat",
    ]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def swept_paths(words: list[str]) -> list[str]:
    """The paths of the runs of a sweep with these words, as Hydra parses them twice."""
    parser = OverridesParser.create()
    jobs = BasicSweeper.split_arguments(parser.parse_overrides(words), None)[0]
    parsed = (parser.parse_overrides(list(job))[-1].value() for job in jobs)
    return [OmegaConf.create({"path": path}).path for path in parsed]


def test_every_name_that_a_pattern_finds_reaches_the_run(folder):
    for name in NAMES:
        (folder / name).touch()
    (folder / "folder.mat").mkdir()
    words = own_files(["session.path=glob(*.mat)"], sweep=True)
    assert words[0] == "session=local"
    assert swept_paths(words) == sorted(NAMES)


def test_a_path_is_read_as_it_is_quoted_or_not():
    for name in ("C:\\My Data\\x.mat", "a\\\\b c.mat", 'q"q c.mat', "end \\"):
        assert swept_paths([f"session.path={quoted(name)}"]) == [name]
    for name in ("C:\\My Data\\x.mat", 'q"q \\'):
        assert compose(f"session.path={name}").session.path == name


def test_patterns_are_sorted_and_name_each_file_once(folder, monkeypatch):
    for name in ("b.mat", "a.mat", "c.npz", "deep/er/d.mat"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    for value, expected in {
        "glob(*.mat)": ["a.mat", "b.mat"],
        "glob(*.npz),glob(*.mat)": ["c.npz", "a.mat", "b.mat"],
        "glob(b*),glob(*.mat)": ["b.mat", "a.mat"],
        f"a.mat,glob({folder}/*.mat)": ["a.mat", str(folder / "b.mat")],
        "glob(~/a.*)": [str(folder / "a.mat")],
        "glob(**/d.mat)": [os.path.join("deep", "er", "d.mat")],
    }.items():
        assert swept_paths(own_files([f"session.path={value}"], sweep=True)) == expected, value


def test_a_session_that_is_chosen_stays(folder):
    (folder / "a.mat").touch()
    words = ["session=simulated", "seed=1", "session.path=glob(*)"]
    assert own_files(words, False) == ["session=simulated", "seed=1", 'session.path="a.mat"']
    others = ["model=gru", "session=glob(*)", "output_dir=glob(x)"]
    assert own_files(others, True) == others
    assert own_files(["session.path=a.mat"], False) == ["session=local", "session.path=a.mat"]


def test_what_matches_nothing_or_too_much_is_one_line(folder):
    word = "session.path=glob(*.mat)"
    for sweep in (True, False):
        with pytest.raises(BciDecodeError, match=r"session.path=glob\(\*.mat\): no file matches; "):
            own_files([word], sweep)
    for name in "ab":
        (folder / f"{name}.mat").touch()
    with pytest.raises(BciDecodeError, match="matches 2 files; add -m to train on each"):
        own_files([word], sweep=False)


def test_a_sweep_of_own_files(tmp_path):
    """Then one of them alone, without -m; and files that would share a run's folder."""
    toy = recording(channels=4, samples=16000)
    for name in ("own/one, two.mat", "own/three.mat", "other/three.mat"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_mat73(tmp_path / name, toy)
    words = ("model=wiener", "model.history=2", "figures=none")
    done = train_here(tmp_path, "-m", "session.path=glob(own/*.mat)", *words)
    assert done.returncode == 0 and "sweep: 2 done" in done.stdout, done.stdout + done.stderr
    runs = tmp_path / "outputs" / "default"
    assert sorted(path.name for path in runs.iterdir()) == ["one, two", "three"]
    assert train_here(tmp_path, "session.path=glob(own/o*)", *words).returncode == 0
    done = train_here(tmp_path, "-m", "session.path=glob(**/three.mat)", *words)
    assert done.returncode == 2 and "share this folder" in done.stderr
    done = train_here(tmp_path, "-m", "session.path=glob(*.mat)")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "session.path=glob(*.mat): no file matches" in done.stderr
