"""Compiled loops over palettized weights (Numba). Imported when the first of them is needed.

A row of weights is decoded a tile at a time into a buffer that stays in the processor's nearest cache, and
multiplied from there, so that memory only ever moves the packed indices. Four-bit indices, the common case,
are decoded eight at a time by a vector permutation of their table; other widths one by one.

Each row's sum is computed the same way whichever thread does it: results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from converters.mil.types import Array

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Decorator = Callable[[_Function], _Function]

TILE = 1024
"""Weights decoded at a time: 4 KB, an eighth of the smallest first-level cache in use."""

WORD = 16
"""Four-bit indices in the 64-bit word that is decoded at once."""

LANES = 8
"""Of the vectors used. A permutation of eight floats is one instruction from AVX2 on; where there is none, LLVM
makes it eight loads, which is what a loop over a table would do."""


def _compiled(**options: Any) -> _Decorator[Any]:
    """Numba's decorator: compiled at first call, kept on disk between processes, run without Python's lock."""
    decorate: _Decorator[Any] = numba.njit(nogil=True, cache=True, error_model="numpy", **options)
    return decorate


def _vector(element: ir.Type, size: int) -> ir.VectorType:
    return ir.VectorType(element, size)


_INT32, _FLOAT = ir.IntType(32), ir.FloatType()


def _permuted(builder: ir.IRBuilder, table: ir.Value, places: ir.Value) -> ir.Value:
    """`table[places]`, lane by lane; LLVM knows this form for a variable permutation."""
    result: ir.Value = ir.Constant(_vector(_FLOAT, LANES), ir.Undefined)
    for lane in range(LANES):
        number = ir.Constant(_INT32, lane)
        entry = builder.extract_element(table, builder.extract_element(places, number))
        result = builder.insert_element(result, entry, number)
    return result


def _emit_decode(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> ir.Value:
    source, table, target = arguments
    floats, places = _vector(_FLOAT, LANES), _vector(_INT32, LANES)

    def pointer(base: ir.Value, offset: int, kind: ir.Type) -> ir.Value:
        return builder.inttoptr(builder.add(base, ir.Constant(base.type, offset)), kind.as_pointer())

    halves = [builder.load(pointer(table, LANES * 4 * half, floats), align=4) for half in range(2)]
    bytes_ = builder.load(pointer(source, 0, _vector(ir.IntType(8), LANES)), align=1)
    low = builder.and_(bytes_, ir.Constant(bytes_.type, [15] * LANES))
    high = builder.lshr(bytes_, ir.Constant(bytes_.type, [4] * LANES))
    for half in range(2):
        # the elements of a byte are its low and its high four bits, in this order
        order = [lane // 2 + LANES // 2 * half + LANES * (lane % 2) for lane in range(LANES)]
        indices = builder.zext(builder.shuffle_vector(low, high, ir.Constant(places, order)), places)
        place = builder.and_(indices, ir.Constant(places, [LANES - 1] * LANES))
        first = builder.icmp_unsigned("<", indices, ir.Constant(places, [LANES] * LANES))
        values = builder.select(first, *(_permuted(builder, entries, place) for entries in halves))
        builder.store(values, pointer(target, LANES * 4 * half, floats), align=4)
    return context.get_dummy_value()


def _decode_word(_typing: Any, _source: Any, _table: Any, _target: Any) -> Any:
    """Decodes 16 four-bit indices: addresses of 8 bytes, of 16 float32 entries, and of 16 float32 to write."""
    return types.void(types.uintp, types.uintp, types.uintp), _emit_decode


decode_word = intrinsic(_decode_word)


@_compiled()
def _decode(packed: Array, bits: int, begin: int, table: Array, out: Array, count: int) -> None:
    """Writes the `count` weights from element `begin` on to `out`."""
    if bits == 4 and count % WORD == 0 and begin % 2 == 0:
        source, entries, target = packed.ctypes.data + begin // 2, table.ctypes.data, out.ctypes.data
        for word in range(count // WORD):
            decode_word(source + 8 * word, entries, target + 4 * WORD * word)
        return
    mask = (1 << bits) - 1
    for i in range(count):
        bit = (begin + i) * bits
        place, shift = bit >> 3, bit & 7
        value = packed[place] >> shift
        if shift + bits > 8:
            value |= packed[place + 1] << (8 - shift)
        out[i] = table[value & mask]


@_compiled()
def decode_rows(packed: Array, bits: int, tables: Array, rows: int, out: Array, first: int) -> None:
    """Weights of whole rows.

    Args:
        packed: uint8, all indices of the matrix in row-major order, packed from the least significant bit on.
        bits: of an index.
        tables: float32 `(groups, 2**bits)`.
        rows: how many consecutive rows share a table.
        out: float32 `(count, columns)`, written.
        first: number of the first row.
    """
    columns = out.shape[1]
    for i in range(out.shape[0]):
        row = first + i
        _decode(packed, bits, row * columns, tables[row // rows], out[i], columns)


# Sums may be reordered, and so be vectorised; infinities and NaN stay what they are.
@_compiled(fastmath={"reassoc", "contract"})
def _dot(a: Array, b: Array) -> Any:
    total = np.float32(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@_compiled(fastmath={"reassoc", "contract"})
def _dot4(a: Array, x: Array, start: int, totals: Array) -> None:
    """Adds the products with four vectors, for one pass over `a`."""
    b, c, d, e = x[0, start:], x[1, start:], x[2, start:], x[3, start:]
    t0 = t1 = t2 = t3 = np.float32(0)
    for i in range(a.size):
        t0 += a[i] * b[i]
        t1 += a[i] * c[i]
        t2 += a[i] * d[i]
        t3 += a[i] * e[i]
    totals[0] += t0
    totals[1] += t1
    totals[2] += t2
    totals[3] += t3


@_compiled()
def multiply_rows(
    packed: Array, bits: int, tables: Array, rows: int, x: Array, out: Array, first: int, last: int
) -> None:
    """`out[:, first:last] = x @ weight[first:last].T`, see `decode_rows`.

    Args:
        packed: as above.
        bits: as above.
        tables: as above.
        rows: as above.
        x: float32 `(positions, columns)`, contiguous.
        out: float32 `(positions, all rows)`.
        first: the first row to compute.
        last: one past the last.
    """
    positions, columns = x.shape
    buffer, totals = np.empty(TILE, np.float32), np.empty(positions, np.float32)
    for row in range(first, last):
        table = tables[row // rows]
        totals[:] = 0
        for start in range(0, columns, TILE):
            count = min(TILE, columns - start)
            _decode(packed, bits, row * columns + start, table, buffer, count)
            weights = buffer[:count]
            together = positions - positions % 4
            for position in range(0, together, 4):
                _dot4(weights, x[position:], start, totals[position:])
            for position in range(together, positions):
                totals[position] += _dot(weights, x[position, start : start + count])
        for position in range(positions):
            out[position, row] = totals[position]
