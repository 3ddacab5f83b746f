"""Palettization against coremltools' own, on the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters import kmeans
from converters.palettize import BITS, Palettization, blocks, palettize, solve_group
from converters.weights import Half, Weight, half_grid

pytestmark = pytest.mark.convert


def bfloat16_values(count: int, seed: int, scale: float = 0.02) -> Half:
    """Normal values with bfloat16's eight bits of precision, as float16."""
    exact = np.random.default_rng(seed).standard_t(8, count).astype(np.float32) * np.float32(scale)
    return (exact.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float16)


def squared_error(found: Any, exact: Half) -> float:
    return float(((found.astype(np.float64) - exact.astype(np.float64)) ** 2).sum())


def coremltools_dense(values: Half, bits: int = 4, group_size: int = 32) -> Half:
    from converters.package import quiet

    with quiet():
        from coremltools.optimize.coreml._quantization_passes import palettize_weights
    found = palettize_weights.blockwise_compress(values, "KMEANS", bits, [group_size, 0])
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


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group_size", [1, 4])
def test_never_worse_than_coremltools_at_any_width(bits: int, group_size: int) -> None:
    weight = bfloat16_values(4 * 1200, bits, 3.0).reshape(4, 1200)
    ours = palettize(weight, Palettization(bits, group_size)).dense()
    theirs = coremltools_dense(weight, bits, group_size)
    for start in range(0, 4, group_size):
        rows = slice(start, start + group_size)
        assert squared_error(ours[rows], weight[rows]) <= squared_error(theirs[rows], weight[rows]) * (1 + 1e-6)


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


@given(st.lists(st.tuples(st.integers(-8, 8), st.integers(0, 3)), min_size=1, max_size=10))
def test_importance_is_how_often_a_weight_counts(numbers: list[tuple[int, int]]) -> None:
    values = np.array([[value for value, _ in numbers]], np.float16)
    counts = np.array([[count for _, count in numbers]], np.float32)
    repeated = np.repeat(values[0], counts[0].astype(int)) if counts.any() else values[0]
    found = palettize(values, Palettization(1, 0, threshold=0), importance=counts, threads=1)
    alone, _ = solve_group(repeated, 1)
    assert (found.lut[0] == alone).all()
    counted = counts[0] if counts.any() else np.ones(len(numbers))
    error = float((counted * (found.dense()[0].astype(np.float64) - values[0]) ** 2).sum())
    assert error <= brute_force(repeated, 2) + 1e-2


def test_importance_of_inputs() -> None:
    """Which inputs count shows in their error; a shape that broadcasts is enough."""
    weight = bfloat16_values(64 * 96, 5).reshape(64, 96, 1, 1)
    importance = np.ones((1, 96, 1, 1), np.float32)
    importance[:, :8] = 100
    plain, weighted = (palettize(weight, Palettization(3), importance=how).dense() for how in (None, importance))
    even = palettize(weight, Palettization(3), importance=2 * np.ones(1)).dense()
    assert (even == plain).all()
    assert squared_error(weighted[:, :8], weight[:, :8]) < 0.9 * squared_error(plain[:, :8], weight[:, :8])
    assert squared_error(weighted, weight) > squared_error(plain, weight)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_importance_that_is_none(bad: float) -> None:
    with pytest.raises(ValueError, match="negative or not finite"):
        palettize(np.ones((64, 64), np.float16), Palettization(), importance=[bad])


@pytest.mark.parametrize("group_size", [0, 1, 32])
@pytest.mark.parametrize("weighted", [False, True])
def test_threads_and_blocks_change_nothing(group_size: int, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = bfloat16_values(64 * 333, 6).reshape(64, 333)
    importance = np.random.default_rng(0).random(weight.shape) if weighted else None
    found = []
    for block, threads in ((1 << 22, 1), (1 << 22, 2), (3000, 1), (3000, 3)):  # 3000: a group is more than a block
        monkeypatch.setattr("converters.palettize.BLOCK", block)
        found.append(palettize(weight, Palettization(3, group_size), importance=importance, threads=threads))
    for other in found[1:]:
        assert (found[0].indices == other.indices).all()
        assert (found[0].lut == other.lut).all()


@pytest.mark.parametrize("group_size", [0, 16])
@pytest.mark.parametrize("block", [1 << 22, 1000])
def test_bfloat16_codes_are_enough(group_size: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny and huge values included, where several bfloat16 codes are one float16 value."""
    monkeypatch.setattr("converters.palettize.BLOCK", block)
    exact = np.concatenate(
        [bfloat16_values(32 * 100 - 4, 7).astype(np.float32), np.array([1e-7, -3e-8, 65000, -0.0], np.float32)]
    ).reshape(32, 100)
    codes = (exact.view(np.uint32) >> 16).astype(np.uint16)
    stored = Weight("w", codes.shape, "bfloat16", lambda start, stop: codes[start:stop])
    scheme = Palettization(4, group_size)
    found = list(blocks(stored, scheme, threads=2))
    wanted = palettize((codes.astype(np.uint32) << 16).view(np.float32).astype(np.float16), scheme)
    assert (np.concatenate([part.lut for part in found]) == wanted.lut).all()
    assert (np.concatenate([part.indices for part in found]) == wanted.indices.reshape(-1)).all()


def test_means_are_rounded_like_numpy() -> None:
    grid, codes = half_grid()
    random = np.random.default_rng(0)
    places = np.concatenate([random.integers(0, len(grid) - 1, 300), [0, 1, len(grid) - 2, len(grid) // 2]])
    ties = (grid[places] + grid[places + 1]) / 2
    for value in np.concatenate([ties, np.nextafter(ties, 9e9), np.nextafter(ties, -9e9), grid[places], [1e-300]]):
        assert codes[kmeans.nearest_half(float(value), grid, codes)] == abs(np.float16(value)).view(np.uint16) | (
            0x8000 if np.float16(value) < 0 else 0
        )
    lut, _ = solve_group(np.array([-1e-7, -1e-7, 1, 2], np.float16), 2)
    assert lut.tolist() == np.array([-1e-7, 1, 2, 2], np.float16).tolist()


def test_zeros_are_one_value() -> None:
    lut, indices = solve_group(np.array([0.0, -0.0, 1.0, 2.0], np.float16), 1)
    assert lut[indices][:2].tolist() == [0, 0]
    assert len(set(indices[:2].tolist())) == 1


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
    with pytest.raises(ValueError, match="Core ML has no 5-bit indices; there are 1, 2, 3, 4, 6, 8"):
        Palettization(bits=5)
    with pytest.raises(ValueError, match="a group of -1 channels"):
        Palettization(group_size=-1)


def test_a_tensor_of_one_table_that_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converters.palettize.BLOCK", 1000)
    weight = np.ones((64, 64), np.float16)
    weight[63, 63] = np.nan
    with pytest.raises(ValueError, match="infinite or not a number"):
        palettize(weight, Palettization(group_size=0))
