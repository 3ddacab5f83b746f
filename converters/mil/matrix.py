"""Weight matrices that stay as they are stored, and are decompressed a block of rows at a time when multiplied.

A decompressed 12-layer chunk of Gemma 4 E4B takes 4.7 GB, its palettized weight file 0.6 GB, which is mapped. What
bounds a decode step is moving weights through memory, so multiplying from the packed form is also the faster way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from converters.mil.threads import shared
from converters.mil.types import Array

FEWEST_WEIGHTS = 1 << 18
"""Smaller matrices are decompressed and kept: they are a few per cent of a model's weights, and for them the work of
calling counts for more than that of multiplying."""

FEW_POSITIONS = 32
"""Up to so many positions rows are multiplied while being decoded; beyond, decoding a block of rows once and leaving
the product to torch is faster (`python -m benchmarks.runtime` measures both)."""

BLOCK_WEIGHTS = 1 << 22
"""Weights decompressed at a time: 16 MB. Decoding and multiplying use different threads, so not too small."""

THREAD_PRODUCTS = 1 << 18
"""Multiplications that are worth handing to another thread (0.05 ms, twice the cost of doing so)."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A constant matrix `(rows, columns)`, known by how to decompress a part of it.

    Attributes:
        rows: output channels.
        columns: input channels.
        decode: the rows from the first number up to the second, float32; exactly those of the decompressed weight.
        multiply: the product with a few positions, `(positions, columns)` to `(positions, rows)`, where there is a
            way that needs no decoded block.
    """

    rows: int
    columns: int
    decode: Callable[[int, int], torch.Tensor]
    multiply: Callable[[torch.Tensor], torch.Tensor] | None = None

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """`x @ matrix.T`, float32.

        The sums are taken in another order than `torch.matmul` takes them; both are within
        `columns * 2**-24 * (|x| @ |matrix|.T)` of the exact product.

        Args:
            x: `(positions, columns)`, float32.
        """
        if self.multiply is not None and x.shape[0] <= FEW_POSITIONS:
            return self.multiply(x)
        out = torch.empty(x.shape[0], self.rows)
        step = max(1, BLOCK_WEIGHTS // self.columns)
        for first in range(0, self.rows, step):
            last = min(first + step, self.rows)
            torch.mm(x, self.decode(first, last).T, out=out[:, first:last])
        return out


def streams(matrix: Matrix, result: Sequence[int] | None) -> bool:
    """Whether a product with a result of this shape is taken while rows are decoded, in threads of our own."""
    return matrix.multiply is not None and result is not None and math.prod(result) <= FEW_POSITIONS * matrix.rows


@dataclass(frozen=True, slots=True)
class Palette:
    """Look-up tables and the indices into them.

    Attributes:
        packed: uint8, indices in row-major order, packed from the least significant bit on.
        bits: of an index.
        tables: float32 `(groups, 2**bits)`; each serves equally many consecutive rows.
        rows: of the matrix.
        columns: of the matrix.
    """

    packed: Array
    bits: int
    tables: Array
    rows: int
    columns: int


def palettized(palette: Palette) -> Matrix:
    """The matrix that a palette stands for."""
    return Matrix(palette.rows, palette.columns, partial(_decode, palette), partial(_multiply, palette))


def _decode(palette: Palette, first: int, last: int) -> torch.Tensor:
    from converters.mil import kernels

    out = np.empty((last - first, palette.columns), np.float32)
    each = palette.rows // len(palette.tables)

    def task(begin: int, end: int) -> None:
        kernels.decode_rows(palette.packed, palette.bits, palette.tables, each, out[begin:end], first + begin)

    shared(task, len(out), _rows_per_thread(palette.columns))
    return torch.from_numpy(out)


def _multiply(palette: Palette, x: torch.Tensor) -> torch.Tensor:
    from converters.mil import kernels

    values = x.contiguous().numpy()
    out = np.empty((len(values), palette.rows), np.float32)
    each = palette.rows // len(palette.tables)

    def task(begin: int, end: int) -> None:
        kernels.multiply_rows(palette.packed, palette.bits, palette.tables, each, values, out, begin, end)

    shared(task, palette.rows, _rows_per_thread(palette.columns * len(values)))
    return torch.from_numpy(out)


def _rows_per_thread(products: int) -> int:
    return math.ceil(THREAD_PRODUCTS / max(products, 1))
