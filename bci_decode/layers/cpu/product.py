"""The matrix product of the compiled kernels, and views of rows that cost nothing.

A product C += A B keeps a tile of C in registers: `TILE_ROWS` rows by two or three vectors. The
tile is written in LLVM's own language, with one fused multiply-add per element in the order of k.
So an element has the same bits in any batch, in any tile and in any thread.

B is packed into panels that are as wide as a tile, (panels, K, width), padded with zeros.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

FEATURES = llvm.get_host_cpu_features()
VECTOR_BYTES = 64 if FEATURES.get("avx512f") else 32 if FEATURES.get("avx2") else 16
TILE_ROWS = 4 if VECTOR_BYTES == 32 else 8  # AVX2 has 16 registers, the others have 32
UNROLLED = 4  # steps of k in the body of the tile's loop
JIT = {"nogil": True, "error_model": "numpy"}


@intrinsic
def row(typing: Any, array: Any, start: Any, length: Any) -> Any:
    """The view array[start:start + length] of a contiguous array's elements, without bookkeeping.

    A slice would count a reference, which costs as much as ten elements. The caller keeps the
    array alive.
    """
    view = types.Array(array.dtype, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source = context.make_array(array)(context, builder, arguments[0])
        result = context.make_array(view)(context, builder)
        size = context.get_constant(types.intp, array.dtype.bitwidth // 8)
        context.populate_array(
            result,
            data=builder.gep(source.data, [arguments[1]]),
            shape=[arguments[2]],
            strides=[size],
            itemsize=size,
            meminfo=None,
        )
        return result._getvalue()

    return view(array, types.intp, types.intp), generate


def _tile(rows: int, vectors: int) -> Any:
    """The function that adds A (rows, depth) B (depth, width) to a tile of C."""

    @intrinsic
    def tile(
        typing: Any, a: Any, a_start: Any, a_row: Any, a_column: Any, b: Any, b_start: Any,
        c: Any, c_start: Any, c_row: Any, depth: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            arrays = zip((a, b, c), (arguments[0], arguments[4], arguments[6]), strict=True)
            data = [context.make_array(kind)(context, builder, v).data for kind, v in arrays]
            places = [*arguments[1:4], arguments[5], *arguments[7:]]
            _Tile(context, builder, a.dtype.bitwidth, rows, vectors, data).build(*places)
            return context.get_dummy_value()

        number = types.intp
        return types.void(a, number, number, number, b, number, c, number, number, number), generate

    return tile


class _Tile:
    """Writes the instructions of one tile."""

    def __init__(
        self, context: Any, builder: Any, bits: int, rows: int, vectors: int, data: list[Any]
    ):
        self.builder, self.vectors, (self.a, self.b, self.c) = builder, vectors, data
        self.lanes, self.align = 8 * VECTOR_BYTES // bits, bits // 8
        self.vector = ir.VectorType(context.get_value_type(_float(bits)), self.lanes)
        self.index = context.get_value_type(types.intp)
        name = f"llvm.fma.v{self.lanes}f{bits}"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        self.fma = cgutils.get_or_insert_function(builder.module, kind, name)
        self.sums = [  # LLVM keeps them in registers
            [cgutils.alloca_once(builder, self.vector) for _ in range(vectors)] for _ in range(rows)
        ]

    def build(
        self, a_start: Any, a_row: Any, a_column: Any, b_start: Any, c_start: Any, c_row: Any,
        depth: Any,
    ) -> None:  # fmt: skip
        builder, width = self.builder, self.lanes * self.vectors
        tiles = [
            self._plus(c_start, builder.mul(c_row, self._number(r))) for r in range(len(self.sums))
        ]
        for place, sums in zip(tiles, self.sums, strict=True):
            for v, total in enumerate(sums):
                builder.store(self._load(self.c, self._plus(place, v * self.lanes)), total)

        def add_product(k: Any) -> None:
            start = self._plus(b_start, builder.mul(k, self._number(width)))
            columns = [
                self._load(self.b, self._plus(start, v * self.lanes)) for v in range(self.vectors)
            ]
            place = self._plus(a_start, builder.mul(k, a_column))
            for r, sums in enumerate(self.sums):
                at = self._plus(place, builder.mul(a_row, self._number(r)))
                factor = self._repeat(builder.load(builder.gep(self.a, [at])))
                for column, total in zip(columns, sums, strict=True):
                    value = builder.call(self.fma, [factor, column, builder.load(total)])
                    builder.store(value, total)

        whole = builder.udiv(depth, self._number(UNROLLED))
        with cgutils.for_range(builder, whole) as loop:
            first = builder.mul(loop.index, self._number(UNROLLED))
            for step in range(UNROLLED):
                add_product(self._plus(first, step))
        done = builder.mul(whole, self._number(UNROLLED))
        with cgutils.for_range(builder, builder.sub(depth, done)) as loop:
            add_product(builder.add(done, loop.index))
        for place, sums in zip(tiles, self.sums, strict=True):
            for v, total in enumerate(sums):
                pointer = self._pointer(self.c, self._plus(place, v * self.lanes))
                builder.store(builder.load(total), pointer, align=self.align)

    def _number(self, value: int) -> Any:
        return ir.Constant(self.index, value)

    def _plus(self, a: Any, b: Any) -> Any:
        return self.builder.add(a, self._number(b) if isinstance(b, int) else b)

    def _pointer(self, data: Any, place: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(data, [place]), self.vector.as_pointer())

    def _load(self, data: Any, place: Any) -> Any:
        return self.builder.load(self._pointer(data, place), align=self.align)

    def _repeat(self, value: Any) -> Any:
        undefined = ir.Constant(self.vector, ir.Undefined)
        one = self.builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), None)
        return self.builder.shuffle_vector(one, undefined, zeros)


def _float(bits: int) -> Any:
    return types.float32 if bits == 32 else types.float64


_tile2, _tile3, _row2, _row3 = _tile(TILE_ROWS, 2), _tile(TILE_ROWS, 3), _tile(1, 2), _tile(1, 3)


@register_jitable(**JIT)
def panel_vectors(columns, lanes):
    """Vectors in a panel's row: three are a little faster, two may waste fewer columns."""
    two, three = 2 * lanes, 3 * lanes
    return 2 if -(-columns // two) * two < -(-columns // three) * three else 3


@register_jitable(**JIT)
def padded(columns, itemsize):
    """The columns that whole panels hold."""
    lanes = VECTOR_BYTES // itemsize
    width = lanes * panel_vectors(columns, lanes)
    return (columns + width - 1) // width * width


@njit(**JIT)
def pack(b, start, row_stride, column_stride, depth, columns, panels, above, height):
    """Write B (depth, columns), given by its strides, to panels of `height` rows below `above`."""
    lanes = VECTOR_BYTES // b.itemsize
    width = lanes * panel_vectors(columns, lanes)
    for first in range(0, padded(columns, b.itemsize), lanes):  # a vector is a cache line or less
        panel = first // width
        used = min(max(columns - first, 0), lanes)
        for k in range(depth):
            line = row(panels, (panel * height + above + k) * width + first % width, lanes)
            source = start + k * row_stride + first * column_stride
            for j in range(used):
                line[j] = b[source + j * column_stride]
            for j in range(used, lanes):
                line[j] = 0


@njit(**JIT)
def add_product(a, start, row_stride, column_stride, rows, panels, depth, columns, c):
    """C += A B for A (rows, depth), given by its strides, and B in panels; C's rows are padded."""
    lanes = VECTOR_BYTES // a.itemsize
    vectors, c_row = panel_vectors(columns, lanes), padded(columns, a.itemsize)
    whole = rows - rows % TILE_ROWS
    for column in range(0, c_row, vectors * lanes):
        b = column * depth
        for i in range(0, whole, TILE_ROWS):
            at, to = start + i * row_stride, i * c_row + column
            if vectors == 2:
                _tile2(a, at, row_stride, column_stride, panels, b, c, to, c_row, depth)
            else:
                _tile3(a, at, row_stride, column_stride, panels, b, c, to, c_row, depth)
        for i in range(whole, rows):
            at, to = start + i * row_stride, i * c_row + column
            if vectors == 2:
                _row2(a, at, row_stride, column_stride, panels, b, c, to, c_row, depth)
            else:
                _row3(a, at, row_stride, column_stride, panels, b, c, to, c_row, depth)
