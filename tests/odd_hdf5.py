"""Session files of version 7.3 as h5py writes them, and what HDF5 offers to harm a reader."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy], Any]
CELLS = ("spikes", "chan_names")


def write_hdf5(path: Path, variables: dict[str, Any], storage: dict[str, Any] | None = None):
    """Write variables in MATLAB's way; `storage` are options of `create_dataset` for arrays."""
    with h5py.File(path, "w", userblock_size=512) as file:
        cells = file.create_group("#refs#")
        for name, value in variables.items():
            _write(file, cells, name, value, storage or {})
    with path.open("r+b") as header:
        header.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")
    return path


def _write(group: h5py.Group, cells: h5py.Group, name: str, value, storage: dict) -> h5py.Dataset:
    if isinstance(value, str):
        codes = np.frombuffer(value.encode("utf-16-le", "surrogatepass"), np.uint16)
        if not len(codes):
            return _empty(group, name, (0, 0), "char")
        return _array(group, name, codes[:, None], "char", {})
    value = np.asarray(value)
    if value.dtype != object:
        if 0 in value.shape:
            return _empty(group, name, value.shape, "double")
        scalar = not value.shape
        return _array(group, name, value.T, "double", {} if scalar else storage)
    references = np.empty(value.T.shape, h5py.ref_dtype)
    for place, cell in np.ndenumerate(value.T):
        references[place] = _write(cells, cells, f"c{len(cells)}", cell, storage).ref
    return _array(group, name, references, "cell", {})


def _array(group, name: str, values: np.ndarray, class_: str, storage: dict) -> h5py.Dataset:
    dataset = group.create_dataset(name, data=values, **storage)
    dataset.attrs["MATLAB_class"] = np.bytes_(class_)
    return dataset


def _empty(group, name: str, shape: tuple[int, ...], class_: str) -> h5py.Dataset:
    dataset = _array(group, name, np.array(shape, np.uint64), class_, {})
    dataset.attrs["MATLAB_empty"] = np.uint8(1)
    return dataset


STORAGES: list[dict[str, Any]] = [
    {},
    {},
    {"chunks": True},
    {"chunks": True, "compression": "gzip"},
    {"chunks": True, "compression": "gzip", "shuffle": True, "fletcher32": True},
    {"chunks": True, "compression": "lzf"},
    {"chunks": True, "scaleoffset": 5},
    {"chunks": True, "maxshape": (None, None)},
]


def damage_hdf5(draw: Draw, path: Path) -> None:
    """Put one or two harmful things into a file, and the files beside it that they name."""
    with h5py.File(path, "r+") as file:
        for harm in draw(st.lists(st.sampled_from(HARMS), min_size=1, max_size=2)):
            names = sorted(set(file) - {"#refs#"})
            if names:
                harm(draw, file, draw(st.sampled_from(names)))


def _replaced(file: h5py.File, name: str) -> tuple[tuple[int, ...], str]:
    """The shape of a data set that is taken away, and its name."""
    shape = file[name].shape if isinstance(file.get(name), h5py.Dataset) else (3, 3)
    del file[name]
    return shape, name


def soft_link(draw: Draw, file: h5py.File, name: str) -> None:
    file.move(name, "#elsewhere#")
    file[name] = h5py.SoftLink(draw(st.sampled_from(["/#elsewhere#", "/nowhere", f"/{name}"])))


def external_link(draw: Draw, file: h5py.File, name: str) -> None:
    other = draw(st.sampled_from([str(file.filename), "/etc/passwd", "/dev/zero"]))
    _, name = _replaced(file, name)
    file[name] = h5py.ExternalLink(other, "/t")


def virtual(draw: Draw, file: h5py.File, name: str) -> None:
    shape, name = _replaced(file, name)
    layout = h5py.VirtualLayout(shape or (1,), np.float64)
    layout[...] = h5py.VirtualSource(draw(st.sampled_from([".", "other.mat"])), "t", shape or (1,))
    file.create_virtual_dataset(name, layout)


def external_storage(draw: Draw, file: h5py.File, name: str) -> None:
    shape, name = _replaced(file, name)
    other = draw(st.sampled_from(["/etc/passwd", "/dev/zero", "raw.bin"]))
    shape = shape or (1,)
    file.create_dataset(name, shape, "f8", external=[(other, 0, int(np.prod(shape)) * 8 + 8)])


def unwritten(draw: Draw, file: h5py.File, name: str) -> None:
    shape, name = _replaced(file, name)
    many = draw(st.sampled_from([1, 250_000_000, 2**40, 2**59]))
    how = draw(st.sampled_from([{}, {"chunks": (1,) * len(shape or (1,))}, {"chunks": True}]))
    file.create_dataset(name, (*shape[:-1], many), "f8", **how)


def partly_written(draw: Draw, file: h5py.File, name: str) -> None:
    shape, name = _replaced(file, name)
    if shape:
        rows = (min(shape[0], 1), *(max(1, size // 2) for size in shape[1:]))
        dataset = file.create_dataset(name, shape, "f8", chunks=rows)
        dataset[:1] = 1.0


def bomb(draw: Draw, file: h5py.File, name: str) -> None:
    """Zeros that compress a thousand times, in chunks of one size."""
    shape, name = _replaced(file, name)
    length = draw(st.sampled_from([1 << 16, 1 << 21]))
    many = draw(st.sampled_from([1, 20, 300]))
    rows = tuple(1 for _ in shape[:-1])
    dataset = file.create_dataset(
        name, (*rows, length * many), "f8", chunks=(*rows, length), compression="gzip"
    )
    chunk = zlib.compress(bytes(8 * length * draw(st.sampled_from([1, 1, 40]))), 9)
    for start in range(0, length * many, length):
        dataset.id.write_direct_chunk((*(0 for _ in rows), start), chunk)


def shared_cells(draw: Draw, file: h5py.File, name: str) -> None:
    if isinstance(file.get("spikes"), h5py.Dataset) and file["spikes"].dtype == h5py.ref_dtype:
        cells = file["spikes"]
        if cells.size:
            cells[...] = np.full(cells.shape, cells[()].flat[0], h5py.ref_dtype)


def many_cells(draw: Draw, file: h5py.File, name: str) -> None:
    rows = draw(st.sampled_from([1000, 99_000, 120_000]))
    target = draw(st.sampled_from(["t", "#refs#"]))
    if target in file and isinstance(file.get("spikes"), h5py.Dataset):
        shape = file["spikes"].shape
        del file["spikes"]
        file["spikes"] = np.full(
            (rows, shape[-1] if shape else 1), file[target].ref, h5py.ref_dtype
        )


def odd_reference(draw: Draw, file: h5py.File, name: str) -> None:
    for field in CELLS:
        cells = file.get(field)
        if isinstance(cells, h5py.Dataset) and cells.dtype == h5py.ref_dtype and cells.size:
            references = cells[()]
            choices = [h5py.Reference(), file["#refs#"].ref, cells.ref, file.ref]
            references.flat[0] = draw(st.sampled_from(choices))
            cells[...] = references


def odd_mark(draw: Draw, file: h5py.File, name: str) -> None:
    """An attribute MATLAB_empty that is no number, on a variable or on a cell."""
    inside = sorted(file["#refs#"]) if "#refs#" in file else []
    where = draw(st.sampled_from([name, *(f"#refs#/{cell}" for cell in inside)]))
    values = [
        "text",
        np.arange(4),
        np.float64(1),
        np.zeros((0,)),
        True,
        np.uint8(0),
        h5py.Empty("f"),
    ]
    if isinstance(file.get(where, getlink=True), h5py.HardLink):
        file[where].attrs["MATLAB_empty"] = draw(st.sampled_from(values))


def odd_type(draw: Draw, file: h5py.File, name: str) -> None:
    shape, name = _replaced(file, name)
    compound = np.dtype([("real", "f8"), ("imag", "f8")])
    types: list[Any] = [compound, h5py.string_dtype(), "S5", h5py.vlen_dtype("f8"), "V3"]
    types += [h5py.regionref_dtype, h5py.enum_dtype({"a": 1}), np.dtype(("f8", (2,))), ">f8", ">i2"]
    dtype = draw(st.sampled_from(types))
    if np.prod(shape, dtype=float) < 1e6:
        data = np.zeros(shape, dtype) if dtype == compound else None
        file.create_dataset(name, shape, dtype, data=data)


def names_as_strings(draw: Draw, file: h5py.File, name: str) -> None:
    if "chan_names" in file:
        shape, name = _replaced(file, "chan_names")
        text = draw(st.sampled_from([b"M1 001", b"", b"\xff\xfe", b"x" * 5_000_000, b"a\nb"]))
        dtype = draw(st.sampled_from([h5py.string_dtype(), "S2000000", "S6"]))
        if dtype == "S2000000":
            file.create_dataset(name, shape, dtype)
        elif np.prod(shape, dtype=float) < 1e4:
            file[name] = np.full(shape, text, dtype if dtype == "S6" else object)


def no_space(draw: Draw, file: h5py.File, name: str) -> None:
    del file[name]
    file[name] = h5py.Empty("f8")


def a_group(draw: Draw, file: h5py.File, name: str) -> None:
    del file[name]
    file.create_group(name)["field"] = np.zeros(3)


HARMS = [soft_link, external_link, virtual, external_storage, unwritten, partly_written, bomb]
HARMS += [shared_cells, many_cells, odd_reference, odd_mark, odd_type, names_as_strings, no_space]
HARMS += [a_group]
