"""The matrix product of the compiled kernels, and the pointers that they work on.

A product C += A B keeps a tile of C in registers: `TILE_ROWS` rows by two or three vectors. The
tile is written in LLVM's own language, with one multiply-add per element in the order of k.
So an element has the same bits in any batch, in any tile and in any thread.

B is packed into panels that are as wide as a tile, (panels, K, width), padded with zeros.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils, config
from numba.extending import intrinsic, overload, register_jitable


def _vector_bytes() -> int:
    """Of the widest registers for which numba makes code here."""
    features = config.CPU_FEATURES  # of the environment, as on clusters of unlike machines
    if features is None:
        features = llvm.get_host_cpu_features().flatten()
    known = set(features.split(","))
    return 64 if "+avx512f" in known else 32 if "+avx2" in known else 16


VECTOR_BYTES = _vector_bytes()
TILE_ROWS = 4 if VECTOR_BYTES == 32 else 8  # AVX2 has 16 registers, the others have 32
UNROLLED = 4  # steps of k in the body of the tile's loop
JIT = {"nogil": True, "error_model": "numpy"}


@intrinsic
def at(typing: Any, memory: Any, start: Any) -> Any:
    """A pointer to element `start` of a contiguous array, or of the memory behind a pointer.

    A slice would count a reference, and would ask at every index whether it is negative. The
    caller keeps the array alive.
    """
    pointer = types.CPointer(memory.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = arguments[0]
        if isinstance(memory, types.Array):
            data = context.make_array(memory)(context, builder, data).data
        return builder.gep(data, [arguments[1]])

    return pointer(memory, types.intp), generate


def number(value: Any, pointer: Any) -> Any:
    """The value in the type that the pointer points to."""
    raise NotImplementedError("only in compiled code")


@overload(number)
def _number(value, pointer):
    kind = pointer.dtype
    return lambda value, pointer: kind(value)


def lanes(pointer: Any) -> int:
    """Numbers in a vector."""
    raise NotImplementedError("only in compiled code")


@overload(lanes)
def _lanes(pointer):
    count = lanes_of(pointer.dtype.bitwidth // 8)
    return lambda pointer: count


def _tile(rows: int, vectors: int) -> Any:
    """The function that adds A (rows, depth) B (depth, width) to a tile of C."""

    @intrinsic
    def tile(
        typing: Any, a: Any, a_row: Any, a_column: Any, b: Any, c: Any, c_row: Any, depth: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _Tile(context, builder, a.dtype.bitwidth, rows, vectors).build(*arguments)
            return context.get_dummy_value()

        size = types.intp
        return types.void(a, size, size, b, c, size, size), generate

    return tile


class _Tile:
    """Writes the instructions of one tile."""

    def __init__(self, context: Any, builder: Any, bits: int, rows: int, vectors: int):
        self.builder, self.vectors = builder, vectors
        self.lanes, self.align = 8 * VECTOR_BYTES // bits, bits // 8
        self.vector = ir.VectorType(context.get_value_type(_float(bits)), self.lanes)
        self.index = context.get_value_type(types.intp)
        name = f"llvm.fmuladd.v{self.lanes}f{bits}"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        self.fma = cgutils.get_or_insert_function(builder.module, kind, name)
        self.sums = [  # LLVM keeps them in registers
            [cgutils.alloca_once(builder, self.vector) for _ in range(vectors)] for _ in range(rows)
        ]

    def build(
        self, a: Any, a_row: Any, a_column: Any, b: Any, c: Any, c_row: Any, depth: Any
    ) -> None:
        builder = self.builder
        tile = [builder.mul(c_row, self._number(r)) for r in range(len(self.sums))]
        for place, sums in zip(tile, self.sums, strict=True):
            for v, total in enumerate(sums):
                builder.store(builder.load(self._vector(c, place, v), align=self.align), total)

        def add_product(k: Any) -> None:
            start = builder.mul(k, self._number(self.lanes * self.vectors))
            columns = [
                builder.load(self._vector(b, start, v), align=self.align)
                for v in range(self.vectors)
            ]
            place = builder.mul(k, a_column)
            for r, sums in enumerate(self.sums):
                here = builder.add(place, builder.mul(a_row, self._number(r)))
                factor = self._repeat(builder.load(builder.gep(a, [here])))
                for column, total in zip(columns, sums, strict=True):
                    value = builder.call(self.fma, [factor, column, builder.load(total)])
                    builder.store(value, total)

        whole = builder.udiv(depth, self._number(UNROLLED))
        with cgutils.for_range(builder, whole) as loop:
            first = builder.mul(loop.index, self._number(UNROLLED))
            for step in range(UNROLLED):
                add_product(builder.add(first, self._number(step)))
        done = builder.mul(whole, self._number(UNROLLED))
        with cgutils.for_range(builder, builder.sub(depth, done)) as loop:
            add_product(builder.add(done, loop.index))
        for place, sums in zip(tile, self.sums, strict=True):
            for v, total in enumerate(sums):
                pointer = self._vector(c, place, v)
                builder.store(builder.load(total), pointer, align=self.align)

    def _number(self, value: int) -> Any:
        return ir.Constant(self.index, value)

    def _vector(self, data: Any, place: Any, number: int) -> Any:
        """A pointer to a vector: `number` vectors after element `place`."""
        place = self.builder.add(place, self._number(number * self.lanes))
        return self.builder.bitcast(self.builder.gep(data, [place]), self.vector.as_pointer())

    def _repeat(self, value: Any) -> Any:
        undefined = ir.Constant(self.vector, ir.Undefined)
        one = self.builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), None)
        return self.builder.shuffle_vector(one, undefined, zeros)


def _float(bits: int) -> Any:
    return types.float32 if bits == 32 else types.float64


_tile2, _tile3, _row2, _row3 = _tile(TILE_ROWS, 2), _tile(TILE_ROWS, 3), _tile(1, 2), _tile(1, 3)


@register_jitable(**JIT)
def lanes_of(itemsize):
    return VECTOR_BYTES // itemsize


@register_jitable(**JIT)
def panel_vectors(columns, lanes):
    """Vectors in a panel's row: three are a little faster, two may waste fewer columns."""
    two, three = 2 * lanes, 3 * lanes
    return 2 if -(-columns // two) * two < -(-columns // three) * three else 3


@register_jitable(**JIT)
def padded(columns, lanes):
    """The columns that whole panels hold."""
    width = lanes * panel_vectors(columns, lanes)
    return (columns + width - 1) // width * width


@njit(**JIT)
def pack(b, row_stride, column_stride, depth, columns, panels, above, height):
    """Write B (depth, columns), given by its strides, to panels of `height` rows below `above`."""
    lane_count = lanes(b)  # a cache line or less
    width = lane_count * panel_vectors(columns, lane_count)
    for first in range(0, padded(columns, lane_count), lane_count):
        used = min(max(columns - first, 0), lane_count)
        for k in range(depth):
            place = (first // width * height + above + k) * width + first % width
            line, source = at(panels, place), at(b, k * row_stride + first * column_stride)
            if column_stride == 1:
                for j in range(used):
                    line[j] = source[j]
            else:
                for j in range(used):
                    line[j] = source[j * column_stride]
            for j in range(used, lane_count):
                line[j] = number(0, line)


@njit(**JIT)
def add_product(a, row_stride, column_stride, rows, panels, depth, columns, c):
    """C += A B for A (rows, depth), given by its strides, and B in panels; C's rows are padded."""
    vectors, c_row = panel_vectors(columns, lanes(a)), padded(columns, lanes(a))
    whole = rows - rows % TILE_ROWS
    for column in range(0, c_row, vectors * lanes(a)):
        b = at(panels, column * depth)
        for i in range(0, whole, TILE_ROWS):
            part, tile = at(a, i * row_stride), at(c, i * c_row + column)
            if vectors == 2:
                _tile2(part, row_stride, column_stride, b, tile, c_row, depth)
            else:
                _tile3(part, row_stride, column_stride, b, tile, c_row, depth)
        for i in range(whole, rows):
            part, tile = at(a, i * row_stride), at(c, i * c_row + column)
            if vectors == 2:
                _row2(part, row_stride, column_stride, b, tile, c_row, depth)
            else:
                _row3(part, row_stride, column_stride, b, tile, c_row, depth)


@njit(**JIT)
def set_zero(memory, size):
    zero = number(0, memory)
    for j in range(size):
        memory[j] = zero
