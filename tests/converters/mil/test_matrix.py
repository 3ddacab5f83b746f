"""Matrices multiplied from their stored form, against decompressing first, in numpy and in float64."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converters.mil.matrix import BLOCK_WEIGHTS, FEW_POSITIONS, Matrix, Palette, palettized
from converters.mil.runtime import Model
from converters.mil.threads import reserved, shared
from tests.converters.mil.packages import Array, ct, mb, program, save, types

pytestmark = pytest.mark.convert

UNIT = 2.0**-24
"""Half a step of float32 near 1."""


def pack(indices: Array, bits: int) -> Array:
    """Indices as a weight file has them: from the least significant bit on, across bytes."""
    places = (indices.reshape(-1, 1) >> np.arange(bits)) & 1
    return np.packbits(places.astype(np.uint8).reshape(-1), bitorder="little")


def example(bits: int, rows: int, columns: int, groups: int) -> tuple[Matrix, Array]:
    """A palettized matrix and its weights."""
    rng = np.random.default_rng([bits, rows, columns])
    indices = rng.integers(0, 1 << bits, (rows, columns), np.uint8)
    tables = rng.normal(size=(groups, 1 << bits)).astype(np.float16).astype(np.float32)
    dense = np.take_along_axis(tables.repeat(rows // groups, 0), indices.astype(np.int64), 1)
    return palettized(Palette(pack(indices, bits), bits, tables, rows, columns)), dense


SIZES = [
    (4, 96, 64, 3),
    (4, 32, 2064, 1),  # more than a tile, and not whole tiles
    (4, 6, 33, 2),  # rows start within a byte
    (1, 8, 50, 1),
    (2, 8, 50, 4),
    (3, 12, 37, 2),
    (6, 12, 37, 3),
    (8, 5, 41, 5),
]


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """How many there are; every piece of work is large enough to be divided."""
    monkeypatch.setattr("converters.mil.matrix.THREAD_PRODUCTS", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize(("bits", "rows", "columns", "groups"), SIZES)
def test_rows_are_those_of_the_decompressed_matrix(
    bits: int, rows: int, columns: int, groups: int, threads: int
) -> None:
    matrix, dense = example(bits, rows, columns, groups)
    for first, last in ((0, rows), (1, rows), (rows // 2, rows // 2 + 1)):
        np.testing.assert_array_equal(matrix.decode(first, last).numpy(), dense[first:last])


@pytest.mark.parametrize("positions", [1, 3, 4, 9, FEW_POSITIONS, FEW_POSITIONS + 1])
@pytest.mark.parametrize(("bits", "rows", "columns", "groups"), SIZES)
def test_products_are_within_the_bound(
    bits: int, rows: int, columns: int, groups: int, positions: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converters.mil.matrix.BLOCK_WEIGHTS", 5 * columns)  # several blocks, the last one smaller
    matrix, dense = example(bits, rows, columns, groups)
    x = np.random.default_rng(0).normal(size=(positions, columns)).astype(np.float32)
    exact = x.astype(np.float64) @ dense.T.astype(np.float64)
    bound = columns * UNIT * (np.abs(x).astype(np.float64) @ np.abs(dense).T.astype(np.float64))
    assert (np.abs(matrix.product(torch.from_numpy(x)).numpy() - exact) <= bound).all()
    assert (np.abs(x @ dense.T - exact) <= bound).all()  # the ordinary product is held to the same


def test_results_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converters.mil.matrix.THREAD_PRODUCTS", 1)
    matrix, _ = example(4, 96, 2064, 3)
    x = torch.randn(5, 2064, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(matrix.product(x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_infinities_and_nan_come_through() -> None:
    matrix, dense = example(4, 6, 48, 2)
    x = np.ones((3, 48), np.float32)
    x[0, 5], x[1, 7] = np.inf, np.nan
    with np.errstate(invalid="ignore"):
        expected = x @ dense.T
    np.testing.assert_allclose(matrix.product(torch.from_numpy(x)).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_views_can_be_multiplied() -> None:
    matrix, dense = example(4, 32, 48, 1)
    x = torch.randn(48, 2, generator=torch.Generator().manual_seed(0)).T
    np.testing.assert_allclose(matrix.product(x).numpy(), x.numpy() @ dense.T, rtol=1e-5, atol=1e-5)


def test_many_callers_at_a_time(threads: int) -> None:
    matrix, _ = example(4, 96, 64, 3)
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    expected = matrix.product(x)
    with ThreadPoolExecutor(4) as callers:
        results = list(callers.map(lambda _: matrix.product(x), range(40)))
    assert all(torch.equal(result, expected) for result in results)


def test_every_number_is_shared_out_once(threads: int) -> None:
    for items in (0, 1, 2, 7, 100):
        seen = np.zeros(items, np.int64)

        def task(begin: int, end: int, seen: Array = seen) -> None:
            seen[begin:end] += 1

        shared(task, items, 1)
        assert (seen == 1).all()
        with reserved():
            assert torch.get_num_threads() == 1
            shared(task, items, 1)
        assert torch.get_num_threads() == threads
        assert (seen == 2).all()


# --- in packages ----------------------------------------------------------------------------------------


ROWS, COLUMNS = 64, 48
WEIGHT = np.random.default_rng(1).normal(size=(ROWS, COLUMNS)).astype(np.float16)
BIAS = np.random.default_rng(2).normal(size=ROWS).astype(np.float16)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every way in which one fp16 matrix is multiplied with."""
    specs = [mb.TensorSpec(shape=(2, 3, COLUMNS), dtype=types.fp16)]
    specs.append(mb.TensorSpec(shape=(2, COLUMNS, 1, 3), dtype=types.fp16))
    kernel = WEIGHT[:, :, None, None]

    @program(*specs)
    def built(x: Any, y: Any) -> Any:
        return (
            mb.linear(x=x, weight=WEIGHT, bias=BIAS, name="linear"),
            mb.linear(x=x, weight=WEIGHT, name="unbiased"),
            mb.matmul(x=x, y=WEIGHT, transpose_y=True, name="product"),
            mb.matmul(x=x, y=np.ascontiguousarray(WEIGHT.T), name="untransposed"),
            mb.conv(x=y, weight=kernel, bias=BIAS, pad_type="valid", name="pointwise"),
            mb.conv(x=y, weight=kernel, pad_type="same", name="same"),
            mb.conv(x=y, weight=kernel, strides=[1, 2], pad_type="valid", name="strided"),
            mb.conv(x=y, weight=kernel, pad=[0, 0, 1, 1], pad_type="custom", name="padded"),
        )

    return save(tmp_path_factory.mktemp("matrices") / "m.mlpackage", built, ct.target.iOS18)


@pytest.mark.parametrize("arithmetic", ["fp32", "fp16"])
def test_operations_multiply_from_the_stored_form(
    package: Path, arithmetic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converters.mil.weights.FEWEST_WEIGHTS", 1000)
    rng = np.random.default_rng(3)
    inputs = {"x": rng.normal(size=(2, 3, COLUMNS)), "y": rng.normal(size=(2, COLUMNS, 1, 3))}
    stored = Model(package, arithmetic=arithmetic, always_check=True)
    dense = Model(package, arithmetic=arithmetic, weights="dense")
    outputs, expected = stored.predict(inputs), dense.predict(inputs)
    assert list(outputs) == list(expected)
    for name, value in outputs.items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-3, atol=2e-3)  # one rounding to fp16 may differ
    # the strided and the padded convolution and the plain product still need the tensors
    halves = {name: model.weights.held_bytes // (4 * ROWS * COLUMNS) for name, model in (("s", stored), ("d", dense))}
    assert halves["s"] < halves["d"]


def test_blocks_are_of_bounded_size() -> None:
    """What is decompressed at a time does not grow with the matrix."""
    sizes = []

    def decode(first: int, last: int) -> torch.Tensor:
        sizes.append((last - first) * 4096)
        return torch.zeros(last - first, 4096)

    product = Matrix(3000, 4096, decode).product(torch.ones(1, 4096))
    assert product.shape == (1, 3000)
    assert sum(sizes) == 3000 * 4096
    assert max(sizes) <= BLOCK_WEIGHTS
