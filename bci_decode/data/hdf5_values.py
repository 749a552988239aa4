"""Read numbers of an HDF5 data set as float64, chunk by chunk where it is stored in chunks.

HDF5's own filters believe what a file says: they read before a chunk's beginning, past its end, and
make memory for whatever a compressed chunk grows to. So chunks are decoded here.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import product
from math import prod

import h5py
import numpy as np
from h5py import h5d, h5s, h5z
from h5py.h5d import DatasetID as Dataset

FILTERS = (h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32)


def filters_of(dataset: Dataset) -> list[int]:
    """The codes of the filters through which a data set was written, in this order."""
    how = dataset.get_create_plist()
    return [how.get_filter(number)[0] for number in range(how.get_nfilters())]


def read_values(dataset: Dataset, out: np.ndarray) -> None:
    """Fill `out` (float64) with the first rows of a data set, as many as it has."""
    if dataset.get_create_plist().get_layout() == h5d.CHUNKED:
        for start, values in chunks(dataset, out.shape):
            ends = (first + length for first, length in zip(start, values.shape, strict=True))
            part = out[tuple(map(slice, start, ends))]
            part[...] = values[tuple(map(slice, part.shape))]
    elif dataset.dtype.kind == "b":
        out[...] = h5py.Dataset(dataset)[tuple(map(slice, out.shape))]
    elif not out.shape:
        dataset.read(h5s.ALL, h5s.ALL, out)
    else:
        space = dataset.get_space()
        space.select_hyperslab((0,) * out.ndim, out.shape)
        dataset.read(h5s.create_simple(out.shape), space, out)


def chunks(
    dataset: Dataset, shape: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Where each chunk within a shape begins, and its values as they are stored.

    Raises ValueError where one has more or fewer bytes than it should.
    """
    size = dataset.get_create_plist().get_chunk()
    width = _stored_width(dataset)
    kinds = {"b": np.dtype(np.int8)}  # h5py stores True and False as numbers with names
    dtype = dataset.dtype if dataset.dtype.kind in "fiu" else np.dtype(f"V{width}")
    dtype = kinds.get(dataset.dtype.kind, dtype)
    codes = filters_of(dataset)
    for start in product(*(range(0, whole, part) for whole, part in zip(shape, size, strict=True))):
        mask, stored = dataset.read_direct_chunk(start)
        content = memoryview(stored)
        for number in reversed(range(len(codes))):
            if not mask >> number & 1:
                content = _decoded(codes[number], content, width, prod(size) * width)
        if len(content) != prod(size) * width:
            raise ValueError(f"a chunk has {len(content)} of {prod(size) * width} bytes")
        yield start, np.frombuffer(content, dtype).reshape(size)


def _stored_width(dataset: Dataset) -> int:
    """The bytes of a value in a chunk; of a string of any length that of its address."""
    text = h5py.check_string_dtype(dataset.dtype)
    return 16 if text is not None and text.length is None else dataset.get_type().get_size()


def _decoded(code: int, content: memoryview, width: int, whole: int) -> memoryview:
    """The content of a chunk before one filter."""
    if code == h5z.FILTER_DEFLATE:
        # a checksum of a few bytes may be in it; a byte more shows that it is too long
        return memoryview(zlib.decompressobj().decompress(content, whole + 8))
    if code == h5z.FILTER_SHUFFLE:  # first bytes of all numbers, then second ones ...
        planes = np.frombuffer(content, np.uint8).reshape(width, -1)
        return memoryview(planes.T.tobytes())
    if len(content) < 4 or _fletcher32(content[:-4]) != _halves(content[-4:]):
        raise ValueError("the checksum of a chunk is wrong")
    return content[:-4]


def _fletcher32(content: memoryview) -> tuple[int, int]:
    """Both sums of HDF5's checksum, modulo 65535, of 16-bit words whose first byte is high."""
    words = np.frombuffer(bytes(content) + bytes(len(content) % 2), ">u2").astype(np.int64)
    first = second = 0
    for start in range(0, len(words), 1 << 20):  # so that no sum overflows
        part = words[start : start + (1 << 20)]
        second += len(part) * first + int(part @ np.arange(len(part), 0, -1))
        first += int(part.sum())
    return first % 65535, second % 65535


def _halves(checksum: memoryview) -> tuple[int, int]:
    low, high = np.frombuffer(checksum, "<u2").tolist()
    return low % 65535, high % 65535
