"""Weights that are read when they are needed, row by row, in whichever of the usual dtypes they are stored.

Compression works on 16-bit codes. A float16 weight is its code; a bfloat16 one is left as it is, too, and
an `Encoding` says what float16 number each of its codes becomes, so that no second copy is made to change the dtype.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from converters.errors import RecipeError

if TYPE_CHECKING:
    import torch

    from converters.checkpoint import Checkpoint

Dtype = Literal["float16", "bfloat16", "float32"]
Rows = npt.NDArray[Any]
Half = npt.NDArray[np.float16]
Codes = npt.NDArray[np.uint16]

CODES = 1 << 16

PLACEHOLDER_FILE = "placeholder"
"""The file name that a constant of a converted program has whose weight was not carried through the conversion; its
offset is the weight's number."""

READ = 1 << 22
"""Elements that are read at a time where nothing else decides."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """What 16-bit codes mean.

    Attributes:
        half: float16 code of each code.
        values: float16 value of each code, as float64.
        order: the codes whose value is finite, in ascending order of it.
    """

    half: Codes
    values: npt.NDArray[np.float64]
    order: Codes


@functools.cache
def encoding(dtype: str) -> Encoding:
    """The encoding of `float16` or `bfloat16`; the latter is rounded to float16 to nearest, ties to even."""
    codes = np.arange(CODES, dtype=np.uint16)
    if dtype == "bfloat16":
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float16 is infinite, which `order` leaves out
            half = (codes.astype(np.uint32) << 16).view(np.float32).astype(np.float16)
    else:
        half = codes.view(np.float16)
    values = half.astype(np.float64)
    finite = codes[np.isfinite(values)]
    order = finite[np.argsort(values[finite], kind="stable")]
    return Encoding(half.view(np.uint16), values, order)


@functools.cache
def half_grid() -> tuple[npt.NDArray[np.float64], Codes]:
    """All finite float16 values in ascending order and their codes; of the zeros, the positive one only."""
    plain = encoding("float16")
    order = plain.order[plain.order != CODES // 2]
    return plain.values[order], order


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A weight tensor that is somewhere else.

    Attributes:
        name: for messages.
        shape: dimensions, output channels first.
        dtype: of what `read` gives.
        read: rows `start` to `stop` (exclusive) of the first axis, C-contiguous: float32 values, or the uint16 codes
            of the 16-bit dtypes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    read: Callable[[int, int], Rows]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def row_size(self) -> int:
        """Number of elements in a row of the first axis."""
        return math.prod(self.shape[1:])

    def codes(self, start: int, stop: int) -> tuple[Codes, Encoding]:
        """Rows as 16-bit codes, `(stop - start, row_size)`, and what they mean. float32 is rounded to float16."""
        rows = self.read(start, stop).reshape(stop - start, self.row_size)
        if self.dtype == "float32":
            with np.errstate(over="ignore"):
                rows = rows.astype(np.float16).view(np.uint16)
        return rows, encoding("bfloat16" if self.dtype == "bfloat16" else "float16")

    def half(self, start: int, stop: int) -> Half:
        """Rows as float16, `(stop - start, row_size)`.

        Raises:
            RecipeError: a value is infinite or not a number in float16.
        """
        codes, meaning = self.codes(start, stop)
        values = (codes if self.dtype != "bfloat16" else meaning.half[codes]).view(np.float16)
        if not np.isfinite(values).all():
            raise not_finite(self.name)
        return values

    def single(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows as float32, `(stop - start, row_size)`."""
        if self.dtype == "float32":
            rows: npt.NDArray[np.float32] = self.read(start, stop).reshape(stop - start, self.row_size)
            return rows
        codes, _ = self.codes(start, stop)
        if self.dtype == "float16":
            return codes.view(np.float16).astype(np.float32)
        return (codes.astype(np.uint32) << 16).view(np.float32)

    def spans(self) -> list[tuple[int, int]]:
        """Rows to read at a time, `READ` elements or so, from the first to the last."""
        rows = max(1, READ // self.row_size)
        return [(start, min(start + rows, self.shape[0])) for start in range(0, self.shape[0], rows)]


def not_finite(name: str) -> RecipeError:
    """What is said of a weight that float16 cannot hold."""
    return RecipeError(f"weight {name}: a value is infinite or not a number in float16")


def checkpoint_weight(checkpoint: Checkpoint, name: str, shape: tuple[int, ...]) -> Weight:
    """A tensor of a checkpoint, mapped row by row when it is read.

    Raises:
        RecipeError: the tensor is missing or has another shape.
    """
    stored = checkpoint.require(name, shape).dtype
    dtype: Dtype = {"F16": "float16", "BF16": "bfloat16"}.get(stored, "float32")  # type: ignore[assignment]

    def read(start: int, stop: int) -> Rows:
        return _array(checkpoint.rows(name, start, stop), dtype)

    return Weight(name, shape, dtype, read)


def tensor_weight(name: str, tensor: torch.Tensor) -> Weight:
    """A tensor in memory."""
    dtype: Dtype = {"torch.float16": "float16", "torch.bfloat16": "bfloat16"}.get(  # type: ignore[assignment]
        str(tensor.dtype), "float32"
    )
    source = tensor.detach()

    def read(start: int, stop: int) -> Rows:
        return _array(source[start:stop], dtype)

    return Weight(name, tuple(tensor.shape), dtype, read)


def half_weight(weight: Weight) -> Weight:
    """Another weight's values, rounded to float16."""

    def read(start: int, stop: int) -> Rows:
        return weight.half(start, stop).view(np.uint16)

    return Weight(weight.name, weight.shape, "float16", read)


def array_weight(name: str, values: Half) -> Weight:
    """A float16 array."""

    def read(start: int, stop: int) -> Rows:
        return np.ascontiguousarray(values[start:stop]).view(np.uint16)

    return Weight(name, values.shape, "float16", read)


def _array(rows: torch.Tensor, dtype: Dtype) -> Rows:
    import torch

    if dtype == "float32":
        return rows.to(torch.float32).contiguous().numpy()
    return rows.contiguous().view(torch.uint16).numpy()
