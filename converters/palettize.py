"""Weights as 1 to 8-bit indices into look-up tables, one table per group of output channels.

The tables are optimal: one-dimensional k-means has an exact solution, and `converters.kmeans` finds it in less time
than coremltools needs for its approximate one. Weights are read, solved and packed in blocks of whole groups, on all
cores, so that neither a matrix of any size nor its indices are ever in memory as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from converters import kmeans
from converters.errors import RecipeError
from converters.ordered import in_order, usable_cores
from converters.table_store import TableStore, table_key
from converters.weights import Codes, Half, Weight, array_weight, encoding, half_grid, not_finite

Indices = npt.NDArray[np.uint8]
Importance = npt.NDArray[np.float32]

BITS = (1, 2, 3, 4, 6, 8)
"""Of an index; the widths that Core ML has."""

BLOCK = 1 << 22
"""Weights that one thread works on at a time, about: their codes, indices and bytes are 28 MB."""


@dataclass(frozen=True, slots=True)
class Palettization:
    """How the weights of a package are compressed.

    Attributes:
        bits: per index, one of `BITS`.
        group_size: output channels that share a table; 1 for a table per channel, 0 for one per tensor.
        threshold: tensors with at most this many elements stay as they are (coremltools' default).

    Raises:
        ValueError: Core ML has no such indices, or the group size is negative.
    """

    bits: int = 4
    group_size: int = 32
    threshold: int = 2048

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"Core ML has no {self.bits}-bit indices; there are {', '.join(map(str, BITS))}")
        if self.group_size < 0:
            raise ValueError(f"a group of {self.group_size} channels is none; 0 is for one table per tensor")

    def applies_to(self, shape: tuple[int, ...]) -> bool:
        """Whether a weight of this shape, output channels first, is compressed."""
        size = math.prod(shape)
        return len(shape) > 1 and size > self.threshold and shape[0] % (self.group_size or shape[0]) == 0

    def groups(self, shape: tuple[int, ...]) -> int:
        """How many tables a weight of this shape has."""
        return shape[0] // (self.group_size or shape[0])


@dataclass(frozen=True, slots=True)
class Palettized:
    """A compressed weight.

    Attributes:
        lut: `(groups, 2**bits)`, float16, ascending within a group.
        indices: of the weight's shape, uint8 holding values below `2**bits`.
    """

    lut: Half
    indices: Indices

    def dense(self) -> Half:
        """The weight as Core ML decompresses it."""
        groups = self.lut.shape[0]
        flat = self.indices.reshape(groups, -1)
        return np.take_along_axis(self.lut, flat.astype(np.int64), axis=1).reshape(self.indices.shape)


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a compressed weight.

    Attributes:
        lut: tables of the groups that end in this block, `(groups, 2**bits)`, float16.
        indices: one per weight, flat.
    """

    lut: Half
    indices: Indices


def palettize(
    weight: Half, scheme: Palettization, *, importance: npt.ArrayLike | None = None, threads: int | None = None
) -> Palettized:
    """Compress a weight whose first axis is the output channels.

    Deterministic, whatever the number of threads, and optimal in squared error per group up to the float16 rounding
    of the tables.

    Args:
        weight: float16.
        scheme: what to compress to; it must apply to the weight's shape.
        importance: how much the squared error of each weight counts: numbers that are not negative, of a shape that
            broadcasts to the weight's, e.g. `(1, inputs, 1, 1)`. A group in which nothing counts is compressed as if
            everything did.
        threads: to work on; None for as many as there are cores.

    Raises:
        ValueError: the weight is not float16, not finite, or its channels do not divide into groups; the importance
            is negative or not finite.
    """
    if weight.dtype != np.float16 or not scheme.applies_to(weight.shape):
        raise ValueError(f"cannot palettize {weight.dtype} of shape {list(weight.shape)} with {scheme}")
    counts = None
    if importance is not None:
        counts = np.asarray(importance, np.float32)
        if not (np.isfinite(counts).all() and (counts >= 0).all()):
            raise ValueError("importance has values that are negative or not finite")
        counts = np.broadcast_to(counts, weight.shape)
    lut, indices, filled = [], np.empty(weight.size, np.uint8), 0
    try:
        for block in blocks(array_weight("", weight), scheme, importance=counts, threads=threads):
            lut.append(block.lut)
            indices[filled : filled + block.indices.size] = block.indices
            filled += block.indices.size
    except RecipeError as error:
        raise ValueError("a weight is infinite or not a number in float16") from error
    return Palettized(np.concatenate(lut), indices.reshape(weight.shape))


def solve_group(values: Half, bits: int) -> tuple[Half, Indices]:
    """Optimal table for one group.

    Has the shape of coremltools' `lut_function` hook (`OpPalettizerConfig(mode="custom")`) once `bits` is bound.

    Args:
        values: float16, any shape.
        bits: of an index, 1 to 8.

    Returns:
        The table, `2**bits` ascending float16 values, and one index per value, flat.

    Raises:
        ValueError: a value is infinite or not a number.
    """
    codes = np.ascontiguousarray(values).reshape(1, 1, -1).view(np.uint16)
    try:
        block = _solve(codes, "float16", 1 << bits, None)
    except FloatingPointError as error:
        raise ValueError("a weight is infinite or not a number in float16") from error
    return block.lut[0], block.indices


def blocks(
    weight: Weight,
    scheme: Palettization,
    *,
    importance: Importance | None = None,
    threads: int | None = None,
    store: TableStore | None = None,
) -> Iterator[Block]:
    """Compress a weight block by block, reading it as it goes along.

    Args:
        weight: of a shape that the scheme applies to.
        scheme: what to compress to.
        importance: of the weight's shape; None if all weights count the same.
        threads: to work on; None for as many as there are cores.
        store: of tables, in which those are looked for before they are solved, and kept. Not those of groups that are
            larger than a block: solving one takes no time beside counting it.

    Returns:
        Blocks in order.

    Raises:
        RecipeError: a value is infinite or not a number in float16.
    """
    threads = threads or usable_cores()
    if importance is not None:
        importance = importance.reshape(weight.shape[0], weight.row_size)
    groups = scheme.groups(weight.shape)
    rows = weight.shape[0] // groups
    if rows * weight.row_size > BLOCK:
        for group in range(groups):
            yield from _large_group(weight, (group * rows, (group + 1) * rows), 1 << scheme.bits, importance, threads)
        return
    # As many as fit; fewer, if some threads would have none. How many there are does not change what is in them.
    together = max(1, min(BLOCK // (rows * weight.row_size), -(-groups // (2 * threads))))
    spans = [(start * rows, min(start + together, groups) * rows) for start in range(0, groups, together)]
    yield from in_order(partial(_whole_groups, weight, rows, 1 << scheme.bits, importance, store), spans, threads)


def _whole_groups(
    weight: Weight,
    rows: int,
    entries: int,
    importance: Importance | None,
    store: TableStore | None,
    span: tuple[int, int],
) -> Block:
    start, stop = span
    codes, _ = weight.codes(start, stop)
    shape = ((stop - start) // rows, rows, weight.row_size)
    counts = None if importance is None else np.ascontiguousarray(importance[start:stop]).reshape(shape)
    try:
        return _solve(codes.reshape(shape), weight.dtype, entries, counts, store)
    except FloatingPointError as error:
        raise not_finite(weight.name) from error


def _solve(
    codes: Codes, dtype: str, entries: int, importance: Importance | None, store: TableStore | None = None
) -> Block:
    """Solve groups, or find their tables in the store; `codes` is `(groups, rows, columns)`.

    Raises:
        FloatingPointError: a weight is not finite.
    """
    meaning = encoding(dtype)
    tables = np.empty((codes.shape[0], entries), np.uint16)
    known = np.zeros(codes.shape[0], np.bool_)
    keys = [] if store is None else _keys(codes, dtype, entries, importance)
    for group, table in enumerate(store.find(keys) if store is not None else ()):
        if table is not None:
            tables[group], known[group] = np.frombuffer(table, "<u2"), True
    indices = np.empty(codes.shape, np.uint8)
    everything_counts = np.empty((0, 0, 0), np.float32)
    broken = kmeans.solve_groups(
        codes,
        everything_counts if importance is None else importance,
        known,
        meaning.order,
        meaning.values,
        encoding("float16").values,
        *half_grid(),
        tables,
        indices,
    )
    if broken >= 0:
        raise FloatingPointError
    if store is not None and not known.all():
        store.keep({keys[group]: tables[group].astype("<u2").tobytes() for group in np.flatnonzero(~known)})
    return Block(tables.view(np.float16), indices.reshape(-1))


def _keys(codes: Codes, dtype: str, entries: int, importance: Importance | None) -> list[bytes]:
    """What the tables of groups are kept under."""
    means = "bfloat16" if dtype == "bfloat16" else "float16"  # float32 has been rounded
    counts = [None] * len(codes) if importance is None else importance
    return [table_key(group, means, entries, count) for group, count in zip(codes, counts, strict=True)]


def _large_group(
    weight: Weight, span: tuple[int, int], entries: int, importance: Importance | None, threads: int
) -> Iterator[Block]:
    """One group that is larger than a block: counted in parts, solved, and read once more for its indices."""
    step = max(1, BLOCK // weight.row_size)  # whatever `threads` is: the sums of importances depend on it
    spans = [(start, min(start + step, span[1])) for start in range(*span, step)]
    meaning = encoding(weight.dtype)

    def count(part: tuple[int, int]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64] | None]:
        codes, _ = weight.codes(*part)
        counts = np.zeros(kmeans.CODES, np.uint32)
        kmeans.count(codes.reshape(-1), counts)
        if importance is None:
            return counts, None
        mass = np.zeros(kmeans.CODES)
        kmeans.weigh(codes, np.ascontiguousarray(importance[slice(*part)]), mass)
        return counts, mass

    counts, mass = np.zeros(kmeans.CODES, np.int64), np.zeros(kmeans.CODES)
    for some, heavy in in_order(count, spans, threads):
        counts += some
        if heavy is not None:
            mass += heavy
    occurs = np.empty(kmeans.CODES, np.uint16)
    occurs = occurs[: kmeans.occurring((counts > 0).astype(np.uint32), occurs)]
    if not kmeans.all_finite(occurs, meaning.order):
        raise not_finite(weight.name)
    masses = mass[occurs] if mass.any() else counts[occurs].astype(np.float64)
    table, index = np.empty(entries, np.uint16), np.empty(kmeans.CODES, np.uint8)
    kmeans.solve(occurs, masses, meaning.values, *half_grid(), table)
    kmeans.assign(occurs, meaning.values, encoding("float16").values[table], index)

    def look_up(part: tuple[int, int]) -> Indices:
        codes, _ = weight.codes(*part)
        indices = np.empty(codes.size, np.uint8)
        kmeans.look_up(codes.reshape(-1), index, indices)
        return indices

    lut = table.view(np.float16)[None]
    for number, indices in enumerate(in_order(look_up, spans, threads)):
        yield Block(lut if number == len(spans) - 1 else lut[:0], indices)
