"""Files that announce what they do not hold, lead elsewhere or never end: one line says why."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
from mat5_files import CELL, CHAR, COMPRESSED, MATRIX, OPAQUE, SPARSE, STRUCT, Mat5
from odd_hdf5 import write_hdf5
from recordings import recording
from sizes import FULL, cases
from watched_reader import WatchedReader

from bci_decode.data.session import read_session
from bci_decode.errors import BciDecodeError
from bci_decode.files import md5_meanwhile, md5_of

SMALL = recording(samples=60)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """The reader in a process that is watched."""
    reader = WatchedReader(write_hdf5(tmp_path_factory.mktemp("good") / "good.mat", SMALL))
    yield reader
    reader.close()


def refused(path: Path | str) -> str:
    with pytest.raises(BciDecodeError) as failure:
        read_session(path)
    line = str(failure.value)
    assert "\n" not in line and len(line) < 1000
    return line


# --- version 7.3


def changed(tmp_path: Path, field: str, change) -> str:
    """What the reader says of a file whose `field` is what `change` makes of it."""
    path = write_hdf5(tmp_path / "changed.mat", SMALL)
    with h5py.File(path, "r+") as file:
        shape = file[field].shape
        file.move(field, "moved")
        change(file, field, shape)
    return refused(path)


def test_links_are_not_followed(tmp_path):
    secret = write_hdf5(tmp_path / "secret.mat", SMALL)

    def external(file, field, shape):
        file[field] = h5py.ExternalLink(str(secret), field)

    def soft(file, field, shape):
        file[field] = h5py.SoftLink("/moved")

    assert "finger_pos: is a link" in changed(tmp_path, "finger_pos", external)
    assert "spikes: is a link" in changed(tmp_path, "spikes", soft)


@pytest.mark.parametrize("field", ["t", "cell"])
def test_values_in_other_files_are_not_read(tmp_path, field):
    """Neither as a variable nor as a cell of spikes."""
    (tmp_path / "raw.bin").write_bytes(np.arange(60.0).tobytes())
    write_hdf5(tmp_path / "other.mat", SMALL)

    def virtual(group, name, shape):
        layout = h5py.VirtualLayout(shape, np.float64)
        layout[...] = h5py.VirtualSource(str(tmp_path / "other.mat"), "t", shape)
        group.create_virtual_dataset(name, layout)

    def external(group, name, shape):
        where = [(str(tmp_path / "raw.bin"), 0, 480)]
        group.create_dataset(name, shape, "f8", external=where)

    for change in (virtual, external):
        path = write_hdf5(tmp_path / "changed.mat", SMALL)
        with h5py.File(path, "r+") as file:
            if field == "t":
                del file["t"]
                change(file, "t", (1, 60))
            else:
                change(file["#refs#"], "new", (1, 60))
                file["spikes"][0, 0] = file["#refs#/new"].ref
        name = "t" if field == "t" else "spikes{1,1}"
        assert f"{name}: has its values in other files" in refused(path)


def test_unwritten_values_are_no_spikes(tmp_path):
    """A cell of 250,000,000 values in a small file took 2.5 GB."""
    path = write_hdf5(tmp_path / "huge.mat", SMALL)
    with h5py.File(path, "r+") as file:
        for number, chunks in enumerate([None, (1, 1 << 20)]):
            new = file["#refs#"].create_dataset(f"n{number}", (1, 250_000_000), "f8", chunks=chunks)
            file["spikes"][0, 0] = new.ref
            file.flush()
            assert "spikes{1,1}: stores 0 of" in refused(path)


def test_values_that_are_written_in_part_are_refused(tmp_path):
    def half(file, field, shape):
        file.create_dataset(field, shape, "f8", chunks=(1, 30))[:, :30] = file["moved"][:, :30]

    assert "t: stores 1 of 2 chunks" in changed(tmp_path, "t", half)


@pytest.mark.parametrize("times", [1, 18], ids=["announced", "not announced"])
def test_what_compression_makes_small_does_not_fill_the_memory(read, tmp_path, times):
    """2 GB of zeros in 2 MB, as values, or in chunks that are larger than they should be."""
    path, length = write_hdf5(tmp_path / "bomb.mat", SMALL), 1 << 20
    many = 256 if times == 1 else 2
    chunk = zlib.compress(bytes(8 * length * times), 9)
    with h5py.File(path, "r+") as file:
        new = file["#refs#"].create_dataset(
            "new", (1, many * length), "f8", chunks=(1, length), compression="gzip"
        )
        for start in range(0, many * length, length):
            new.id.write_direct_chunk((0, start), chunk)
        file["spikes"][0, 0] = new.ref
    line = read(path)
    assert ("announces 204" if times == 1 else "a chunk has 8388616 of") in line, line


def test_a_data_set_is_one_unit(read, tmp_path):
    """120,000 cells that refer to one data set took 12 s and 2 GB."""
    path = write_hdf5(tmp_path / "shared.mat", SMALL)
    with h5py.File(path, "r+") as file:
        one = file["spikes"][0, 0]
        file["spikes"][...] = np.full((3, 4), one, h5py.ref_dtype)
        assert "spikes{1,2}: is the same data set as spikes{1,1}" in refused(path)
        del file["spikes"]
        file["spikes"] = np.full((30_000, 4), one, h5py.ref_dtype)
    assert "spikes: has 120000 cells, more than 100000" in read(path)


@pytest.mark.parametrize("dtype", ["f2", "f4", "g", "i2", "u8", ">f8", ">i4"])
def test_positions_of_any_type_are_computed_in_double_precision(tmp_path, dtype):
    """Half precision has the places of 30.06 cm to 0.02 cm; as mm they would be off by 0.2 mm."""
    rounded = {
        name: np.round(SMALL[name]).astype(dtype) + np.array(0.3).astype(dtype)
        for name in ("finger_pos", "cursor_pos")
        if dtype != "u8"
    }
    session = read_session(write_hdf5(tmp_path / "typed.mat", SMALL | rounded))
    if rounded:
        finger = rounded["finger_pos"].astype(np.float64)
        np.testing.assert_array_equal(session.finger_pos[:, 0], -10.0 * finger[:, 1])
    assert session.finger_pos.dtype == session.cursor_pos.dtype == np.float64


@pytest.mark.parametrize("filters", [{"compression": "lzf"}, {"scaleoffset": 3}])
def test_other_filters_are_named(tmp_path, filters):
    path = write_hdf5(tmp_path / "filtered.mat", SMALL, {"chunks": True} | filters)
    named = r": is stored with filter \d+ of HDF5 \((lzf|scaleoffset)\); store it plain"
    assert re.search(named, refused(path))


def test_names_of_channels_are_short_and_can_be_printed(tmp_path):
    for name, words in (("x" * 257, "257 characters"), ("a\x1b[2J", "cannot be printed")):
        names = np.array([name, "b", "c", "d"], object)[:, None]
        for path in (
            write_hdf5(tmp_path / "names.mat", SMALL | {"chan_names": names}),
            written(tmp_path / "names5.mat", Mat5().file(SMALL | {"chan_names": names})),
        ):
            line = refused(path)
            assert "chan_names: name 1" in line and words in line


def test_names_that_end_with_zeros_are_read(tmp_path):
    names = np.array(["M1 001\0\0", "b", "c", "d"], object)[:, None]
    some = SMALL | {"chan_names": names}
    write_hdf5(tmp_path / "names.mat", some)
    written(tmp_path / "names5.mat", Mat5().file(some))
    for file in ("names.mat", "names5.mat"):
        assert read_session(tmp_path / file).channels == ("M1 001", "b", "c", "d")


@pytest.mark.parametrize(
    ("field", "unit"), [("finger_pos", "cm"), ("cursor_pos", "mm"), ("target_pos", "mm")]
)
def test_a_place_where_no_hand_can_be_is_refused(tmp_path, field, unit):
    values = SMALL[field].copy()
    for place in (1e200, -1e308):  # which would be infinite in mm
        values[7, 1] = place
        line = refused(write_hdf5(tmp_path / "far.mat", SMALL | {field: values}))
        assert f"{field}: is {place:g} {unit} at sample 7" in line
    values[7, 1] = np.nan  # a sample that is not known
    read_session(write_hdf5(tmp_path / "nan.mat", SMALL | {field: values}))


# --- version 5


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_version_5_is_read_as_by_other_software(tmp_path, order, compress, packed):
    some = SMALL | {"target_pos": np.round(SMALL["target_pos"])}
    path = written(tmp_path / "5.mat", Mat5(order).file(some, compress, packed))
    session, other = read_session(path), scipy.io.loadmat(path)
    np.testing.assert_array_equal(session.t, other["t"].ravel())
    np.testing.assert_array_equal(session.target_pos, other["target_pos"])
    np.testing.assert_array_equal(session.cursor_pos, other["cursor_pos"])
    cells = [cell.ravel() for cell in other["spikes"].ravel() if cell.size]
    for times, cell in zip(session.spike_times, cells, strict=True):
        np.testing.assert_array_equal(times, cell)
    assert session.channels == tuple(str(name[0]) for name in other["chan_names"].ravel())


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compress", [False, True])
def test_strings_and_tables_of_matlab_may_be_in_the_file(tmp_path, order, compress):
    """Their headers have no shape; the file ends with the data that they share, without a name."""
    mat = Mat5(order)
    flags, kind = mat.element(6, struct.pack(order + "II", OPAQUE, 0)), mat.element(1, b"MCOS")
    places = mat.numbers(np.array([[0xDD000000], [2], [1], [1], [1], [1]], "u4"))

    def opaque(name: bytes) -> bytes:
        parts = [flags, mat.element(1, name), kind, mat.element(1, b"table"), places]
        table = mat.element(MATRIX, b"".join(parts))
        return mat.compressed(table) if compress else table

    whole, shared = mat.file(SMALL, compress), mat.numbers(np.zeros((1, 16), "u1"))
    content = whole[:128] + opaque(b"trials") + whole[128:] + opaque(b"str") + shared
    assert len(read_session(written(tmp_path / "5.mat", content)).t) == 60
    without = mat.file({k: v for k, v in SMALL.items() if k != "chan_names"})
    content = without + opaque(b"chan_names") + shared
    line = refused(written(tmp_path / "names.mat", content))
    assert "chan_names: is not a cell array of names; save it again as such" in line


def test_no_byte_of_a_small_version_5_file_ends_the_process(read, tmp_path):
    """Byte 176 of a file, set to 0, ended it."""
    scipy.io.savemat(tmp_path / "whole.mat", SMALL)
    content = (tmp_path / "whole.mat").read_bytes()
    for place in (*range(124, 200), 176):
        damaged = content[:place] + b"\0" + content[place + 1 :]
        read(written(tmp_path / "damaged.mat", damaged))


@pytest.mark.parametrize("class_", [STRUCT, SPARSE, CHAR, CELL])
@pytest.mark.parametrize("field", ["t", "spikes{1,1}"])
def test_other_arrays_are_refused_by_name(tmp_path, class_, field):
    odd, mat = Mat5().array(class_, (2, 1), Mat5().element(5, bytes(16)), "t"), Mat5()
    if field == "t":
        content = mat.file({k: v for k, v in SMALL.items() if k != "t"}) + odd
    else:
        names = [k for k in SMALL if k != "spikes"]
        cells = [odd] + [mat.empty()] * 11
        content = mat.file({k: SMALL[k] for k in names}) + mat.cells((4, 3), cells, "spikes")
    assert f": {field}: " in refused(written(tmp_path / "odd.mat", content))


def test_sparse_arrays_of_other_software_are_refused(tmp_path):
    for field in ("t", "cursor_pos"):
        changed = SMALL | {field: scipy.sparse.csc_matrix(SMALL[field])}
        scipy.io.savemat(tmp_path / "sparse.mat", changed)
        line = refused(tmp_path / "sparse.mat")
        assert f"{field}: is not an array of real numbers" in line


def test_deep_cells_and_endless_zeros_in_version_5(read, tmp_path):
    mat, inside = Mat5(), b""
    for _ in range(300):
        inside = mat.array(CELL, (1, 1), inside or mat.empty())
    deep = mat.array(CELL, (1, 1), inside, "more")
    assert read(written(tmp_path / "deep.mat", mat.file(SMALL) + deep)) == "session"
    inside = mat.numbers(SMALL["t"], "t")[8:56] + bytes(128 << 20)
    data = zlib.compress(struct.pack("<II", MATRIX, len(inside)) + inside, 1)
    content = mat.header() + struct.pack("<II", COMPRESSED, len(data)) + data
    assert "t: announces 128 MB in a file of 0." in read(written(tmp_path / "bomb.mat", content))


# --- paths


def no_regular_files(folder: Path) -> list[Path]:
    """A pipe that nobody writes to, and devices that never end; none of them on Windows."""
    if not hasattr(os, "mkfifo"):
        return []
    os.mkfifo(folder / "pipe.mat")
    return [folder / "pipe.mat", Path("/dev/zero"), Path("/dev/null")]


def test_what_is_no_regular_file_is_refused(tmp_path):
    for path in no_regular_files(tmp_path):
        assert "is a device, a pipe or a socket" in refused(path)
        with pytest.raises(BciDecodeError, match="is a device, a pipe or a socket"):
            md5_of(path)


def test_a_path_that_no_file_can_have_is_refused(tmp_path):
    for path in (f"{tmp_path}/{'x' * 5000}.mat", f"{tmp_path}/a\0b.mat", f"{tmp_path}/{300 * 'é'}"):
        line = refused(path)
        assert "choose another path" in line and len(line) < 600


def ends(folder: Path, module: str, *words: str) -> str:
    """The line with which a command ends; it is killed if it hangs."""
    command = [sys.executable, "-m", f"bci_decode.{module}", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    return done.stderr.splitlines()[-1]


def test_no_command_reads_a_device(tmp_path):
    for path in no_regular_files(tmp_path)[: cases(1, 3)]:
        assert "is a device, a pipe or a socket" in ends(tmp_path, "cli", "inspect", str(path))
        words = ["session=local", "session.name=x", f"session.path={path}", "model=wiener"]
        if FULL:
            assert "is a device, a pipe or a socket" in ends(tmp_path, "train", *words)


def test_no_command_takes_a_path_that_is_too_long(tmp_path):
    path = f"{tmp_path}/{'x' * 5000}.mat"
    assert "is too long: " in ends(tmp_path, "cli", "inspect", path)
    if FULL:
        words = ["session=local", f"session.path={path}", "model=wiener"]
        assert "is too long: " in ends(tmp_path, "train", *words)
        assert "is too long: " in ends(tmp_path, "train", *words, "session.name=x")


FAILS = """
import sys
from pathlib import Path
from bci_decode.files import md5_meanwhile
with md5_meanwhile(Path(sys.argv[1])):
    raise ValueError("refused")
"""


def test_an_error_does_not_wait_for_the_checksum(tmp_path):
    """The checksum of a terabyte, of which no byte is on disk, would take an hour."""
    with (tmp_path / "large.mat").open("wb") as file:
        file.truncate(1 << 40)
    assert "is not a MATLAB file" in refused(tmp_path / "large.mat")
    command = [sys.executable, "-c", FAILS, str(tmp_path / "large.mat")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr.endswith("ValueError: refused\n")
    (tmp_path / "small").write_bytes(b"abc")
    with md5_meanwhile(tmp_path / "small") as md5:
        assert md5() == "900150983cd24fb0d6963f7d28e17f72"
