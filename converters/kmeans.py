"""One-dimensional k-means of 16-bit weights, exactly, at the speed at which they can be counted.

A group of 16-bit weights has few distinct values, so it is counted first and solved as a weighted histogram. Optimal
clusters are runs of the sorted values, and the sum of squares within a run is what is left of the group's after
(sum of values)^2 / (number of values) of each run is taken away. So the best runs are found by dynamic programming:
`gain[m][i] = max over j of gain[m - 1][j] + (S[i] - S[j])^2 / (W[i] - W[j])`, with S and W the running sums of values
and numbers. The best j never falls when i rises, nor when m does (Wu, "Optimal quantization by matrix searching",
1991; Gronlund et al., arXiv:1701.07204), so each row is filled from its middle outwards, level by level, and hardly
looks at any j that cannot win.

Everything here is compiled by Numba, releases the GIL and keeps no state: threads work on groups side by side. Nothing
is summed in an order that depends on how many threads there are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint16]
Doubles = npt.NDArray[np.float64]

CODES = 1 << 16
"""Number of 16-bit patterns."""

NEGATIVE_ZERO = 0x8000

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])


def compiled(function: _Kernel) -> _Kernel:
    """Compile on first use, kept on disk for the next process where there is a place for it."""
    with contextlib.suppress(RuntimeError):  # Numba finds no folder that it may write to
        cached: _Kernel = numba.njit(nogil=True, error_model="numpy", cache=True)(function)
        return cached
    plain: _Kernel = numba.njit(nogil=True, error_model="numpy")(function)
    return plain


@compiled
def count(codes: Codes, counts: npt.NDArray[np.uint32]) -> None:
    """Add how often each code occurs in `codes`, of one dimension, to `counts`."""
    for code in codes:
        counts[code] += np.uint32(1)


@compiled
def weigh(codes: Codes, importance: npt.NDArray[np.float32], mass: Doubles) -> None:
    """Add the importance of each code's weights to `mass`; `codes` and `importance` have two dimensions."""
    for row in range(codes.shape[0]):
        for column in range(codes.shape[1]):
            mass[codes[row, column]] += importance[row, column]


@compiled
def gather(mass: Doubles, order: Codes, values: Doubles, points: Doubles, masses: Doubles) -> int:
    """The distinct values of a group in ascending order, and their mass.

    Args:
        mass: per code.
        order: codes of finite numbers in ascending order of their value.
        values: value per code.
        points: receives the values.
        masses: receives their masses, all above 0.

    Returns:
        How many there are.
    """
    found = 0
    for code in order:
        if mass[code] > 0:
            value = values[code]
            if found and points[found - 1] == value:  # both zeros; codes that are one value in float16
                masses[found - 1] += mass[code]
            else:
                points[found] = value
                masses[found] = mass[code]
                found += 1
    return found


@compiled
def cluster(points: Doubles, masses: Doubles, centroids: Doubles) -> None:
    """Exact weighted k-means of more points than clusters, points ascending.

    Args:
        points: distinct values.
        masses: above 0.
        centroids: receives the means of the clusters, ascending.
    """
    size, clusters = points.size, centroids.size
    total, moment = np.zeros(size + 1), np.zeros(size + 1)
    for i in range(size):
        total[i + 1] = total[i] + masses[i]
        moment[i + 1] = moment[i] + masses[i] * points[i]
    before, gain = np.zeros(size + 1), np.zeros(size + 1)
    # start[m, i]: where the last of m + 1 clusters of the first i points starts. Fits: there are fewer codes.
    start = np.zeros((clusters, size + 1), np.uint16)
    for i in range(1, size + 1):
        before[i] = moment[i] * moment[i] / total[i]
    top = 1
    while top <= size:
        top *= 2
    for m in range(1, clusters - 1):
        step = top
        while step >= 1:
            for i in range(step, size + 1, 2 * step):
                if i > m:
                    low = max(m, int(start[m - 1, i]))
                    if i - step > m:
                        low = max(low, int(start[m, i - step]))
                    high = i - 1
                    if i + step <= size:
                        high = min(high, int(start[m, i + step]))
                    _best(i, low, high, before, total, moment, gain, start[m])
            step //= 2
        before[:] = gain
    if clusters > 1:
        last = clusters - 1
        _best(size, max(last, int(start[last - 1, size])), size - 1, before, total, moment, gain, start[last])
    end = size
    for m in range(clusters - 1, -1, -1):
        begin = int(start[m, end])
        centroids[m] = (moment[end] - moment[begin]) / (total[end] - total[begin])
        end = begin


@compiled
def _best(
    i: int, low: int, high: int, before: Doubles, total: Doubles, moment: Doubles, gain: Doubles, start: Codes
) -> None:
    """Where the last cluster of the first `i` points starts; the first of several that are as good."""
    most, at = -1.0, low
    for j in range(low, high + 1):
        sum_ = moment[i] - moment[j]
        value = before[j] + sum_ * sum_ / (total[i] - total[j])
        if value > most:
            most, at = value, j
    gain[i] = most
    start[i] = at


@compiled
def nearest_half(value: float, grid: Doubles, grid_codes: Codes) -> int:
    """Where in `grid` the float16 nearest to a value lies; ties to the even code, as NumPy and hardware round."""
    above = int(np.searchsorted(grid, value))
    if grid[above] == value:
        return above
    middle = (grid[above - 1] + grid[above]) / 2
    if value < middle or (value == middle and grid_codes[above - 1] % 2 == 0):
        return above - 1
    return above


@compiled
def solve(
    mass: Doubles,
    order: Codes,
    values: Doubles,
    grid: Doubles,
    grid_codes: Codes,
    table: Codes,
    index: npt.NDArray[np.uint8],
) -> None:
    """The table of a group that has been counted, and the index of each code.

    Args:
        mass: per code; above 0 for one at least.
        order: as in `gather`.
        values: as in `gather`.
        grid: all finite float16 values, ascending, zero once.
        grid_codes: their codes.
        table: receives float16 codes, ascending; the last one repeats if there are fewer values than entries.
        index: receives, for every code in `order`, the nearest entry; of two as near, the smaller one.
    """
    entries = table.size
    points, masses = np.empty(order.size), np.empty(order.size)
    found = gather(mass, order, values, points, masses)
    filled = min(found, entries)
    centroids = points[:filled]
    if found > entries:
        centroids = np.empty(entries)
        cluster(points[:found], masses[:found], centroids)
    rounded = np.empty(filled)
    for entry in range(entries):
        if entry < filled:
            position = nearest_half(centroids[entry], grid, grid_codes)
            rounded[entry] = grid[position]
            table[entry] = grid_codes[position]
            if grid[position] == 0 and centroids[entry] < 0:
                table[entry] = NEGATIVE_ZERO
        else:
            table[entry] = table[filled - 1]
    # The rounded centroids have other borders between them.
    entry = 0
    for code in order:
        while entry < filled - 1 and values[code] > (rounded[entry] + rounded[entry + 1]) / 2:
            entry += 1
        index[code] = entry


@compiled
def solve_groups(
    codes: Codes,
    importance: npt.NDArray[np.float32],
    order: Codes,
    values: Doubles,
    grid: Doubles,
    grid_codes: Codes,
    tables: Codes,
    indices: npt.NDArray[np.uint8],
) -> int:
    """Solve groups one after the other.

    Args:
        codes: `(groups, rows, columns)`.
        importance: of the same shape, or empty: all weights count the same. Nowhere negative.
        order: as in `solve`.
        values: as in `solve`.
        grid: as in `solve`.
        grid_codes: as in `solve`.
        tables: `(groups, entries)`, receives the float16 codes of the tables.
        indices: of the shape of `codes`, receives the indices.

    Returns:
        The first group with a code that is not in `order`, that is with a weight that is no number; -1 if there is
        none.
    """
    counts = np.zeros(CODES, np.uint32)
    mass = np.zeros(CODES)
    index = np.zeros(CODES, np.uint8)
    for group in range(codes.shape[0]):
        counts[:] = 0
        flat = codes[group].reshape(-1)
        count(flat, counts)
        finite = 0
        for code in order:
            finite += counts[code]
        if finite != flat.size:
            return group
        mass[:] = 0
        if importance.size:
            weigh(codes[group], importance[group], mass)
        if not mass.any():
            mass[:] = counts
        solve(mass, order, values, grid, grid_codes, tables[group], index)
        look_up(flat, index, indices[group].reshape(-1))
    return -1


@compiled
def look_up(codes: Codes, index: npt.NDArray[np.uint8], indices: npt.NDArray[np.uint8]) -> None:
    """The index of each weight."""
    for i in range(codes.size):
        indices[i] = index[codes[i]]


@compiled
def pack(indices: npt.NDArray[np.uint8], bits: int, packed: npt.NDArray[np.uint8]) -> None:
    """Put the lowest `bits` bits of values side by side, from the least significant one on, across byte boundaries.

    Args:
        indices: flat; integers in two's complement may be negative.
        bits: 1 to 8.
        packed: of `ceil(indices.size * bits / 8)` bytes; what is left of the last one is 0.
    """
    at = 0
    if bits == 4:  # what everybody uses, and this loop is vectorised
        at = indices.size // 2
        for i in range(at):
            packed[i] = (indices[2 * i] & 15) | (indices[2 * i + 1] << 4)
        if indices.size % 2:
            packed[at] = indices[2 * at] & 15
        return
    held = filled = 0
    mask = (1 << bits) - 1
    for value in indices:
        held |= (int(value) & mask) << filled
        filled += bits
        while filled >= 8:
            packed[at] = held & 0xFF
            at += 1
            held >>= 8
            filled -= 8
    if filled:
        packed[at] = held
