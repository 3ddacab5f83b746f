"""One-dimensional k-means of 16-bit weights, exactly, at the speed at which they can be counted.

A group of 16-bit weights has few distinct values, so it is counted first and solved as a weighted histogram. Optimal
clusters are runs of the sorted values, and the sum of squares within a run is what is left of the group's after
gain(j, i) = (sum of values j to i)^2 / (number of values) of each run is taken away. The runs with the largest gain
are found in two steps:

1. Each run is made to cost a penalty. Without a number of runs to keep to, a single pass finds the best runs of all
   beginnings of the values, because a later start, once it wins, wins for good (`_penalised`). The larger the penalty,
   the fewer runs; a few passes bring them to the number wanted or next to it. The runs found are the best for their
   number (Aggarwal, Schieber and Tokuyama, "Finding a minimum-weight k-link path in graphs with the concave Monge
   property", 1994).
2. Between the borders of the best l runs lie those of the best k: the m-th between the m-th and the one l - k further.
   Dynamic programming over what lies between them finds the best k runs (`_within`), and has nothing left to decide
   if l is k. There, too, the best start never falls when the end rises (Wu, "Optimal quantization by matrix
   searching", 1991; Gronlund et al., arXiv:1701.07204), so each row is filled from its middle outwards.

Where the first step ends decides how long the second one takes, not what it finds.

Everything here is compiled by Numba, releases the GIL and keeps no state: threads work on groups side by side. It is
in one file because Numba compiles anew when a function's file has changed, not when that of one that it calls has.
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
Places = npt.NDArray[np.int32]
"""Numbers of points, counted from the first one: where runs start and end."""

CODES = 1 << 16
"""Number of 16-bit patterns."""

NEGATIVE_ZERO = 0x8000

BLOCK = 64
"""Codes that are passed over together if none of them occurs."""

LEAST_MASS = 2.0**-46
"""Of a point, as part of all: less is counted as this much, as it would be lost in sums of 53 bits. Importances may be
as small as they like."""

PASSES = 8
"""Of the search for the number of clusters, at most. One or two are usual, as the error of weights hardly differs from
that of a smooth density."""

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
def occurring(counts: npt.NDArray[np.uint32], codes: Codes) -> int:
    """The codes that occur, in ascending order of their value: sign and magnitude, so negative ones backwards.

    Args:
        counts: per code.
        codes: receives them; those that are no finite numbers come first and last.

    Returns:
        How many there are.
    """
    found = 0
    blocks = counts.reshape(-1, BLOCK)
    for block in range(len(blocks)):
        negative = block < len(blocks) // 2
        place = len(blocks) - 1 - block if negative else block - len(blocks) // 2
        if _nothing(blocks[place]):
            continue
        for i in range(BLOCK):
            code = place * BLOCK + (BLOCK - 1 - i if negative else i)
            if counts[code]:
                codes[found] = code
                found += 1
    return found


@compiled
def _nothing(counts: npt.NDArray[np.uint32]) -> bool:
    """Whether all are 0: without a way out of the loop, which is how it is vectorised."""
    some = np.uint32(0)
    for number in counts:
        some |= number
    return bool(some == 0)


@compiled
def gather(codes: Codes, masses: Doubles, values: Doubles, points: Doubles, together: Doubles) -> int:
    """The distinct values of a group in ascending order, and their mass.

    Args:
        codes: in ascending order of their value.
        masses: of each; those of mass 0 are left out.
        values: value per code.
        points: receives the values.
        together: receives their masses, all above 0.

    Returns:
        How many there are.
    """
    found = 0
    for i in range(codes.size):
        if masses[i] > 0:
            value = values[codes[i]]
            if found and points[found - 1] == value:  # both zeros; codes that are one value in float16
                together[found - 1] += masses[i]
            else:
                points[found] = value
                together[found] = masses[i]
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
    square, least = 0.0, masses.sum() * LEAST_MASS
    for i in range(size):
        mass = max(masses[i], least)
        total[i + 1] = total[i] + mass
        moment[i + 1] = moment[i] + mass * points[i]
        square += mass * points[i] * points[i]
    borders = _within(_near(clusters, square, total, moment), clusters, total, moment)
    for m in range(clusters):
        begin, end = borders[m], borders[m + 1]
        centroids[m] = (moment[end] - moment[begin]) / (total[end] - total[begin])


@compiled
def _near(clusters: int, square: float, total: Doubles, moment: Doubles) -> Places:
    """The borders of the best runs of some number near the one wanted, from 0 to the number of points.

    Args:
        clusters: wanted.
        square: gain of as many runs as points.
        total: running sum of masses.
        moment: running sum of values.
    """
    size = total.size - 1
    nearest = np.array([0, size], np.int32)
    if clusters <= 2:  # for which the other step has next to nothing to do
        return nearest
    gain, start = np.empty(size + 1), np.empty(size + 1, np.int32)
    candidates, wins = np.empty(size + 1, np.int32), np.empty(size + 1, np.int32)
    # The best runs known of fewer than wanted, and of more.
    few, few_gain, few_penalty = 1, moment[size] * moment[size] / total[size], np.inf
    many, many_gain, many_penalty = size, square, 0.0
    # The error falls with the square of the number of runs; of a normal density it is 2.7 of the variance for one.
    penalty = 6.0 * (square - few_gain) / clusters**3
    for _ in range(PASSES):
        if not many_penalty < penalty < few_penalty:
            penalty = (many_gain - few_gain) / (many - few)  # at which both are as good
        found = _penalised(penalty, total, moment, gain, start, candidates, wins)
        if abs(found - clusters) < abs(nearest.size - 1 - clusters):
            nearest = np.empty(found + 1, np.int32)
            nearest[found] = size
            for m in range(found - 1, -1, -1):
                nearest[m] = start[nearest[m + 1]]
        if abs(found - clusters) <= 1:
            break
        if found < clusters:
            few, few_gain, few_penalty = found, gain[size] + found * penalty, penalty
        else:
            many, many_gain, many_penalty = found, gain[size] + found * penalty, penalty
        penalty *= (found / clusters) ** 3
    return nearest


@compiled
def _gain(j: int, i: int, gain: Doubles, total: Doubles, moment: Doubles) -> float:
    """Gain of the first `i` points if their last run starts at `j`."""
    sum_ = moment[i] - moment[j]
    return float(gain[j] + sum_ * sum_ / (total[i] - total[j]))


@compiled
def _penalised(
    penalty: float,
    total: Doubles,
    moment: Doubles,
    gain: Doubles,
    start: Places,
    candidates: Places,
    wins: Places,
) -> int:
    """The best runs of any number, each of which costs `penalty`.

    Args:
        penalty: what each run costs.
        total: running sum of masses.
        moment: running sum of values.
        gain: receives the gain of the first i points.
        start: receives where their last run starts.
        candidates: scratch; starts that win for some end to come, in the order in which they do.
        wins: scratch; the first end for which each of them does.

    Returns:
        The number of runs.
    """
    size = total.size - 1
    gain[0] = 0.0
    candidates[0], wins[0] = 0, 1
    first = last = 0
    for i in range(1, size + 1):
        while first < last and wins[first + 1] <= i:
            first += 1
        start[i] = candidates[first]
        gain[i] = _gain(candidates[first], i, gain, total, moment) - penalty
        # As a start, `i` beats the last candidates from some end on. Those that it beats as soon as they win are out.
        end = i + 1
        while last >= first:
            end = max(i + 1, int(wins[last]))
            if end > size or _gain(i, end, gain, total, moment) <= _gain(candidates[last], end, gain, total, moment):
                break
            last -= 1
        if last >= first:
            end = _overtaking(i, int(candidates[last]), end, gain, total, moment)
        if end <= size:
            last += 1
            candidates[last], wins[last] = i, end
    runs, end = 0, size
    while end > 0:
        runs, end = runs + 1, int(start[end])
    return runs


@compiled
def _overtaking(j: int, rival: int, low: int, gain: Doubles, total: Doubles, moment: Doubles) -> int:
    """The first end beyond `low` for which a start `j` beats an earlier one; one more than there are if there is none.

    It is near, as a rule, so steps grow from `low` on before they shrink.
    """
    size = total.size - 1
    step, high = 1, low + 1
    while high <= size and _gain(j, high, gain, total, moment) <= _gain(rival, high, gain, total, moment):
        low, step = high, 2 * step
        high = low + step
    high = min(high, size + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if _gain(j, middle, gain, total, moment) > _gain(rival, middle, gain, total, moment):
            high = middle
        else:
            low = middle
    return high


@compiled
def _within(near: Places, clusters: int, total: Doubles, moment: Doubles) -> Places:
    """The borders of the best runs, from 0 to the number of points.

    Args:
        near: the borders of the best runs of any other number.
        clusters: how many runs there are to be.
        total: running sum of masses.
        moment: running sum of values.
    """
    size, runs = total.size - 1, near.size - 1
    lows, highs = np.empty(clusters + 1, np.int32), np.empty(clusters + 1, np.int32)
    for m in range(clusters + 1):
        one, other = min(m, runs), min(max(m + runs - clusters, 0), runs)
        lows[m] = max(m, near[min(one, other)])
        highs[m] = min(size - (clusters - m), near[max(one, other)])
    before, gain = np.empty(size + 1), np.empty(size + 1)
    # start[m, i]: where the last of m runs starts that end at the i-th place within their limits
    start = np.zeros((clusters + 1, 1 + (highs - lows).max()), np.int32)
    for i in range(lows[1], highs[1] + 1):
        before[i] = moment[i] * moment[i] / total[i]
    for m in range(2, clusters + 1):
        low, count = lows[m], 1 + highs[m] - lows[m]
        step = 1
        while 2 * step <= count:
            step *= 2
        while step >= 1:
            for at in range(step - 1, count, 2 * step):
                first = int(start[m, at - step]) if at >= step else int(lows[m - 1])
                last = min(int(highs[m - 1]), low + at - 1)
                if at + step < count:
                    last = min(last, int(start[m, at + step]))
                _best(low + at, first, last, before, total, moment, gain, start[m, at:])
            step //= 2
        before, gain = gain, before
    borders = np.empty(clusters + 1, np.int32)
    borders[clusters] = size
    for m in range(clusters, 0, -1):
        borders[m - 1] = start[m, borders[m] - lows[m]]
    return borders


@compiled
def _best(
    i: int, first: int, last: int, before: Doubles, total: Doubles, moment: Doubles, gain: Doubles, start: Places
) -> None:
    """Where the last run of the first `i` points starts; the first of several starts that are as good."""
    most, at = -1.0, first
    for j in range(first, last + 1):
        value = _gain(j, i, before, total, moment)
        if value > most:
            most, at = value, j
    gain[i] = most
    start[0] = at


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
def solve(codes: Codes, masses: Doubles, values: Doubles, grid: Doubles, grid_codes: Codes, table: Codes) -> None:
    """The table of a group that has been counted.

    Args:
        codes: those that occur, in ascending order of their value, which is finite.
        masses: of each; above 0 for one at least.
        values: value per code.
        grid: all finite float16 values, ascending, zero once.
        grid_codes: their codes.
        table: receives float16 codes, ascending; the last one repeats if there are fewer values than entries.
    """
    points, together = np.empty(codes.size), np.empty(codes.size)
    found = gather(codes, masses, values, points, together)
    filled = min(found, table.size)
    centroids = points[:filled]
    if found > table.size:
        centroids = np.empty(table.size)
        cluster(points[:found], together[:found], centroids)
    for entry in range(filled):
        position = nearest_half(centroids[entry], grid, grid_codes)
        table[entry] = grid_codes[position]
        if grid[position] == 0 and centroids[entry] < 0:
            table[entry] = NEGATIVE_ZERO
    table[filled:] = table[filled - 1]


@compiled
def assign(codes: Codes, values: Doubles, entries: Doubles, index: npt.NDArray[np.uint8]) -> None:
    """The nearest entry of each code; of two as near, the smaller one.

    Args:
        codes: in ascending order of their value.
        values: value per code.
        entries: of the table, that is rounded: there are other borders between them than between the clusters.
        index: receives the number of the entry, for each of `codes`.
    """
    entry = 0
    for code in codes:
        while entry < entries.size - 1 and values[code] > (entries[entry] + entries[entry + 1]) / 2:
            entry += 1
        index[code] = entry


@compiled
def solve_groups(
    codes: Codes,
    importance: npt.NDArray[np.float32],
    known: npt.NDArray[np.bool_],
    order: Codes,
    values: Doubles,
    halves: Doubles,
    grid: Doubles,
    grid_codes: Codes,
    tables: Codes,
    indices: npt.NDArray[np.uint8],
) -> int:
    """Solve groups one after the other.

    Args:
        codes: `(groups, rows, columns)`.
        importance: of the same shape, or empty: all weights count the same. Nowhere negative.
        known: for each group, whether its table is there already.
        order: all codes of finite numbers in ascending order of their value.
        values: as in `solve`.
        halves: value of each float16 code.
        grid: as in `solve`.
        grid_codes: as in `solve`.
        tables: `(groups, entries)`, receives the float16 codes of the tables.
        indices: of the shape of `codes`, receives the indices.

    Returns:
        The first group with a weight that is no finite number; -1 if there is none.
    """
    counts = np.zeros(CODES, np.uint32)
    occurs, masses = np.empty(CODES, np.uint16), np.empty(CODES)
    mass = np.zeros(CODES)
    index = np.empty(CODES, np.uint8)
    for group in range(codes.shape[0]):
        flat = codes[group].reshape(-1)
        if known[group]:
            assign(order, values, halves[tables[group]], index)
        else:
            counts[:] = 0
            count(flat, counts)
            found = occurring(counts, occurs)
            if not all_finite(occurs[:found], order):
                return group
            heavy = False
            if importance.size:
                for code in occurs[:found]:
                    mass[code] = 0
                weigh(codes[group], importance[group], mass)
                for i in range(found):
                    masses[i] = mass[occurs[i]]
                    heavy = heavy or masses[i] > 0
            if not heavy:
                for i in range(found):
                    masses[i] = counts[occurs[i]]
            solve(occurs[:found], masses[:found], values, grid, grid_codes, tables[group])
            assign(occurs[:found], values, halves[tables[group]], index)
        look_up(flat, index, indices[group].reshape(-1))
    return -1


@compiled
def all_finite(codes: Codes, order: Codes) -> bool:
    """Whether codes in the order of `occurring` are among those in `order`: others come first and last."""
    return max(int(codes[0]) & 0x7FFF, int(codes[-1]) & 0x7FFF) <= int(order[-1])


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
