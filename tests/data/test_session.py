"""The reader against files that other software wrote, each trap of the layout on its own."""

from __future__ import annotations

import tracemalloc

import h5py
import numpy as np
import pytest
import scipy.io
from recordings import recording, write_mat73

from bci_decode.data.binning import bin_session
from bci_decode.data.session import read_session
from bci_decode.errors import BciDecodeError


def written_as_v5(path, variables):
    scipy.io.savemat(path, variables)
    return path


@pytest.fixture(params=[write_mat73, written_as_v5], ids=["v7.3", "v5"])
def write(request):
    return request.param


def assert_holds(session, variables):
    """`session` is what `variables` say, in the project's units and orientation."""
    t = variables["t"].ravel()
    np.testing.assert_array_equal(session.t, t)
    np.testing.assert_allclose(session.finger_pos[:, :2], -10 * variables["finger_pos"][:, 1:3])
    np.testing.assert_allclose(session.finger_pos[:, 2], 10 * variables["finger_pos"][:, 0])
    np.testing.assert_array_equal(session.cursor_pos, variables["cursor_pos"])
    np.testing.assert_array_equal(session.target_pos, variables["target_pos"])
    names = [str(name) for name in variables["chan_names"].ravel()]
    filled = [(c, r) for (c, r), cell in np.ndenumerate(variables["spikes"]) if cell.size]
    assert session.channels == tuple(names)
    assert list(zip(session.units["channel"], session.units["row"], strict=True)) == [
        (names[c], r) for c, r in filled
    ]
    assert list(session.units["area"]) == [names[c][:2] for c, _ in filled]
    for times, where, spikes in zip(
        session.spike_times, filled, session.units["spikes"], strict=True
    ):
        expected = variables["spikes"][where].ravel()
        np.testing.assert_array_equal(times, expected)
        assert spikes == np.sum((expected >= t[0]) & (expected <= t[-1]))


@pytest.mark.parametrize("channels", [4, 96, 192])
@pytest.mark.parametrize(("rows", "finger_columns"), [(3, 3), (5, 6)])
def test_reads_every_variable(tmp_path, write, channels, rows, finger_columns):
    variables = recording(channels, rows, samples=500, finger_columns=finger_columns)
    session = read_session(write(tmp_path / "indy_x.mat", variables))
    assert session.name == "indy_x"
    assert_holds(session, variables)
    if channels == 192:
        assert set(session.units["area"]) == {"M1", "S1"}


def test_spikes_outside_the_recording_are_kept_and_not_counted(session):
    before = [np.sum(times < session.t[0]) for times in session.spike_times]
    after = [np.sum(times > session.t[-1]) for times in session.spike_times]
    assert min(before) > 0 and min(after) > 0
    inside = [len(times) for times in session.spike_times] - np.add(before, after)
    np.testing.assert_array_equal(session.units["spikes"], inside)


def test_a_unit_with_two_spikes_is_kept(tmp_path, write):
    variables = recording()
    variables["spikes"][1, 2] = np.array([[4645.0], [4646.5]])
    session = read_session(write(tmp_path / "two.mat", variables))
    assert_holds(session, variables)
    assert 2 in [len(times) for times in session.spike_times]


def test_empty_cells_are_known_by_their_attribute_alone(tmp_path):
    """MATLAB's own way, which hdf5storage does not write.

    All unassigned cells point at one canonical empty, and an empty cell's data set holds its
    dimensions, which look like two spikes.
    """
    path = write_mat73(tmp_path / "empties.mat", recording(channels=5, rows=3))
    with h5py.File(path, "r+") as file:
        canonical = file["#refs#"].create_dataset("canonical", data=np.zeros(2, np.uint64))
        canonical.attrs["MATLAB_class"] = np.bytes_(b"canonical empty")
        canonical.attrs["MATLAB_empty"] = np.uint8(1)
        spikes = file["spikes"]
        spikes[1, 0], spikes[2, 0] = canonical.ref, canonical.ref
        for row, dims in enumerate([(0, 0), (0, 1), (1, 0)]):
            empty = file["#refs#"].create_dataset(f"empty{row}", data=np.array(dims, np.uint64))
            empty.attrs["MATLAB_class"] = np.bytes_(b"double")
            empty.attrs["MATLAB_empty"] = np.uint8(1)
            spikes[row, 1] = empty.ref
        pair = file["#refs#"].create_dataset("pair", data=np.array([[4645.0], [4646.0]]).T)
        pair.attrs["MATLAB_class"] = np.bytes_(b"double")
        spikes[0, 2] = pair.ref
    units = read_session(path).units
    assert set(units.loc[units["channel"] == "M1 001", "row"]) == {0}
    assert "M1 002" not in set(units["channel"])
    assert units.loc[(units["channel"] == "M1 003") & (units["row"] == 0), "spikes"].item() == 2


def test_waveforms_are_never_read_and_memory_stays_small(tmp_path):
    """Unreadable waveforms do not matter; the peak is below 3 times the memory that is returned."""
    variables = recording(channels=16, rows=3, samples=100_000)
    path = write_mat73(tmp_path / "waves.mat", variables)
    with h5py.File(path, "r+") as file:
        file["wf"] = np.zeros((3, 16))  # not even cells
    read_session(path)  # what is loaded or cached once is not the reader's
    tracemalloc.start()
    session = read_session(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    returned = sum(
        a.nbytes
        for a in (
            session.t,
            session.finger_pos,
            session.cursor_pos,
            session.target_pos,
            *session.spike_times,
        )
    )
    assert peak < 3 * returned


def test_is_frozen(session):
    with pytest.raises(AttributeError):
        session.name = "other"


def fails(path, *words):
    with pytest.raises(BciDecodeError) as failure:
        read_session(path)
    line = str(failure.value)
    assert "\n" not in line and str(path) in line
    for word in words:
        assert word in line, line


def test_bad_files(tmp_path, mat_file):
    fails(tmp_path / "absent.mat", "no such file")
    fails(tmp_path, "is a folder")
    (tmp_path / "empty.mat").touch()
    fails(tmp_path / "empty.mat", "is empty")
    (tmp_path / "text.mat").write_text("a,b\n1,2\n")
    fails(tmp_path / "text.mat", "is not a MATLAB file", "-v7.3")
    (tmp_path / "cut.mat").write_bytes(mat_file.read_bytes()[:400])
    fails(tmp_path / "cut.mat", "is cut short")
    whole = mat_file.read_bytes()
    for share in (0.1, 0.5, 0.99):
        (tmp_path / "cut.mat").write_bytes(whole[: int(len(whole) * share)])
        fails(tmp_path / "cut.mat", "cannot be read", "fetch it again")


def test_a_truncated_v5_file(tmp_path):
    path = written_as_v5(tmp_path / "v5.mat", recording())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    fails(path)


@pytest.mark.parametrize("field", ["t", "chan_names", "spikes"])
def test_a_missing_variable_is_named(tmp_path, write, field):
    variables = recording()
    del variables[field]
    fails(write(tmp_path / "missing.mat", variables), f": {field}: missing")


def test_positions_that_nothing_needs_may_be_missing(tmp_path, write):
    variables = recording()
    del variables["target_pos"], variables["finger_pos"]
    session = read_session(write(tmp_path / "cursor.mat", variables))
    assert list(session.series) == ["cursor_pos"]
    np.testing.assert_array_equal(session.cursor_pos, variables["cursor_pos"])
    assert session.finger_pos is None and session.target_pos is None
    with pytest.raises(BciDecodeError, match=r"data.source: is 'finger_pos', .* cursor_pos$"):
        bin_session(session)
    binned = bin_session(session, source="cursor_pos")
    assert binned.reaches is None and binned.kinematics.shape == (len(binned.counts), 2)
    del variables["cursor_pos"]
    fails(write(tmp_path / "none.mat", variables), ": finger_pos or cursor_pos: missing")


def test_a_finger_may_have_no_depth(tmp_path, write):
    variables = recording()
    path = write(tmp_path / "three.mat", variables)
    variables["finger_pos"] = variables["finger_pos"][:, 1:3]
    flat = write(tmp_path / "two.mat", variables)
    np.testing.assert_array_equal(
        read_session(flat).finger_pos, read_session(path).finger_pos[:, :2]
    )


@pytest.mark.parametrize(
    ("field", "change", "words"),
    [
        (
            "t",
            lambda t: np.where(np.arange(len(t))[:, None] == 7, t[5], t),
            ["t:", "does not increase", "sample 6"],
        ),
        (
            "t",
            lambda t: np.where(np.arange(len(t))[:, None] == 7, np.nan, t),
            ["t:", "nan at sample 7"],
        ),
        ("t", lambda t: t[:1], ["t: has less than two samples"]),
        ("finger_pos", lambda f: f[:, :1], ["finger_pos:", "2500 x 1", "2 or 3 or 6"]),
        ("cursor_pos", lambda c: c[:-1], ["cursor_pos:", "2499 x 2"]),
        ("spikes", lambda s: s[:-1], ["spikes:", "3 x 3 cells for 4 channel names"]),
    ],
)
def test_bad_variables(tmp_path, write, field, change, words):
    variables = recording()
    variables[field] = change(variables[field])
    fails(write(tmp_path / "bad.mat", variables), *words)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_bad_spike_time_is_named(tmp_path, write, value):
    variables = recording()
    variables["spikes"][1, 2][3] = value
    fails(write(tmp_path / "bad.mat", variables), "spikes{2,3}")


def test_a_cell_that_is_no_vector_is_named(tmp_path, write):
    variables = recording()
    variables["spikes"][0, 1] = np.zeros((3, 3))
    fails(write(tmp_path / "bad.mat", variables), "spikes{1,2}", "(3, 3)")


def test_spikes_that_are_no_cells(tmp_path, write):
    variables = recording()
    variables["spikes"] = np.zeros((4, 3))
    fails(write(tmp_path / "bad.mat", variables), "spikes: is not a cell array")


@pytest.mark.parametrize("field", ["t", "cursor_pos", "target_pos", "finger_pos"])
def test_numbers_that_are_none(tmp_path, write, field):
    variables = recording()
    variables[field] = variables[field] * 1j
    fails(write(tmp_path / "bad.mat", variables), f"{field}: is not an array of real numbers")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda s: s * 1000, "mixed clocks: spikes are from"),
        (lambda s: s + 1000, "the times do not overlap: spikes are from"),
    ],
)
def test_spikes_on_another_clock_are_refused(tmp_path, write, change, line):
    variables = recording(samples=500)
    for cell in np.ndindex(variables["spikes"].shape):
        variables["spikes"][cell] = change(variables["spikes"][cell])
    fails(write(tmp_path / "bad.mat", variables), line)


def test_a_clock_in_milliseconds_is_said(tmp_path, write):
    variables = recording()
    variables["t"] = variables["t"] * 1000
    fails(write(tmp_path / "bad.mat", variables), "t: steps by 4, as if in samples or milliseconds")


def test_an_empty_cell_without_its_attribute_is_empty(tmp_path):
    path = write_mat73(tmp_path / "empty.mat", recording())
    with h5py.File(path, "r+") as file:
        file["spikes"][0, 0] = file["#refs#"].create_dataset("bare", data=np.zeros((1, 0))).ref
    assert len(read_session(path).units) == len(recording()["spikes"].ravel()) - 4


def fixed_length(names):
    return np.array(names, "S6")


def variable_length(names):
    return np.array(names, h5py.string_dtype())


@pytest.mark.parametrize("kind", [fixed_length, variable_length])
@pytest.mark.parametrize("shape", [(4,), (1, 4), (4, 1)])
def test_channel_names_may_be_strings_of_hdf5(tmp_path, kind, shape):
    variables = recording()
    path = write_mat73(tmp_path / "strings.mat", variables)
    names = list(variables["chan_names"].ravel())
    with h5py.File(path, "r+") as file:
        del file["chan_names"]
        file["chan_names"] = kind(names).reshape(shape)
    assert_holds(read_session(path), variables)


@pytest.mark.parametrize("kind", [fixed_length, variable_length])
def test_channel_names_may_be_cells_of_strings(tmp_path, kind):
    variables = recording()
    path = write_mat73(tmp_path / "strings.mat", variables)
    with h5py.File(path, "r+") as file:
        cells = [
            file["#refs#"].create_dataset(f"name{i}", data=kind([name]))
            for i, name in enumerate(variables["chan_names"].ravel())
        ]
        file["chan_names"][...] = np.array([[cell.ref for cell in cells]], h5py.ref_dtype)
    assert_holds(read_session(path), variables)


def test_channel_names_may_be_a_matrix_of_characters(tmp_path):
    variables = recording()
    written = variables | {"chan_names": np.array(list(variables["chan_names"].ravel()))}
    assert_holds(read_session(written_as_v5(tmp_path / "v5.mat", written)), variables)


@pytest.mark.parametrize("name", ["é.mat", "记录 1.mat", "~x.mat"])
def test_any_name_of_a_file_is_read(tmp_path, write, name, monkeypatch):
    path = write(tmp_path / "plain.mat", recording()).rename(tmp_path / name)
    assert_holds(read_session(path), recording())
    monkeypatch.chdir(tmp_path)
    assert read_session(name).name == name.removesuffix(".mat")


def test_a_path_may_begin_with_the_home_folder(mat_file, monkeypatch):
    monkeypatch.setenv("HOME", str(mat_file.parent))
    assert read_session("~/toy.mat").path == mat_file
