"""The value types of MIL, independent of how a program is stored and of how it is executed.

Names are the ones MIL text and coremltools use (`fp16`, `int32`, `uint4`, ...).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class DType(Enum):
    """An element type. The value is its MIL name."""

    BOOL = "bool"
    STRING = "string"
    FP16 = "fp16"
    FP32 = "fp32"
    FP64 = "fp64"
    BF16 = "bf16"
    FP8E4M3FN = "fp8e4m3fn"
    FP8E5M2 = "fp8e5m2"
    INT4 = "int4"
    INT8 = "int8"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    UINT1 = "uint1"
    UINT2 = "uint2"
    UINT3 = "uint3"
    UINT4 = "uint4"
    UINT6 = "uint6"
    UINT8 = "uint8"
    UINT16 = "uint16"
    UINT32 = "uint32"
    UINT64 = "uint64"

    @property
    def bits(self) -> int:
        """Bits one element takes in a weight file.

        Raises:
            ValueError: for strings, which have no fixed width.
        """
        return _BITS[self]

    @property
    def is_float(self) -> bool:
        """Whether elements are floating-point numbers."""
        return self in _FLOATS

    @property
    def is_integer(self) -> bool:
        """Whether elements are integers (bool is not)."""
        return self not in _FLOATS and self not in {DType.BOOL, DType.STRING}

    @property
    def is_signed(self) -> bool:
        """Whether an integer type has negative values."""
        return self.is_integer and not self.value.startswith("u")

    @property
    def storage(self) -> np.dtype[np.generic]:
        """The numpy type elements are held in once read.

        Sub-byte integers are held one per byte. bf16 and fp8 have no numpy type: their bit patterns are
        held in uint16 and uint8.
        """
        return _STORAGE[self]


_FLOATS = frozenset({DType.FP16, DType.FP32, DType.FP64, DType.BF16, DType.FP8E4M3FN, DType.FP8E5M2})

_BITS = {
    DType.BOOL: 8,
    DType.FP16: 16,
    DType.FP32: 32,
    DType.FP64: 64,
    DType.BF16: 16,
    DType.FP8E4M3FN: 8,
    DType.FP8E5M2: 8,
    DType.INT4: 4,
    DType.INT8: 8,
    DType.INT16: 16,
    DType.INT32: 32,
    DType.INT64: 64,
    DType.UINT1: 1,
    DType.UINT2: 2,
    DType.UINT3: 3,
    DType.UINT4: 4,
    DType.UINT6: 6,
    DType.UINT8: 8,
    DType.UINT16: 16,
    DType.UINT32: 32,
    DType.UINT64: 64,
}

_STORAGE: dict[DType, np.dtype[np.generic]] = {
    DType.BOOL: np.dtype(np.bool_),
    DType.STRING: np.dtype(np.object_),
    DType.FP16: np.dtype("<f2"),
    DType.FP32: np.dtype("<f4"),
    DType.FP64: np.dtype("<f8"),
    DType.BF16: np.dtype("<u2"),
    DType.FP8E4M3FN: np.dtype(np.uint8),
    DType.FP8E5M2: np.dtype(np.uint8),
    DType.INT4: np.dtype(np.int8),
    DType.INT8: np.dtype(np.int8),
    DType.INT16: np.dtype("<i2"),
    DType.INT32: np.dtype("<i4"),
    DType.INT64: np.dtype("<i8"),
    DType.UINT1: np.dtype(np.uint8),
    DType.UINT2: np.dtype(np.uint8),
    DType.UINT3: np.dtype(np.uint8),
    DType.UINT4: np.dtype(np.uint8),
    DType.UINT6: np.dtype(np.uint8),
    DType.UINT8: np.dtype(np.uint8),
    DType.UINT16: np.dtype("<u2"),
    DType.UINT32: np.dtype("<u4"),
    DType.UINT64: np.dtype("<u8"),
}


@dataclass(frozen=True, slots=True)
class TensorType:
    """A tensor, or a scalar when `shape` is empty.

    Attributes:
        dtype: element type.
        shape: sizes, None for one that is only known when running; None as a whole if even the rank is
            unknown.
    """

    dtype: DType
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype.value}[...]"
        return f"{self.dtype.value}[{', '.join('?' if size is None else str(size) for size in self.shape)}]"

    def static_shape(self) -> tuple[int, ...] | None:
        """The shape if every size is known, else None."""
        if self.shape is None:
            return None
        known = tuple(size for size in self.shape if size is not None)
        return known if len(known) == len(self.shape) else None


@dataclass(frozen=True, slots=True)
class StateType:
    """A tensor that outlives one prediction (Core ML's MLState)."""

    wrapped: TensorType

    def __str__(self) -> str:
        return f"state<{self.wrapped}>"


@dataclass(frozen=True, slots=True)
class ListType:
    """A list of values of one type; `length` is None when it varies."""

    element: ValueType
    length: int | None

    def __str__(self) -> str:
        return f"list<{self.element}, {'?' if self.length is None else self.length}>"


@dataclass(frozen=True, slots=True)
class TupleType:
    """A fixed sequence of values of possibly different types."""

    elements: tuple[ValueType, ...]

    def __str__(self) -> str:
        return f"tuple<{', '.join(map(str, self.elements))}>"


@dataclass(frozen=True, slots=True)
class DictType:
    """A mapping, as classifiers return."""

    key: ValueType
    value: ValueType

    def __str__(self) -> str:
        return f"dict<{self.key}, {self.value}>"


ValueType = TensorType | StateType | ListType | TupleType | DictType
