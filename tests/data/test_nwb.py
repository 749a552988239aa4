"""NWB files that pynwb wrote, in the layouts of public data sets, and bad ones."""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
from nwb_files import circle, falcon_m2, mc_rtt, perich, pynwb, small, spike_trains
from valid_session import check_session

from bci_decode.data.binning import bin_session
from bci_decode.data.nwb_units import merged
from bci_decode.data.session import read_session
from bci_decode.data.units_of_measure import in_mm
from bci_decode.errors import BciDecodeError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("nwb")


@pytest.fixture(scope="module")
def files(folder) -> dict[str, Path]:
    return {made.__name__: made(folder / f"{made.__name__}.nwb") for made in LAYOUTS}


LAYOUTS = (mc_rtt, perich, falcon_m2)


def rows(session) -> list[tuple[str, int]]:
    return list(zip(session.units["channel"], session.units["row"], strict=True))


def test_the_layout_of_mc_rtt(files):
    session = read_session(files["mc_rtt"])
    check_session(session)
    t = np.arange(40_000) / 1000
    np.testing.assert_allclose(session.t, t, atol=1e-12)
    assert set(session.series) == {"finger_pos", "cursor_pos", "target_pos"}
    known = np.isfinite(session.finger_pos).all(axis=1)
    np.testing.assert_array_equal(known, ~((t > 20) & (t < 21)))
    np.testing.assert_array_equal(session.finger_pos[known, :2], circle(t)[0][known])
    np.testing.assert_array_equal(session.observed, [[0, 20], [21, 40]])
    np.testing.assert_array_equal(session.trials, np.arange(0, 40, 2.0))
    assert session.channels == ("M1 000", "M1 001", "M1 002", "M1 003")
    assert rows(session) == [(f"M1 00{n % 4}", 1 + n // 4) for n in (0, 1, 2, 3, 4)]
    for times, expected in zip(session.spike_times, spike_trains(5, 0.0, 40.0), strict=True):
        np.testing.assert_array_equal(times, expected)


def test_the_layout_of_perich(files):
    session = read_session(files["perich"], source="cursor_vel")
    check_session(session)
    position, velocity = circle(session.t)
    np.testing.assert_allclose(session.series["cursor_vel"].values, velocity)
    np.testing.assert_allclose(session.cursor_pos, position)
    assert session.series["cursor_vel"].order == 1 and session.series["cursor_pos"].order == 0
    assert session.channels == ("M1 000", "M1 001", "PMd 002", "PMd 003")
    assert rows(session) == [
        ("M1 001", 1), ("M1 001", 2), ("PMd 003", 1), ("PMd 002", 1), ("PMd 002", 2), ("PMd 002", 3)
    ]  # fmt: skip
    binned = bin_session(session, bin_width=0.1, source="cursor_vel", area="PMd")
    assert binned.counts.shape[1] == 4 and len(binned.reaches) == 3
    path = "processing/behavior/Velocity/cursor_vel"
    again = read_session(files["perich"], source=path)
    np.testing.assert_array_equal(again.series[path].values, session.series["cursor_vel"].values)
    assert list(read_session(files["perich"], source="Velocity").series) == [
        "Velocity",
        "cursor_pos",
    ]


def test_the_layout_of_falcon_m2(files, caplog):
    with caplog.at_level(logging.INFO):
        session = read_session(files["falcon_m2"], source="finger_vel")
    check_session(session)
    series = session.series["finger_vel"]
    scored = session.t >= 1.0
    np.testing.assert_array_equal(series.values[scored], circle(session.t)[1][scored])
    assert np.isnan(series.values[~scored]).all()
    assert series.order == 1 and series.unit == "unknown"
    assert session.channels == tuple(f"unit {n:03d}" for n in range(6))
    assert rows(session) == [(f"unit {n:03d}", 1) for n in range(6)]
    assert "50 of 1000 samples are invalid or not to be scored" in caplog.text
    assert session.finger_pos is not None  # read beside it, without a word
    assert caplog.text.count("no unit of length or speed (unknown)") == 1


def test_pynwb_reads_the_same(files):
    with pynwb() as library, library.NWBHDF5IO(str(files["perich"]), "r") as file:
        there = file.read()
        session = read_session(files["perich"], source="cursor_pos")
        behavior = there.processing["behavior"]
        stored = behavior["Position"]["cursor_pos"]
        np.testing.assert_allclose(session.cursor_pos, 10 * stored.data[:])
        np.testing.assert_array_equal(session.t, stored.timestamps[:])
        for unit, times in enumerate(session.spike_times):
            np.testing.assert_array_equal(times, there.units["spike_times"][unit])


def test_the_mean_velocity_of_a_bin_is_the_difference_of_position(files):
    session = read_session(files["perich"], source="cursor_vel")
    moved = bin_session(session, bin_width=0.07, source="cursor_vel").kinematics
    path = bin_session(session, bin_width=0.07, source="cursor_pos").kinematics
    np.testing.assert_allclose(moved, path, atol=0.6)  # of speeds up to 176 mm/s
    turned = bin_session(session, bin_width=0.07, source="cursor_vel", target="acceleration")
    np.testing.assert_allclose(turned.kinematics[1:], np.diff(moved, axis=0) / 0.07)
    now = bin_session(session, bin_width=0.07, source="cursor_vel", difference="central")
    expected = circle(now.edges[1:])[1]
    np.testing.assert_allclose(now.kinematics, expected, atol=0.2)
    with pytest.raises(BciDecodeError, match=r"data.target: is position, cursor_vel is a velocity"):
        bin_session(session, source="cursor_vel", target="position")


@pytest.mark.parametrize(
    ("unit", "found"),
    [
        ("m", (1000, 0)), ("meters", (1000, 0)), ("cm", (10, 0)), ("centimeter", (10, 0)),
        ("mm", (1, 0)), ("Millimetres", (1, 0)), ("µm", (1e-3, 0)), ("microns", (1e-3, 0)),
        ("m/s", (1000, 1)), ("meters per second", (1000, 1)), ("cm/sec", (10, 1)),
        ("cm s^-1", (10, 1)), ("mm/s", (1, 1)), ("cm/s^2", (10, 2)), ("m/s/s", (1000, 2)),
        ("a.u.", None), ("unknown", None), ("", None), ("n/a", None), ("pixels", None), ("s", None),
    ],
)  # fmt: skip
def test_units_of_measure(unit, found):
    assert in_mm(unit) == found


def test_conversion_and_offset_are_applied(tmp_path):
    stored = np.arange(1000, dtype=np.int16).reshape(500, 2)
    series = {"data": stored, "unit": "meters", "conversion": 1e-4, "offset": 0.5}
    session = read_session(small(tmp_path / "int.nwb", series=series))
    np.testing.assert_allclose(session.finger_pos, 1000 * (stored * 1e-4 + 0.5))


def test_invalid_times_are_unknown(tmp_path):
    session = read_session(small(tmp_path / "x.nwb", invalid=[(1.0, 2.0), (4.5, 9.0)]))
    unknown = np.isnan(session.finger_pos).all(axis=1)
    t = session.t
    np.testing.assert_array_equal(unknown, ((t >= 1) & (t <= 2)) | (t >= 4.5))


def test_unsorted_units_are_row_0_and_silent_ones_keep_their_number(tmp_path):
    spikes = [np.array([1.0, 2.0]), np.empty(0), np.array([3.0]), np.array([4.0])]
    path = small(tmp_path / "x.nwb", spikes=spikes, columns=["good", "good", "unsorted", "mua"])
    session = read_session(path)
    assert rows(session) == [("unit 000", 1), ("unit 002", 0), ("unit 003", 1)]
    assert list(session.units["spikes"]) == [2, 1, 1]


def test_overlapping_intervals_are_merged():
    intervals = np.array([[5, 6], [0, 1], [1, 2], [1.5, 1.7], [5.5, 7.0]])
    np.testing.assert_array_equal(merged(intervals), [[0, 2], [5, 7]])


def test_what_all_units_observed_counts(tmp_path):
    path = mc_rtt(tmp_path / "x.nwb", seconds=10)
    with h5py.File(path, "r+") as file:
        file["units/obs_intervals"][...] = np.tile([[0.0, 5.0], [6.0, 10.0]], (5, 1))
        file["units/obs_intervals"][2:4] = [[1.0, 3.0], [4.0, 8.0]]
    np.testing.assert_array_equal(read_session(path).observed, [[1, 3], [4, 5], [6, 8]])


def fails(path: Path, *words: str, source: str | None = None) -> None:
    with pytest.raises(BciDecodeError) as failure:
        read_session(path, source=source)
    line = str(failure.value)
    assert "\n" not in line and str(path) in line
    for word in words:
        assert word in line, line


def test_a_series_that_is_not_there_lists_what_is(files):
    fails(
        files["perich"],
        "data.source: is 'finger_pos', the file has",
        "processing/behavior/Velocity/cursor_vel (2000 x 2, cm/s, 100 Hz)",
        "data.source=NAME",
    )
    fails(
        files["falcon_m2"], "acquisition/finger_vel (1000 x 2, unknown, 50 Hz)", source="hand_pos"
    )
    fails(files["perich"], "is an acceleration", source="cursor_acc")
    fails(files["falcon_m2"], "has one column", source="acquisition/finger_vel/index")
    fails(files["falcon_m2"], "is in several places: ", source="index")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spikes": []}, ("units: missing from the file, which has", "processing")),
        ({"spikes": [np.empty(0)]}, ("units/spike_times: there are units without spikes only",)),
        ({"spikes": [np.array([100.0, 101])]}, ("the times do not overlap: spikes are from 100",)),
        (
            {"spikes": [np.arange(0.0, 5000, 20)]},
            ("mixed clocks: ", "as if spikes were in milliseconds;"),
        ),
        ({"spikes": [np.arange(0.0, 150_000, 99)]}, ("in milliseconds or samples",)),
        ({"series": {"timestamps": np.arange(500) * 10.0}}, ("steps by 10, as if in samples",)),
        (
            {"series": {"timestamps": np.tile(np.arange(250) / 50, 2)}},
            ("processing/behavior/finger_pos/timestamps: does not increase from sample 249",),
        ),
        ({"series": {"data": np.zeros(500)}}, ("has one column; x and y are decoded",)),
        ({"series": {"data": np.full((500, 2), 1e8)}}, ("finger_pos: is 1e+08 mm at sample 0",)),
        ({"series": {"timestamps": None, "rate": 2.0}}, ("steps by 0.5",)),
    ],
)
def test_bad_files(tmp_path, changes, words):
    fails(small(tmp_path / "bad.nwb", **changes), *words)


def test_columns_of_time_are_said(tmp_path):
    path = small(tmp_path / "turned.nwb")
    with h5py.File(path, "r+") as file:
        values = file["processing/behavior/finger_pos/data"][:]
        del file["processing/behavior/finger_pos/data"]
        file["processing/behavior/finger_pos/data"] = np.tile(values.T, (3, 1))
    fails(path, "finger_pos/data: is 6 x 500 for 500 timestamps; NWB has time first")


def test_axes_on_two_clocks_are_said(tmp_path):
    path = falcon_m2(tmp_path / "two.nwb")
    with h5py.File(path, "r+") as file:
        file["acquisition/finger_vel/mrs/timestamps"][:] += 0.004
    fails(path, "acquisition/finger_vel: mixed clocks: mrs has other times", source="finger_vel")


def test_what_is_no_nwb_2_file_is_said(tmp_path):
    with h5py.File(tmp_path / "old.nwb", "w") as file:
        file["nwb_version"] = "NWB-1.0.6"
    fails(tmp_path / "old.nwb", "is an NWB file of version 1")
    with h5py.File(tmp_path / "new.nwb", "w") as file:
        file.attrs["nwb_version"] = "3.0.0"
    fails(tmp_path / "new.nwb", "is an NWB file of version 3.0.0, not 2")
    with h5py.File(tmp_path / "plain.nwb", "w") as file:
        file["data"] = np.zeros(3)
    fails(tmp_path / "plain.nwb", "missing from the file, which has data", "Zenodo layout")
    (tmp_path / "folder.nwb").mkdir()
    (tmp_path / "folder.nwb" / ".zgroup").write_text("{}")
    fails(tmp_path / "folder.nwb", "is a folder of Zarr", "HDF5")


def test_links_out_of_the_file_are_refused(files, tmp_path):
    path = small(tmp_path / "linked.nwb")
    with h5py.File(path, "r+") as file:
        del file["processing/behavior/finger_pos/timestamps"]
        file["processing/behavior/finger_pos/timestamps"] = h5py.ExternalLink("/etc/passwd", "/t")
    fails(path, "finger_pos/timestamps: is a link to another file")
    with h5py.File(path, "r+") as file:
        del file["processing/behavior/finger_pos/timestamps"]
        link = h5py.SoftLink("/processing/behavior/finger_pos/timestamps")
        file["processing/behavior/finger_pos/timestamps"] = link
    fails(path, "is behind too many links")
