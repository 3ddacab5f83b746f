"""The clustering beside dynamic programming over everything, and each of its steps by itself."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters import kmeans
from converters.weights import encoding

pytestmark = pytest.mark.convert

Doubles = npt.NDArray[np.float64]

WEIGHTED = st.dictionaries(st.integers(-60, 60), st.integers(1, 50), min_size=2, max_size=40)
"""Masses of points. Many of these are evenly spaced and equally heavy here and there, so that several borders are as
good, and no penalty leads to some numbers of clusters."""


def running(masses: Doubles) -> Doubles:
    return np.concatenate([[0.0], np.cumsum(masses)])


def drawn(masses: dict[int, int]) -> tuple[Doubles, Doubles]:
    points = sorted(masses)
    return np.array(points, float), np.array([masses[point] for point in points], float)


def least_errors(points: Doubles, masses: Doubles, clusters: int) -> Doubles:
    """Least squared error of 0 to `clusters` runs, from all ways to cut: each as the sum of squares to its mean."""
    size = len(points)
    error = np.full((size + 1, size + 1), np.inf)
    for start in range(size):
        for end in range(start + 1, size + 1):
            run, mass = points[start:end], masses[start:end]
            error[start, end] = (mass * (run - np.average(run, weights=mass)) ** 2).sum()
    least = np.full(size + 1, np.inf)
    least[0] = 0
    found = [least[size]]
    for _ in range(clusters):
        least = (least[:, None] + error).min(axis=0)
        found.append(least[size])
    return np.array(found)


def error_of(borders: npt.NDArray[np.int32], points: Doubles, masses: Doubles) -> float:
    assert borders[0] == 0
    assert borders[-1] == len(points)
    runs = [slice(start, end) for start, end in itertools.pairwise(borders)]
    return float(
        sum((masses[run] * (points[run] - np.average(points[run], weights=masses[run])) ** 2).sum() for run in runs)
    )


@given(WEIGHTED, st.integers(1, 16))
def test_clusters_are_the_best(masses: dict[int, int], clusters: int) -> None:
    points, mass = drawn(masses)
    clusters = min(clusters, len(points) - 1)
    centroids = np.empty(clusters)
    kmeans.cluster(points, mass, centroids)
    assert (np.diff(centroids) > 0).all()
    error = float((mass * ((points[:, None] - centroids) ** 2).min(axis=1)).sum())
    assert error == pytest.approx(least_errors(points, mass, clusters)[-1], rel=1e-9, abs=1e-9)


@given(WEIGHTED, st.floats(0.01, 1e6), st.integers(1, 16))
def test_either_step_is_exact(masses: dict[int, int], penalty: float, clusters: int) -> None:
    """Whatever number of runs a penalty leads to, they are the best, and lead to the best of any other number."""
    points, mass = drawn(masses)
    size = len(points)
    clusters = min(clusters, size)
    total, moment = running(mass), running(mass * points)
    least = least_errors(points, mass, size)
    gain, start = np.empty(size + 1), np.empty(size + 1, np.int32)
    runs = kmeans._penalised(penalty, total, moment, gain, start, np.empty_like(start), np.empty_like(start))
    borders = [size]
    while borders[0]:
        borders.insert(0, int(start[borders[0]]))
    near = np.array(borders, np.int32)
    assert runs == len(near) - 1
    assert error_of(near, points, mass) == pytest.approx(least[runs], rel=1e-9, abs=1e-9)
    assert (least + penalty * np.arange(size + 1)).min() == pytest.approx(least[runs] + penalty * runs, rel=1e-9)
    for begin in (near, np.array([0, size], np.int32)):
        found = kmeans._within(begin, clusters, total, moment)
        assert error_of(found, points, mass) == pytest.approx(least[clusters], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("clusters", [3, 4, 8, 16, 64, 256])
def test_the_search_ends_near_the_number_wanted(clusters: int) -> None:
    """Otherwise the second step takes long."""
    points = np.unique(np.random.default_rng(clusters).standard_t(8, 5000))
    masses = np.ones(len(points))
    near = kmeans._near(clusters, float((points**2).sum()), running(masses), running(points))
    assert abs(len(near) - 1 - clusters) <= 1


def test_evenly_spaced_points() -> None:
    """The error of their best runs falls along straight lines, between whose ends no penalty leads."""
    points, centroids = np.arange(1000, dtype=np.float64), np.empty(16)
    kmeans.cluster(points, np.ones(1000), centroids)
    error = ((points[:, None] - centroids) ** 2).min(axis=1).sum()
    sizes = np.array([62] * 8 + [63] * 8)  # as equal as can be
    assert sizes.sum() == 1000
    assert error == pytest.approx(float((sizes * (sizes**2 - 1) / 12).sum()))


def test_masses_of_any_size() -> None:
    """What counts next to nothing is not lost in the sums, where its run would be a division by nothing."""
    random = np.random.default_rng(0)
    for _ in range(20):
        points = np.array([*np.sort(random.normal(0, 0.01, 80)), 65000.0])
        masses = 2 ** random.uniform(-30, 30, len(points))
        centroids = np.empty(5)
        kmeans.cluster(points, masses, centroids)
        masses = np.maximum(masses, masses.sum() * kmeans.LEAST_MASS)
        error = float((masses * ((points[:, None] - centroids) ** 2).min(axis=1)).sum())
        lost_in_rounding = 1e-15 * masses.sum() * points[-1] ** 2
        assert error == pytest.approx(least_errors(points, masses, 5)[-1], rel=1e-6, abs=lost_in_rounding)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_codes_occur_in_the_order_of_their_values(dtype: str) -> None:
    meaning = encoding(dtype)
    finite = int(meaning.order[-1]) + 1
    random = np.random.default_rng(0)
    for some in (meaning.order, random.choice(meaning.order, 50), meaning.order[[0, -1]]):
        codes = np.empty(kmeans.CODES, np.uint16)
        counts = np.zeros(kmeans.CODES, np.uint32)
        kmeans.count(some, counts)
        codes = codes[: kmeans.occurring(counts, codes)]
        assert set(codes.tolist()) == set(some.tolist())
        assert (np.diff(meaning.values[codes]) >= 0).all()
        assert kmeans.all_finite(codes, meaning.order)
    for bad in (finite, finite + 0x8000, 0x7FFF, 0xFFFF):
        counts[bad] = 1
        codes = np.empty(kmeans.CODES, np.uint16)
        assert not kmeans.all_finite(codes[: kmeans.occurring(counts, codes)], meaning.order)
        counts[bad] = 0
