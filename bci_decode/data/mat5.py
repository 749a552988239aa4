"""Parse a MATLAB file of version 5: arrays of numbers, of characters and of cells, nothing else.

The format is that of "MAT-File Format" (MathWorks, 2019), level 5. Every size is checked against
the bytes that are there, so that a damaged file raises ValueError and does no harm. Little- and
big-endian files are read, plain or compressed with zlib.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

HEADER = 128  # bytes at the beginning of a file
BEGINNING = 1024  # bytes of a variable in which its name is
MAX_VARIABLES = 10_000
MAX_DIMENSIONS = 32
PIECE = 1 << 16  # bytes that are read and inflated at once, to 16 times as many at most

MATRIX, COMPRESSED = 14, 15  # data types of variables
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
NUMBERS |= {12: "i8", 13: "u8"}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
CLASSES = ["", "cell", "struct", "object", "char", "sparse", "double", "single", "int8", "uint8"]
CLASSES += ["int16", "uint16", "int32", "uint32", "int64", "uint64", "function", "opaque"]
KINDS = {"cell": "O", "char": "U", "double": "f", "single": "f"}
KINDS |= {name: name[0] for name in CLASSES if "int" in name}
COMPLEX = 0x0800


@dataclass(frozen=True)
class Array:
    """A MATLAB array: what its header says, and its content as bytes."""

    name: str
    class_: str  # one of CLASSES, "complex ..." where it has an imaginary part
    shape: tuple[int, ...]
    content: memoryview
    order: str  # of the bytes: "<" or ">"

    @property
    def kind(self) -> str:
        """Its kind in NumPy, "O" for cells; "" where it is nothing that is read."""
        return KINDS.get(self.class_, "")

    def numbers(self) -> np.ndarray:
        """Its numbers in the type that they are stored in, which may be smaller than its class."""
        code, data, _ = _element(self.content, 0, self.order)
        if code not in NUMBERS:
            raise ValueError(f"numbers are stored as data type {code}")
        values = np.frombuffer(data, self.order + NUMBERS[code])
        if len(values) != prod(self.shape):
            raise ValueError(f"{len(values)} numbers are stored of {prod(self.shape)}")
        return values.reshape(self.shape, order="F")

    def cells(self) -> Iterator[Array]:
        """The arrays in its cells, column after column."""
        place = 0
        for _ in range(prod(self.shape)):
            code, data, place = _element(self.content, place, self.order)
            if code != MATRIX:
                raise ValueError(f"a cell holds data type {code}")
            yield _array(data, self.order)

    def rows(self) -> list[str]:
        """The rows of an array of characters."""
        if 0 in self.shape:
            return []
        code, data, _ = _element(self.content, 0, self.order)
        if code not in TEXTS:
            raise ValueError(f"text is stored as data type {code}")
        wide = {"<": "-le", ">": "-be"}[self.order] if code in (4, 17, 18) else ""
        text = str(data, TEXTS[code] + wide)
        rows, columns = self.shape if len(self.shape) == 2 else (0, 0)
        if rows * columns != len(text):
            raise ValueError(f"{len(text)} characters are stored for shape {self.shape}")
        return [text[row::rows] for row in range(rows)]


def read_arrays(
    path: Path, wanted: Collection[str], check_size: Callable[[str, int], None]
) -> tuple[dict[str, Array], list[str]]:
    """The arrays with the `wanted` names, and the names of all that are in a file.

    Before a compressed array is inflated, `check_size` is called with its name and bytes.
    """
    arrays: dict[str, Array] = {}
    names: list[str] = []
    with path.open("rb") as file:
        order = _byte_order(file.read(HEADER))
        for variable in _variables(file, order):
            name = _array(variable.beginning(), order).name
            if name in arrays or len(names) == MAX_VARIABLES:
                problem = "is there twice" if name in arrays else "is one of too many variables"
                raise ValueError(f"{name} {problem}")
            names.append(name)
            if name in wanted:
                if isinstance(variable, _Compressed):
                    check_size(name, variable.length)
                arrays[name] = _array(variable.content(), order)
    return arrays, names


def _byte_order(header: bytes) -> str:
    if header[126:] not in (b"IM", b"MI"):
        raise ValueError("its header names no order of bytes")
    return "<" if header[126:] == b"IM" else ">"


def _variables(file: BinaryIO, order: str) -> Iterator[_Plain | _Compressed]:
    """The variables of a file, one after the other, none of them read yet."""
    size = os.fstat(file.fileno()).st_size
    place = HEADER
    while place < size:
        file.seek(place)
        tag = file.read(8)
        if len(tag) < 8:
            raise ValueError("it ends inside of a variable")
        code, length = struct.unpack(order + "II", tag)
        place += 8 + length
        if place > size:
            raise ValueError("it ends inside of a variable")
        if code not in (MATRIX, COMPRESSED):
            raise ValueError(f"a variable has data type {code}")
        of_kind = _Plain if code == MATRIX else _Compressed
        yield of_kind(file, place - length, length, order)


class _Plain:
    """A variable in a file, without its tag."""

    def __init__(self, file: BinaryIO, start: int, length: int, order: str):
        self.file, self.start, self.length = file, start, length

    def beginning(self) -> memoryview:
        self.file.seek(self.start)
        return memoryview(self.file.read(min(self.length, BEGINNING)))

    def content(self) -> memoryview:
        self.file.seek(self.start)
        return memoryview(self.file.read(self.length))


class _Compressed:
    """A variable that is inflated piece by piece, to the length that its own tag tells."""

    def __init__(self, file: BinaryIO, start: int, stored: int, order: str):
        self.file, self.start, self.stored = file, start, stored
        code, self.length = struct.unpack(order + "II", self._inflated(8))
        if code != MATRIX:
            raise ValueError(f"a compressed variable has data type {code}")

    def beginning(self) -> memoryview:
        return self._inflated(8 + min(self.length, BEGINNING))[8:]

    def content(self) -> memoryview:
        return self._inflated(8 + self.length)[8:]

    def _inflated(self, length: int) -> memoryview:
        """The first bytes, in one array that is made before: it takes memory as it is filled."""
        self.file.seek(self.start)
        inflated, place, left = np.empty(length, np.uint8), 0, self.stored
        inflater = zlib.decompressobj()
        while place < length:
            stored = inflater.unconsumed_tail or self.file.read(min(left, PIECE))
            left -= 0 if inflater.unconsumed_tail else len(stored)
            piece = inflater.decompress(stored, min(length - place, 16 * PIECE))
            if not piece and (inflater.eof or not stored):
                raise ValueError("a compressed variable is cut short")
            inflated[place : place + len(piece)] = np.frombuffer(piece, np.uint8)
            place += len(piece)
        return inflated.data


def _element(data: memoryview, place: int, order: str) -> tuple[int, memoryview, int]:
    """The data type and the data of the element at a place, and the place of the next one."""
    if place + 8 > len(data):
        raise ValueError("an array is cut short")
    code, length = struct.unpack_from(order + "II", data, place)
    if code >> 16:  # a small one: type, length and up to four bytes in eight
        code, length = code & 0xFFFF, code >> 16
        first, following = place + 4, place + 8
        fits = length <= 4
    else:
        first = place + 8
        following = first + -(-length // 8) * 8
        fits = first + length <= len(data)
    if not fits:
        raise ValueError("an array is cut short")
    return code, data[first : first + length], following


def _array(data: memoryview, order: str) -> Array:
    """The array of a variable or cell, of which `data` has the header at least."""
    if not len(data):  # how MATLAB stores [] in a cell
        return Array("", "double", (0, 0), data, order)
    _, flags, place = _element(data, 0, order)
    flag = struct.unpack(order + "II", flags)[0] if len(flags) == 8 else 0xFF
    if flag & 0xFF >= len(CLASSES):
        raise ValueError("the header of an array is damaged")
    class_ = ("complex " if flag & COMPLEX else "") + CLASSES[flag & 0xFF]
    shape: tuple[int, ...] = ()
    if class_ != "opaque":  # a string, a table or a date of MATLAB has no shape
        _, sizes, place = _element(data, place, order)
        if len(sizes) % 4 or not 8 <= len(sizes) <= 4 * MAX_DIMENSIONS:
            raise ValueError("the header of an array is damaged")
        shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
        if min(shape) < 0:
            raise ValueError("the header of an array is damaged")
    _, name, place = _element(data, place, order)
    return Array(str(name, "latin-1"), class_, shape, data[place:], order)
