"""Write MATLAB files of version 5 byte by byte, right or wrong: what SciPy does not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

CODES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 9, "i8": 12, "u8": 13}
CLASSES = {"f8": 6, "f4": 7, "i1": 8, "u1": 9, "i2": 10, "u2": 11}
CLASSES |= {"i4": 12, "u4": 13, "i8": 14, "u8": 15}
CELL, STRUCT, OBJECT, CHAR, SPARSE, FUNCTION, OPAQUE = 1, 2, 3, 4, 5, 16, 17
MATRIX, COMPRESSED = 14, 15
Damage = Callable[[bytes], bytes]


@dataclass
class Mat5:
    """Makes the bytes of arrays in one order of bytes."""

    order: str = "<"  # or ">"

    def header(self) -> bytes:
        mark = struct.pack(self.order + "HH", 0x0100, 0x4D49)  # "IM" where it is little-endian
        return b"MATLAB 5.0 MAT-file, of the tests".ljust(124) + mark

    def element(self, code: int, data: bytes, small: bool = True) -> bytes:
        if small and 0 < len(data) <= 4:
            return struct.pack(self.order + "I", len(data) << 16 | code) + data.ljust(4, b"\0")
        padding = -len(data) % 8
        return struct.pack(self.order + "II", code, len(data)) + data + bytes(padding)

    def array(
        self, class_: int, shape: Sequence[int], content: bytes, name: str = "", flags: int = 0
    ) -> bytes:
        """An array of any class; `content` are the elements after its header."""
        parts = [
            self.element(6, struct.pack(self.order + "II", class_ | flags << 8, 0)),
            self.element(5, struct.pack(f"{self.order}{len(shape)}i", *shape)),
            self.element(1, name.encode()),
            content,
        ]
        return self.element(MATRIX, b"".join(parts))

    def numbers(self, values: np.ndarray, name: str = "", stored: str | None = None) -> bytes:
        """A numeric array, its numbers in the type `stored`, which MATLAB chooses small."""
        kind = values.dtype.str[1:]
        stored = stored or kind
        data = values.astype(self.order + stored).tobytes(order="F")
        return self.array(CLASSES[kind], values.shape, self.element(CODES[stored], data), name)

    def text(self, rows: Sequence[str], name: str = "", code: int = 16) -> bytes:
        columns = max(map(len, rows), default=0)
        together = "".join("".join(letters) for letters in zip(*rows, strict=True))
        wide = {"<": "-le", ">": "-be"}[self.order]
        encoding = {16: "utf-8", 4: "utf-16" + wide, 17: "utf-16" + wide, 18: "utf-32" + wide}
        data = together.encode(encoding.get(code, "latin-1"))
        return self.array(CHAR, (len(rows), columns), self.element(code, data), name)

    def cells(self, shape: Sequence[int], cells: Sequence[bytes], name: str = "") -> bytes:
        """A cell array of arrays, which come column after column."""
        return self.array(CELL, shape, b"".join(cells), name)

    def compressed(self, element: bytes) -> bytes:
        data = zlib.compress(element)
        return struct.pack(self.order + "II", COMPRESSED, len(data)) + data

    def empty(self) -> bytes:
        """How MATLAB stores [] in a cell."""
        return struct.pack(self.order + "II", MATRIX, 0)

    def any(self, value: np.ndarray | list | str, name: str = "", packed: bool = False) -> bytes:
        """A value as SciPy takes it; `packed` stores whole numbers in the smallest type."""
        values = np.asarray(value, object) if isinstance(value, list) else np.asarray(value)
        if values.dtype == object:
            values = np.atleast_2d(values)
            cells = [self.any(cell, packed=packed) for cell in values.ravel(order="F")]
            return self.cells(values.shape, cells, name)
        if values.dtype.kind in "US":
            return self.text([str(row) for row in values.ravel()], name)
        if values.dtype.kind == "c":
            parts = (values.real, values.imag)
            data = [self.element(9, p.astype(self.order + "f8").tobytes("F")) for p in parts]
            return self.array(6, values.shape, b"".join(data), name, flags=8)
        kind = values.dtype.str[1:]
        if kind not in CLASSES:
            values = values.astype("u1" if values.dtype == bool else "f8")
        values = np.atleast_2d(values)
        whole = packed and values.size and values.min() >= 0 and values.max() < 256
        fits = whole and (values == np.floor(values)).all()
        return self.numbers(values, name, "u1" if fits else None)

    def file(
        self,
        variables: dict[str, np.ndarray],
        compress: bool = False,
        packed: bool = False,
        damage: Damage | None = None,
    ) -> bytes:
        """All variables; `damage` changes each element before it is compressed."""
        elements = [self.any(value, name, packed) for name, value in variables.items()]
        if damage:
            elements = [damage(element) for element in elements]
        if compress:
            elements = [self.compressed(element) for element in elements]
        return self.header() + b"".join(elements)
