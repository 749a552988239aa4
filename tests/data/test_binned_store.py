"""Binned sessions on disk: the same numbers, made once, made again where they are damaged."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pandas as pd
import pytest
from nwb_files import perich

from bci_decode.config import DataConfig, SplitConfig, WindowConfig
from bci_decode.data.binned_store import stored_session
from bci_decode.data.binning import BinnedSession, bin_session
from bci_decode.data.dataset import preparation, prepare
from bci_decode.data.session import read_session
from bci_decode.errors import BciDecodeError

CONFIG = DataConfig(
    min_rate=6.0,
    split=SplitConfig(gap=0.0),
    window=WindowConfig(length=8, burn_in=2, stride=8, grids=3),
)


def same(found: BinnedSession, wanted: BinnedSession) -> None:
    for field in dataclasses.fields(BinnedSession):
        one, other = getattr(found, field.name), getattr(wanted, field.name)
        if isinstance(other, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        elif isinstance(other, pd.DataFrame):
            pd.testing.assert_frame_equal(one, other)
        elif field.name == "shifted":
            assert len(one) == len(other)
            for pair in zip(one, other, strict=True):
                same(*pair)
        else:
            assert one == other, field.name


def in_memory(path) -> BinnedSession:
    return bin_session(read_session(path, "toy"), **CONFIG.binning_kwargs(), grids=3)


def test_an_entry_is_the_binned_session(mat_file, tmp_path):
    stored = stored_session(mat_file, "toy", CONFIG, tmp_path / "binned")
    wanted = in_memory(mat_file)
    same(stored.binned, wanted)
    assert isinstance(stored.binned.counts.base, np.memmap)
    assert stored.binned.counts.dtype == np.uint8
    assert stored.seconds == read_session(mat_file).duration
    one, other = preparation(stored.binned, CONFIG).dataset(), prepare(wanted, CONFIG)
    for name, part in other.parts.items():
        np.testing.assert_array_equal(one.parts[name].counts, part.counts)
        np.testing.assert_array_equal(one.parts[name].target, part.target)
    assert len(one.units) < len(wanted.units) and len(one.shifted) == 2


def files(store) -> dict:
    return {path: path.stat().st_mtime_ns for path in sorted(store.glob("*/*"))}


def test_an_entry_is_made_once(mat_file, tmp_path):
    store = tmp_path / "binned"
    stored_session(mat_file, "toy", CONFIG, store)
    before = files(store)
    again = stored_session(mat_file, "another name", CONFIG, store)
    assert files(store) == before and again.binned.name == "another name"
    stored_session(mat_file, "toy", dataclasses.replace(CONFIG, lag=0.1), store)
    assert files(store).items() > before.items()
    number = len(files(store))
    os.utime(mat_file, ns=(1, 1))  # another state of the recording
    stored_session(mat_file, "toy", CONFIG, store)
    assert len(files(store)) > number


@pytest.mark.parametrize("damage", ["a bit", "cut", "missing", "about", "no text"])
def test_a_damaged_entry_is_made_again(mat_file, tmp_path, damage):
    store = tmp_path / "binned"
    stored_session(mat_file, "toy", CONFIG, store)
    entry = next(path for path in store.iterdir() if path.is_dir())
    file = entry / ("about.json" if damage in ("about", "no text") else "counts1.npy")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 64
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(
            {"cut": content[:-5], "about": b"{}", "no text": b"\xff"}.get(damage, bytes(content))
        )
    same(stored_session(mat_file, "toy", CONFIG, store).binned, in_memory(mat_file))
    same(stored_session(mat_file, "toy", CONFIG, store).binned, in_memory(mat_file))


def test_mistakes_are_one_line(mat_file, tmp_path):
    with pytest.raises(BciDecodeError, match="cannot be opened") as error:
        stored_session(tmp_path / "none.mat", "toy", CONFIG, tmp_path / "binned")
    assert "\n" not in str(error.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(BciDecodeError, match="data_dir="):
        stored_session(mat_file, "toy", CONFIG, tmp_path / "file")


def test_a_file_that_looks_the_same_in_another_folder_is_another_recording(mat_file, tmp_path):
    first, second = tmp_path / "day1" / "rec.mat", tmp_path / "day2" / "rec.mat"
    for number, copy in enumerate((first, second)):
        copy.parent.mkdir()
        copy.write_bytes(mat_file.read_bytes() + bytes([number]))
        os.utime(copy, ns=(0, 0))
    assert first.stat().st_size == second.stat().st_size
    found = [stored_session(one, "toy", CONFIG, tmp_path / "binned") for one in (first, second)]
    assert found[0].md5 != found[1].md5


def test_the_movement_is_the_one_that_the_settings_name(tmp_path):
    config = dataclasses.replace(CONFIG, source="cursor_vel")
    file = perich(tmp_path / "lab.nwb")
    stored = stored_session(file, "lab", config, tmp_path / "binned")
    session = read_session(file, "lab", "cursor_vel")
    same(stored.binned, bin_session(session, **config.binning_kwargs(), grids=3))
