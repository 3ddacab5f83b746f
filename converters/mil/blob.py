"""Reads `weight.bin`: mapped into memory, bounds-checked, never copied until a value is asked for.

The format is MILBlob's, published with coremltools (mlmodel/src/MILBlob/Blob/StorageFormat.hpp and
BlobDataType.hpp). Little-endian. A 64-byte header (`uint32 count, uint32 version, zeros`), then for every
blob a 64-byte record, aligned to 64, and its data. A program refers to a blob by the offset of its record:

    uint32 sentinel 0xDEADBEEF, uint32 data type, uint64 bytes of data, uint64 offset of data,
    uint64 unused bits in the last byte (sub-byte types only), 32 bytes of zeros

Sub-byte elements are packed from the least significant bit on, across byte boundaries.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from converters.mil.errors import BlobError
from converters.mil.types import Array, DType

ALIGNMENT = 64
SENTINEL = 0xDEADBEEF
VERSION = 2
"""Version 1 is the older, unrelated layout of the neural-network format."""

_HEADER = struct.Struct("<II56x")
_RECORD = struct.Struct("<IIQQQ32x")

# BlobDataType.hpp; numbers are only ever appended there.
_DTYPES = {
    1: DType.FP16,
    2: DType.FP32,
    3: DType.UINT8,
    4: DType.INT8,
    5: DType.BF16,
    6: DType.INT16,
    7: DType.UINT16,
    8: DType.INT4,
    9: DType.UINT1,
    10: DType.UINT2,
    11: DType.UINT4,
    12: DType.UINT3,
    13: DType.UINT6,
    14: DType.INT32,
    15: DType.UINT32,
    16: DType.FP8E4M3FN,
    17: DType.FP8E5M2,
}

_NUMBERS = {dtype: number for number, dtype in _DTYPES.items()}


def blob_number(dtype: DType) -> int:
    """The number of an element type in a record.

    Raises:
        KeyError: weight files do not hold this type.
    """
    return _NUMBERS[dtype]


@dataclass(frozen=True, slots=True)
class Blob:
    """One record of a weight file.

    Attributes:
        dtype: element type as the file has it.
        size: bytes of data.
        offset: where the data starts in the file.
        elements: how many elements those bytes hold.
    """

    dtype: DType
    size: int
    offset: int
    elements: int


class BlobFile:
    """A weight file, mapped.

    Arrays it returns keep the mapping alive. The mapping is copy-on-write: writing to an array that was
    not copied changes this process's view, never the file.
    """

    def __init__(self, path: Path) -> None:
        """Maps `path` and checks its header.

        Raises:
            BlobError: the file is missing, too short, or of another format.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise BlobError(f"{path}: cannot be mapped: {error}") from error
        if len(self._map) < _HEADER.size:
            raise BlobError(f"{path}: {len(self._map)} bytes are too few for a weight file's header")
        self.count, version = _HEADER.unpack_from(self._map, 0)
        if version != VERSION:
            raise BlobError(f"{path}: weight file version {version}, only {VERSION} is known")

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self._map)

    def record(self, offset: int) -> Blob:
        """The record at `offset`, checked to lie inside the file.

        Raises:
            BlobError: no record there, an unknown type, or data beyond the end of the file.
        """
        where = f"{self.path}: blob at offset {offset}"
        if offset < _HEADER.size or offset % ALIGNMENT:
            raise BlobError(f"{where}: records start at multiples of {ALIGNMENT} after the header")
        if offset + _RECORD.size > self.size:
            raise BlobError(f"{where}: the file ends at {self.size}; it is truncated or of another model")
        sentinel, kind, size, start, padding = _RECORD.unpack_from(self._map, offset)
        if sentinel != SENTINEL:
            raise BlobError(f"{where}: no record there (found {sentinel:#010x}, expected {SENTINEL:#010x})")
        dtype = _DTYPES.get(kind)
        if dtype is None:
            raise BlobError(f"{where}: unknown data type number {kind}")
        if start < _HEADER.size or start + size > self.size:
            raise BlobError(f"{where}: data of {size} bytes at {start}, but the file ends at {self.size}")
        if dtype.bits >= 8:
            padding = 0  # a reserved field for these types
        bits = size * 8 - padding
        if bits < 0 or bits % dtype.bits:
            raise BlobError(f"{where}: {size} bytes less {padding} bits do not hold whole {dtype.value} values")
        return Blob(dtype, size, start, bits // dtype.bits)

    def expect(self, offset: int, dtype: DType, elements: int) -> Blob:
        """The record at `offset`, checked to be what a program says it is.

        Raises:
            BlobError: also when the type or the number of elements differs.
        """
        blob = self.record(offset)
        if blob.dtype is not dtype and not (dtype is DType.BOOL and blob.dtype is DType.UINT8):
            raise BlobError(
                f"{self.path}: blob at offset {offset} holds {blob.dtype.value}, the program expects {dtype.value}"
            )
        if blob.elements != elements:
            raise BlobError(
                f"{self.path}: blob at offset {offset} holds {blob.elements} {dtype.value} values, "
                f"the program expects {elements}"
            )
        return blob

    def raw(self, blob: Blob) -> Array:
        """The blob's bytes as they are in the file, uint8, not copied."""
        return np.frombuffer(self._map, np.uint8, blob.size, blob.offset)

    def array(self, blob: Blob) -> Array:
        """The blob's elements in `blob.dtype.storage`, flat.

        Types of whole bytes are not copied; packed ones are unpacked.
        """
        if blob.dtype.bits < 8:
            return unpack(self.raw(blob), blob.dtype, blob.elements)
        return np.frombuffer(self._map, blob.dtype.storage, blob.elements, blob.offset)

    def records(self) -> list[tuple[int, Blob]]:
        """All records in file order with their offsets, found by walking the file.

        Raises:
            BlobError: the walk does not find as many as the header counts.
        """
        found = []
        offset = _HEADER.size
        for _ in range(self.count):
            blob = self.record(offset)
            found.append((offset, blob))
            offset = -(-(blob.offset + blob.size) // ALIGNMENT) * ALIGNMENT
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmaps the file. Arrays that are still in use keep it mapped until they go."""
        try:
            self._map.close()
        except BufferError:
            return  # exported buffers: the mapping goes with the last array


def unpack(packed: Array, dtype: DType, count: int) -> Array:
    """Elements of a sub-byte type, one per byte.

    Args:
        packed: uint8, elements packed from the least significant bit on.
        dtype: int4 or uint1, 2, 3, 4, 6.
        count: how many elements to return; what is beyond them is padding.

    Returns:
        `count` values as int8 (int4) or uint8.

    Raises:
        BlobError: `packed` is too short.
    """
    bits = dtype.bits
    if packed.size * 8 < count * bits:
        raise BlobError(f"{packed.size} bytes hold fewer than {count} {dtype.value} values")
    data = np.ascontiguousarray(packed, np.uint8)
    if 8 % bits == 0:
        per_byte = 8 // bits
        out = np.empty((data.size, per_byte), np.uint8)
        for place in range(per_byte):
            np.right_shift(data, place * bits, out=out[:, place])
        out &= (1 << bits) - 1
    else:
        # 3 and 6 bits meet byte boundaries every three bytes.
        groups = -(-data.size // 3)
        padded = np.zeros((groups, 3), np.uint8)
        padded.reshape(-1)[: data.size] = data
        words = padded[:, 0] | padded[:, 1].astype(np.uint32) << 8 | padded[:, 2].astype(np.uint32) << 16
        shifts = np.arange(0, 24, bits, dtype=np.uint32)
        out = (words[:, None] >> shifts & ((1 << bits) - 1)).astype(np.uint8)
    values = out.reshape(-1)[:count]
    if dtype.is_signed:
        half = 1 << (bits - 1)
        return ((values ^ half).astype(np.int8) - np.int8(half)).astype(np.int8)
    return values
