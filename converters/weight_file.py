"""Writes `weight.bin` in a stream; equal content is stored once.

The format is read by `converters.mil.blob`, which describes it. coremltools' own writer takes every tensor as one
array, sub-byte ones with a byte per element; this one takes bytes as they come. What it writes is the same, byte for
byte (`tests/converters/test_weight_file.py` compares).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from converters import kmeans
from converters.mil.blob import ALIGNMENT, SENTINEL, VERSION, blob_number
from converters.mil.types import DType

_HEADER = struct.Struct("<II56x")
_RECORD = struct.Struct("<IIQQQ32x")

Flat = npt.NDArray[np.generic]


class WeightFile:
    """A weight file under construction. Use it as a context manager: its header is written at the end."""

    def __init__(self, path: Path) -> None:
        """Create the file.

        Raises:
            OSError: it cannot be created, or exists.
        """
        self._file = path.open("xb+")
        self._file.write(bytes(_HEADER.size))
        self._end = _HEADER.size
        self._count = 0
        self._known: dict[tuple[DType, int, bytes], int] = {}

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._end

    def store(self, dtype: DType, elements: int, parts: Iterable[Flat]) -> int:
        """Append a tensor unless the file has it.

        Args:
            dtype: of its elements.
            elements: how many there are.
            parts: the elements in order, flat arrays: of `dtype.storage`, or of another type of that width for the
                bits in it; sub-byte elements one per byte.

        Returns:
            Where its record is: the offset that a program refers to.

        Raises:
            ValueError: there are more or fewer elements than announced.
        """
        size = -(-elements * dtype.bits // 8)
        start = -(-self._end // ALIGNMENT) * ALIGNMENT
        data = start + _RECORD.size
        unused = size * 8 - elements * dtype.bits
        self._file.seek(self._end)
        self._file.write(bytes(start - self._end))
        self._file.write(_RECORD.pack(SENTINEL, blob_number(dtype), size, data, unused))
        digest, written = hashlib.sha256(), 0
        for part in packed_parts(parts, dtype.bits):
            self._file.write(part.data)
            digest.update(part.data)
            written += part.nbytes
        if written != size:
            raise ValueError(f"{elements} {dtype.value} elements take {size} bytes, there were {written}")
        key = (dtype, elements, digest.digest())
        if key in self._known:
            self._file.truncate(self._end)
        else:
            self._known[key] = start
            self._end = data + size
            self._count += 1
        return self._known[key]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            self._file.seek(0)
            self._file.write(_HEADER.pack(self._count, VERSION))


def packed_parts(parts: Iterable[Flat], bits: int) -> Iterable[npt.NDArray[np.uint8]]:
    """The bytes of elements in order; those below 8 bits side by side, across the borders of parts.

    Args:
        parts: flat arrays.
        bits: per element; below 8, parts hold one per byte.
    """
    if bits >= 8:
        for part in parts:
            yield np.ascontiguousarray(part).view(np.uint8)
        return
    left = np.empty(0, np.uint8)
    for part in parts:
        values = part.view(np.uint8)
        if left.size:
            values = np.concatenate([left, values])
        whole = values.size // 8 * 8  # so many fill whole bytes, whatever their width
        left = values[whole:]
        if whole:
            yield _pack(values[:whole], bits)
    if left.size:
        yield _pack(left, bits)


def _pack(values: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    packed = np.empty(-(-values.size * bits // 8), np.uint8)
    kmeans.pack(values, bits, packed)
    return packed
