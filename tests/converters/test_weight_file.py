"""The weight file's writer against coremltools' own, and against the reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.mil.blob import BlobFile
from converters.mil.errors import BlobError
from converters.mil.types import DType
from converters.weight_file import WeightFile

pytestmark = pytest.mark.convert

METHODS = {
    DType.UINT1: "uint1",
    DType.UINT2: "uint2",
    DType.UINT3: "uint3",
    DType.UINT4: "uint4",
    DType.UINT6: "uint6",
    DType.UINT8: "uint8",
    DType.INT4: "int4",
    DType.INT8: "int8",
    DType.INT32: "int32",
    DType.FP16: "fp16",
    DType.FP32: "float",
}


def values(dtype: DType, count: int) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(count)
    if dtype is DType.INT4:
        return random.integers(-8, 8, count).astype(np.int8)
    if dtype.bits < 8:
        return random.integers(0, 1 << dtype.bits, count).astype(np.uint8)
    return random.integers(0, 256, count * dtype.bits // 8).astype(np.uint8).view(dtype.storage)


def theirs(path: Path, tensors: list[tuple[DType, np.ndarray[Any, Any]]]) -> list[int]:
    from converters.package import quiet

    with quiet():
        from coremltools.libmilstoragepython import _BlobStorageWriter
    writer = _BlobStorageWriter(str(path))
    return [
        getattr(writer, f"write_{METHODS[dtype]}_data")(array.view(np.uint16) if dtype is DType.FP16 else array)
        for dtype, array in tensors
    ]


@pytest.mark.parametrize("count", [1, 7, 64, 333])
def test_same_bytes_as_coremltools(tmp_path: Path, count: int) -> None:
    tensors = [(dtype, values(dtype, count + number)) for number, dtype in enumerate(METHODS)]
    offsets = theirs(tmp_path / "theirs.bin", tensors)
    with WeightFile(tmp_path / "ours.bin") as file:
        for (dtype, array), offset in zip(tensors, offsets, strict=True):
            cuts = np.array_split(array, 3)  # borders of parts are no borders of bytes
            assert file.store(dtype, array.size, cuts) == offset
    assert (tmp_path / "ours.bin").read_bytes() == (tmp_path / "theirs.bin").read_bytes()


def test_what_was_written_is_read(tmp_path: Path) -> None:
    with WeightFile(tmp_path / "w.bin") as file:
        stored = [(dtype, values(dtype, 100), 0) for dtype in METHODS]
        stored = [(dtype, array, file.store(dtype, array.size, [array])) for dtype, array, _ in stored]
    with BlobFile(tmp_path / "w.bin") as read:
        for dtype, array, offset in stored:
            found = read.array(read.expect(offset, dtype, array.size))
            assert found.tobytes() == array.tobytes()


def test_equal_content_is_stored_once(tmp_path: Path) -> None:
    one, other = values(DType.FP16, 500), values(DType.FP16, 501)[:500]
    with WeightFile(tmp_path / "once.bin") as file:
        first = file.store(DType.FP16, 500, [one])
        second = file.store(DType.FP16, 500, [other])
        size = file.size
        assert file.store(DType.FP16, 500, np.split(one, 5)) == first
        assert file.size == size
        third = file.store(DType.UINT16, 500, [one.view(np.uint16)])  # the same bytes, but another type
    assert len({first, second, third}) == 3
    theirs(tmp_path / "theirs.bin", [(DType.FP16, one), (DType.FP16, other)])
    with BlobFile(tmp_path / "once.bin") as read:
        assert read.count == 3
        assert read.array(read.record(second)).tobytes() == other.tobytes()
    assert (tmp_path / "once.bin").read_bytes()[64:size] == (tmp_path / "theirs.bin").read_bytes()[64:]


def test_the_number_of_elements_is_checked(tmp_path: Path) -> None:
    with WeightFile(tmp_path / "w.bin") as file, pytest.raises(ValueError, match="10 fp16 elements take 20 bytes"):
        file.store(DType.FP16, 10, [np.zeros(9, np.float16)])


def test_without_weights(tmp_path: Path) -> None:
    with WeightFile(tmp_path / "w.bin"):
        pass
    theirs(tmp_path / "theirs.bin", [])
    assert (tmp_path / "w.bin").read_bytes()[:8] == b"\0\0\0\0\2\0\0\0"
    with BlobFile(tmp_path / "w.bin") as read:
        assert read.records() == []
        with pytest.raises(BlobError):
            read.record(64)
