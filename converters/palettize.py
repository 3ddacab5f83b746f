"""Weights as 4-bit indices into look-up tables, one table per group of output channels.

The tables are optimal: one-dimensional k-means has an exact solution, and a group of float16 weights has few
distinct values (a bfloat16 checkpoint has about 3500 per group), so the exact solver runs on a weighted histogram in
a fraction of the time that coremltools needs for its approximate one. The solver is the kmeans1d that coremltools
carries (dynamic programming with SMAWK: Wu, "Optimal quantization by matrix searching", 1991; Gronlund et al.,
arXiv:1701.07204).
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Half = npt.NDArray[np.float16]
Indices = npt.NDArray[np.uint8]

CODES = 1 << 16
"""Number of float16 bit patterns."""

SORT_BELOW = 1 << 14
"""Group size under which sorting beats counting into 65536 bins."""


@dataclass(frozen=True, slots=True)
class Palettization:
    """How the weights of a package are compressed.

    Attributes:
        bits: per index; Core ML has 1, 2, 3, 4, 6 and 8.
        group_size: output channels that share a table; 0 for one table per tensor.
        threshold: tensors with at most this many elements stay as they are (coremltools' default).
    """

    bits: int = 4
    group_size: int = 32
    threshold: int = 2048

    def applies_to(self, shape: tuple[int, ...]) -> bool:
        """Whether a weight of this shape, output channels first, is compressed."""
        size = int(np.prod(shape))
        return len(shape) > 1 and size > self.threshold and shape[0] % (self.group_size or shape[0]) == 0


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


def palettize(weight: Half, scheme: Palettization) -> Palettized:
    """Compress a weight whose first axis is the output channels.

    Deterministic, and optimal in squared error per group up to the float16 rounding of the tables.

    Raises:
        ValueError: the weight is not float16, not finite, or its channels do not divide into groups.
    """
    groups = weight.shape[0] // (scheme.group_size or weight.shape[0])
    if weight.dtype != np.float16 or not scheme.applies_to(weight.shape):
        raise ValueError(f"cannot palettize {weight.dtype} of shape {list(weight.shape)} with {scheme}")
    rows = np.ascontiguousarray(weight).reshape(groups, -1)
    lut = np.empty((groups, 1 << scheme.bits), np.float16)
    indices = np.empty(rows.shape, np.uint8)
    for group in range(groups):
        lut[group], indices[group] = solve_group(rows[group], scheme.bits)
    return Palettized(lut, indices.reshape(weight.shape))


def solve_group(values: Half, bits: int) -> tuple[Half, Indices]:
    """Optimal table for one group.

    Has the shape of coremltools' `lut_function` hook (`OpPalettizerConfig(mode="custom")`) once `bits` is bound.

    Args:
        values: float16, any shape.
        bits: of an index.

    Returns:
        The table, `2**bits` ascending float16 values, and one index per value, flat.
    """
    flat = values.reshape(-1)
    if not np.isfinite(flat).all():
        raise ValueError("a weight is infinite or not a number in float16")
    codes = flat.view(np.uint16)
    distinct, counts = _histogram(codes)
    points = distinct.view(np.float16).astype(np.float64)
    order = np.argsort(points, kind="stable")
    points, counts, distinct = points[order], counts[order], distinct[order]
    entries = 1 << bits
    centroids = points if len(points) <= entries else _cluster(points, counts, entries)
    table = np.sort(centroids.astype(np.float16))
    # The rounded centroids move the borders between clusters; ties go to the smaller entry.
    borders = (table[1:].astype(np.float64) + table[:-1].astype(np.float64)) / 2
    nearest = np.searchsorted(borders, points, side="left").astype(np.uint8)
    by_code = np.zeros(CODES, np.uint8)
    by_code[distinct] = nearest
    padded = np.pad(table, (0, entries - len(table)), mode="edge")
    return padded, by_code[codes]


def _histogram(codes: npt.NDArray[np.uint16]) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float64]]:
    """Distinct bit patterns and how often each occurs."""
    if codes.size < SORT_BELOW:
        distinct, counts = np.unique(codes, return_counts=True)
        return distinct, counts.astype(np.float64)
    bins = np.bincount(codes, minlength=CODES)
    present = np.flatnonzero(bins)
    return present.astype(np.uint16), bins[present].astype(np.float64)


@functools.cache
def _solver() -> ctypes.CDLL:
    # Called through its C symbol: the Python wrapper copies element by element and costs more than the solver.
    from coremltools._deps.kmeans1d import _core

    library = ctypes.cdll.LoadLibrary(_core.__file__)
    library.cluster_with_weights.restype = None
    return library


def _cluster(
    points: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], clusters: int
) -> npt.NDArray[np.float64]:
    """Exact weighted k-means of more points than clusters; `points` ascending."""
    points, weights = np.ascontiguousarray(points), np.ascontiguousarray(weights)
    labels = np.empty(len(points), np.ulonglong)
    centroids = np.empty(clusters, np.float64)
    double, unsigned = ctypes.POINTER(ctypes.c_double), ctypes.POINTER(ctypes.c_ulong)
    _solver().cluster_with_weights(
        points.ctypes.data_as(double),
        weights.ctypes.data_as(double),
        ctypes.c_ulong(len(points)),
        ctypes.c_ulong(clusters),
        labels.ctypes.data_as(unsigned),
        centroids.ctypes.data_as(double),
    )
    return centroids
