"""Sessions from arrays: `.npz` files that NumPy wrote, arrays in memory, and back into files."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from nwb_files import circle, falcon_m2, perich
from recordings import recording, write_mat73
from valid_session import check_session

from bci_decode.data.binning import bin_session
from bci_decode.data.session import Session, read_session
from bci_decode.errors import BciDecodeError

WIDTH = 0.02


def arrays(units: int = 3, samples: int = 500) -> dict[str, np.ndarray]:
    t = 7.0 + 0.01 * np.arange(samples)
    rng = np.random.default_rng(0)
    trains = [np.sort(rng.uniform(t[0], t[-1], 40)) for _ in range(units)]
    return {
        "t": t,
        "finger_pos": circle(t)[0],
        "spike_times": np.concatenate(trains),
        "spike_index": np.cumsum([len(train) for train in trains]),
    }


def counted(samples: int = 501) -> dict[str, np.ndarray]:
    """Counts of the bins between samples of t, by their edges."""
    t = 7.0 + WIDTH * np.arange(samples)
    counts = np.random.default_rng(1).poisson(0.7, (samples - 1, 4))
    return {"t": t, "finger_vel": circle(t)[1], "counts": counts, "count_edges": t}


def written(path, **content):
    np.savez_compressed(path, **content)
    return path


def test_spike_times_are_read(tmp_path):
    content = arrays()
    more = {
        "channels": np.array(["e1", "e1", "e7"]),
        "areas": np.array(["M1", "M1", "dorsal premotor"]),
        "hand_vel": circle(content["t"])[1] / 10,
        "hand_vel_unit": np.array("cm/s"),
        "trials": np.array([8.0, 9.0]),
        "observed": np.array([[7.0, 8.0], [8.5, 12.0]]),
        "other": np.array(["of no meaning"], object),
    }
    session = read_session(written(tmp_path / "a.npz", **content, **more))
    check_session(session)
    assert session.name == "a" and session.channels == ("M1 e1", "dorsal_premotor e7")
    assert list(session.units["row"]) == [1, 2, 1]
    assert list(session.units["area"]) == ["M1", "M1", "dorsal_premotor"]
    np.testing.assert_array_equal(session.finger_pos, content["finger_pos"])
    np.testing.assert_allclose(session.series["hand_vel"].values, circle(content["t"])[1])
    assert session.series["hand_vel"].order == 1
    np.testing.assert_array_equal(np.concatenate(session.spike_times), content["spike_times"])
    np.testing.assert_array_equal(session.trials, [8, 9])
    np.testing.assert_array_equal(session.observed, more["observed"])


@pytest.mark.parametrize("by", ["edges", "times"])
def test_counts_come_back_from_the_same_grid(tmp_path, by):
    content = counted()
    if by == "times":
        edges = content.pop("count_edges")
        content |= {"count_times": edges[:-1], "bin_width": np.array(WIDTH)}
    session = read_session(written(tmp_path / "c.npz", **content))
    check_session(session)
    binned = bin_session(session, bin_width=WIDTH, source="finger_vel")
    np.testing.assert_array_equal(binned.counts, content["counts"])


def test_arrays_in_memory_are_the_same_session(tmp_path):
    content = arrays()
    file = read_session(written(tmp_path / "a.npz", **content))
    trains = np.split(content["spike_times"], content["spike_index"][:-1])
    here = Session.from_arrays(t=content["t"], spike_times=trains, position=content["finger_pos"])
    assert_same(here, file)
    counts = {**counted()}
    moved = Session.from_arrays(
        t=counts["t"], counts=counts["counts"], count_edges=counts["count_edges"],
        velocity=counts["finger_vel"],
    )  # fmt: skip
    assert list(moved.series) == ["finger_vel"] and moved.series["finger_vel"].order == 1


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"area": ["M1"] * 3}, "arrays: area: has no meaning; choose among t, spike_times"),
        ({"spike_times": 5}, "arrays: spike_times: is 5; give an array of times for each unit"),
        ({"spike_times": [[7.5], ["a"]]}, r"arrays: spike_times\[1\]: holds <U1; give numbers"),
        ({"position": [[1, 2], [3]]}, "arrays: finger_pos: is no array; give numbers of one shape"),
        ({"channels": [None] * 3}, "arrays: channels: holds object; give texts"),
        ({"areas": [1, 2]}, "arrays: areas: holds int"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(change, line):
    content = arrays()
    given = {"t": content["t"], "position": content["finger_pos"], "spike_times": [[7.5], [8.0]]}
    with pytest.raises(BciDecodeError, match=line):
        Session.from_arrays(**(given | change))


def assert_same(one: Session, other: Session, rtol: float = 0.0) -> None:
    np.testing.assert_array_equal(one.t, other.t)
    assert list(one.series) == list(other.series)
    for name, series in one.series.items():
        found = other.series[name]
        assert (series.order, series.unit) == (found.order, found.unit)
        np.testing.assert_allclose(series.values, found.values, rtol=rtol)
    assert one.channels == other.channels
    assert one.units.equals(other.units)
    for times, expected in zip(one.spike_times, other.spike_times, strict=True):
        np.testing.assert_array_equal(times, expected)


def test_a_session_written_as_arrays_comes_back(tmp_path):
    session = read_session(write_mat73(tmp_path / "a.mat", recording()))
    session.save(tmp_path / "a.npz")
    assert_same(session, read_session(tmp_path / "a.npz"))
    own = read_session(falcon_m2(tmp_path / "f.nwb"), source="finger_vel")
    own.save(tmp_path / "f.npz")
    assert_same(own, read_session(tmp_path / "f.npz"))


def test_a_session_written_in_the_zenodo_layout_comes_back(tmp_path):
    session = read_session(write_mat73(tmp_path / "a.mat", recording()))
    session.save(tmp_path / "b.mat")
    assert_same(session, read_session(tmp_path / "b.mat"), rtol=1e-14)


def test_a_velocity_is_written_as_the_path_that_it_describes(tmp_path):
    content = arrays() | {"observed": np.array([[7.0, 8.0], [8.5, 9.0]])}
    content["finger_vel"] = circle(content["t"])[1]
    del content["finger_pos"]
    session = read_session(written(tmp_path / "a.npz", **content))
    session.save(tmp_path / "a.mat")
    again = read_session(tmp_path / "a.mat")
    assert list(again.series) == ["finger_pos"]
    seen = (again.t <= 8.0) | ((again.t >= 8.5) & (again.t <= 9.0))
    assert np.isnan(again.finger_pos[~seen]).all()
    position = circle(again.t)[0]
    np.testing.assert_allclose(again.finger_pos[seen], (position - position[0])[seen], atol=0.1)
    own = read_session(perich(tmp_path / "p.nwb"), source="cursor_vel")
    own.save(tmp_path / "p.mat")
    again = read_session(tmp_path / "p.mat")
    assert list(again.series) == ["cursor_pos"]  # the file's own position, not the integral
    np.testing.assert_allclose(again.cursor_pos, own.cursor_pos)
    assert list(again.units["area"]) == ["M1", "M1", "PMd", "PMd", "PMd", "PMd"]


def test_a_session_is_not_written_elsewhere(tmp_path, session):
    with pytest.raises(BciDecodeError, match=r"\.mat or \.npz"):
        session.save(tmp_path / "a.csv")


def without(content, *names):
    return {name: value for name, value in content.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: without(a, "t"), "t: missing; there are spike_times"),
        (lambda a: without(a, "spike_times"), "spike_times: missing, and counts too; give"),
        (lambda a: without(a, "spike_index"), "spike_index: missing"),
        (lambda a: without(a, "finger_pos"), "finger_pos: missing; there are t"),
        (lambda a: a | {"t": a["t"][::-1]}, "t: does not increase from sample 0"),
        (lambda a: a | {"t": a["t"] + 1000}, "the times do not overlap"),
        (lambda a: a | {"t": a["t"] * 1000}, "t: steps by 10, as if in samples or milliseconds"),
        (lambda a: a | {"spike_times": a["spike_times"] * 1000}, "mixed clocks"),
        (lambda a: a | {"spike_index": a["spike_index"][:-1]}, "does not divide the 120 values"),
        (lambda a: a | {"finger_pos": a["finger_pos"].T}, "finger_pos: is 2 x 500; it needs x"),
        (lambda a: a | {"finger_pos_unit": np.array("m/s")}, "finger_pos_unit: is m/s"),
        (lambda a: a | {"finger_pos": a["finger_pos"] * 1e9}, "e+10 mm at sample 0"),
        (lambda a: a | {"channels": np.array(["a"])}, "channels: has 1 names; give one for each"),
        (lambda a: a | {"channels": np.array(["a"] * 3, object)}, "channels: holds object"),
        (lambda a: a | {"rows": np.zeros(2)}, "rows: is no row for each of 3 units"),
        (
            lambda a: a | {"rows": np.ones(3), "channels": np.array(["a", "a", "b"])},
            "rows: has a row 1 twice",
        ),
        (lambda a: a | {"observed": np.array([[9.0, 8.0]])}, "observed: holds no intervals"),
        (lambda a: a | {"t": np.array(["a", "b"])}, "t: holds <U1, not real numbers"),
        (
            lambda a: a | {"spike_times": np.where(a["spike_times"] > 9, np.nan, 8.0)},
            "spike_times of unit 0: NaN or Inf among the times",
        ),
        (lambda a: without(counted(), "count_edges"), "count_times: missing"),
        (lambda a: counted() | {"count_edges": np.arange(3.0)}, "count_edges: has 3 times; 500"),
        (lambda a: counted() | {"counts": counted()["counts"] - 0.5}, "counts: is "),
        (lambda a: counted() | {"counts": counted()["counts"] * 0}, "counts: is 0 throughout"),
        (lambda a: counted() | {"counts": counted()["counts"] * 10**8}, "counts: is "),
        (lambda a: counted() | arrays(), "counts: given beside spike_times"),
    ],
)
def test_bad_arrays(tmp_path, change, words):
    path = written(tmp_path / "bad.npz", **change(arrays()))
    with pytest.raises(BciDecodeError) as failure:
        read_session(path)
    line = str(failure.value)
    assert "\n" not in line and str(path) in line and words in line, line


def test_arrays_that_announce_too_much_are_refused(tmp_path):
    """A header may announce any size; 3 GB of zeros compress to 3 MB."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (400_000_000,)}
    )
    np.savez(tmp_path / "huge.npz", **without(arrays(), "t"))
    with zipfile.ZipFile(tmp_path / "huge.npz", "a") as archive:
        archive.writestr("t.npy", header.getvalue())
    with pytest.raises(BciDecodeError, match=r"t: announces 6104 MB"):
        read_session(tmp_path / "huge.npz")


def test_nothing_is_unpickled(tmp_path):
    path = written(tmp_path / "x.npz", **(arrays() | {"t": np.array([print, 1], object)}))
    with pytest.raises(BciDecodeError, match="t: holds object, not real numbers"):
        read_session(path)


def test_bad_arrays_in_memory_name_their_field():
    content = arrays()
    with pytest.raises(BciDecodeError, match=r"^arrays: finger_pos: is 100 x 2; it needs"):
        Session.from_arrays(
            t=content["t"], spike_times=[content["t"]], position=content["finger_pos"][:100]
        )
    with pytest.raises(BciDecodeError, match=r"^mine: spike_times: missing, and counts too"):
        Session.from_arrays(t=content["t"], position=content["finger_pos"], name="mine")
