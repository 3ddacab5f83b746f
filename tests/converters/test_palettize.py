"""Palettization against coremltools' own, on the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.palettize import Half, Palettization, palettize, solve_group

pytestmark = pytest.mark.convert


def bfloat16_values(count: int, seed: int, scale: float = 0.02) -> Half:
    """Normal values with bfloat16's eight bits of precision, as float16."""
    exact = np.random.default_rng(seed).standard_t(8, count).astype(np.float32) * np.float32(scale)
    return (exact.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float16)


def squared_error(found: Any, exact: Half) -> float:
    return float(((found.astype(np.float64) - exact.astype(np.float64)) ** 2).sum())


def coremltools_dense(values: Half) -> Half:
    from converters.package import quiet

    with quiet():
        from coremltools.optimize.coreml._quantization_passes import palettize_weights
    found = palettize_weights.blockwise_compress(values, "KMEANS", 4, [32, 0])
    assert found is not None
    lut = found.lut.reshape(found.lut.shape[0], -1)
    indices = found.indices.reshape(lut.shape[0], -1).astype(np.int64)
    dense: Half = np.take_along_axis(lut, indices, axis=1).reshape(values.shape)
    return dense


@pytest.mark.parametrize(("columns", "seed"), [(64, 0), (128, 1), (400, 2)])
def test_never_worse_than_coremltools_in_any_group(columns: int, seed: int) -> None:
    # 400 columns are 12 800 weights a group, where coremltools too uses the exact solver
    weight = bfloat16_values(64 * columns, seed).reshape(64, columns)
    ours = palettize(weight, Palettization()).dense()
    theirs = coremltools_dense(weight)
    for rows in (slice(0, 32), slice(32, 64)):
        best = squared_error(theirs[rows], weight[rows])
        assert squared_error(ours[rows], weight[rows]) <= best * (1 + 1e-6)


def brute_force(values: Half, clusters: int) -> float:
    """Least error over all ways to cut the sorted values into at most `clusters` runs."""
    points = np.sort(values.astype(np.float64))
    best = {0: 0.0}
    for _ in range(clusters):
        following: dict[int, float] = {}
        for start, error in best.items():
            for end in range(start, len(points) + 1):
                run = points[start:end]
                total = error + (float(((run - run.mean()) ** 2).sum()) if len(run) else 0.0)
                following[end] = min(total, following.get(end, np.inf))
        best = following
    return best[len(points)]


@given(st.lists(st.integers(-8, 8), min_size=1, max_size=12))
def test_optimal_for_small_groups(numbers: list[int]) -> None:
    values = np.array(numbers, np.float16)
    lut, indices = solve_group(values, 1)
    assert lut.shape == (2,)
    # the table's rounding to float16 is all that may be lost
    assert squared_error(lut[indices], values) <= brute_force(values, 2) + 1e-2


@given(st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=1, max_size=80))
def test_nearest_entry_and_order(numbers: list[float]) -> None:
    values = np.array(numbers, np.float16)
    lut, indices = solve_group(values, 4)
    assert (np.diff(lut.astype(np.float64)) >= 0).all()
    assert indices.max() < 16
    distance = np.abs(values.astype(np.float64)[:, None] - lut.astype(np.float64)[None])
    chosen = np.take_along_axis(distance, indices[:, None].astype(np.int64), axis=1)[:, 0]
    assert (chosen == distance.min(axis=1)).all()
    if len(set(numbers)) <= 16:
        assert (lut[indices] == values).all()


def test_sorting_and_counting_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    values = bfloat16_values(5000, 4)
    sorted_lut, sorted_indices = solve_group(values, 4)
    monkeypatch.setattr("converters.palettize.SORT_BELOW", 0)
    counted_lut, counted_indices = solve_group(values, 4)
    assert (sorted_lut == counted_lut).all()
    assert (sorted_indices == counted_indices).all()


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    weight = np.full((32, 128), 0.5, np.float16)
    weight[3, 4] = bad
    with pytest.raises(ValueError, match="infinite or not a number"):
        palettize(weight, Palettization())


def test_what_a_scheme_applies_to() -> None:
    scheme = Palettization()
    assert scheme.applies_to((64, 64, 1, 1))
    assert not scheme.applies_to((32, 64))  # 2048 elements: coremltools compresses above its threshold
    assert not scheme.applies_to((48, 64))  # not whole groups
    assert not scheme.applies_to((4096,))
    with pytest.raises(ValueError, match="cannot palettize"):
        palettize(np.zeros((48, 64), np.float16), scheme)
