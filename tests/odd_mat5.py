"""What a file of version 5 can say to harm a reader, and damage to the bytes of any file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from mat5_files import COMPRESSED, MATRIX, Mat5

Draw = Callable[[st.SearchStrategy], Any]
SIZES = (0, 1, 4, 7, 8, 47, 48, 1000, 2**20, 2**28, 2**31 - 1, 2**31, 2**32 - 1)
SHAPES = ((0, 0), (1,), (), (2**31 - 1, 2**31 - 1), (-1, 5), (-5, -5), (1, 10**6), (2, 2, 2))
SHAPES += ((1,) * 32, (1,) * 40, (65536, 65536), (250_000_000, 1))
NAMES = ("t", "spikes", "chan_names", "finger_pos", "cursor_pos", "target_pos", "other", "x" * 2000)


def odd_element(draw: Draw, mat: Mat5) -> bytes:
    """An element that no program writes."""
    name, shape = draw(st.sampled_from(NAMES)), draw(st.sampled_from(SHAPES))
    content = draw(st.sampled_from([b"", bytes(8), bytes(64), b"\xff" * 64]))
    return draw(
        st.sampled_from(
            [
                lambda: mat.array(draw(st.integers(0, 255)), shape, content, name),
                lambda: mat.array(
                    6, shape, mat.element(9, content), name, draw(st.integers(0, 255))
                ),
                lambda: mat.array(1, shape, nested(mat, draw(st.integers(1, 2000))), name),
                lambda: mat.array(5, (3, 3), 3 * mat.element(5, bytes(16)), name),
                lambda: mat.cells((1, 1000), [mat.empty()] * 1000, name),
                lambda: mat.cells((1000, 200), [mat.empty()] * 200_000, name),
                lambda: struct.pack(mat.order + "II", draw(st.sampled_from([MATRIX, 15, 9])), 0),
                lambda: mat.compressed(mat.compressed(mat.numbers(np.ones((2, 2)), name))),
                lambda: mat.compressed(b""),
                lambda: bomb(draw, mat, name),
                lambda: bytes(draw(st.integers(1, 4000))),
                lambda: bytes(8) * 100_000,
            ]
        )
    )()


def nested(mat: Mat5, depth: int) -> bytes:
    """Cells in cells; each level announces the one inside."""
    content = mat.empty()
    for _ in range(depth):
        content = mat.array(1, (1, 1), content)
    return content


def bomb(draw: Draw, mat: Mat5, name: str) -> bytes:
    """Zeros that compress a thousand times, as the values of an array."""
    values = draw(st.sampled_from([10**5, 10**7]))
    array = mat.array(
        6, (values, 1), mat.element(draw(st.sampled_from([2, 9])), bytes(values)), name
    )
    announced = draw(st.sampled_from([len(array) - 8, 64, 2**32 - 1]))
    inside = struct.pack(mat.order + "II", MATRIX, announced) + array[8:]
    data = zlib.compress(inside, 9)[: draw(st.sampled_from([None, -20, 100]))]
    return struct.pack(mat.order + "II", COMPRESSED, len(data)) + data


def damaged(content: bytes, seed: int, times: int, first: int = 0) -> bytes:
    """Bytes that are damaged at random, at so many places from `first` on."""
    rng, data = np.random.default_rng(seed), bytearray(content)
    for _ in range(times):
        if len(data) <= first + 8:
            break
        kind = rng.integers(10)
        place = int(rng.integers(first, len(data) - 7))
        if kind <= 1:
            data[place] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            data[place] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
        elif kind <= 5:  # a field of a header: a size, a place or a type
            width = int(rng.choice([2, 4, 8]))
            place -= place % width
            value = int(rng.choice([*SIZES, 2**40, 2**62, 2**63 + 5, len(data)])) % 2 ** (8 * width)
            order = "little" if rng.integers(4) else "big"
            data[place : place + width] = value.to_bytes(width, order)
        elif kind == 6:
            length = int(rng.integers(1, 200))
            data[place : place + length] = bytes(len(data[place : place + length]))
        elif kind == 7:
            other, length = int(rng.integers(0, len(data))), int(rng.integers(1, 400))
            data[place : place + length] = data[other : other + length]
        elif kind == 8:
            del data[place : place + int(rng.integers(1, 600))]
        else:
            del data[place:]
    return bytes(data)
