"""The weight file reader against files that coremltools' own writer made."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.mil.blob import BlobFile, unpack
from converters.mil.carriers import to_carrier
from converters.mil.errors import BlobError
from converters.mil.types import DType
from tests.converters.mil.packages import types

pytestmark = pytest.mark.convert

SUB_BYTE: dict[DType, np.ndarray[Any, Any]] = {
    DType.INT4: np.arange(-8, 8),
    DType.UINT1: np.array([1, 0, 1, 1, 0, 1, 0, 1, 1, 0, 1]),
    DType.UINT2: np.arange(11) % 4,
    DType.UINT3: np.arange(19) % 8,
    DType.UINT4: np.arange(17) % 16,
    DType.UINT6: np.arange(70) % 64,
}
WHOLE: dict[DType, np.ndarray[Any, Any]] = {
    DType.INT8: np.arange(-5, 5, dtype=np.int8),
    DType.UINT8: np.arange(250, 256, dtype=np.uint8),
    DType.INT16: np.arange(-3, 3, dtype=np.int16) * 1000,
    DType.UINT16: np.arange(3, dtype=np.uint16) * 30000,
    DType.INT32: np.arange(-3, 3, dtype=np.int32) * 100_000,
    DType.UINT32: np.arange(3, dtype=np.uint32) * 2_000_000_000,
    DType.FP32: np.linspace(-1, 1, 5, dtype=np.float32),
    DType.FP16: np.linspace(-1, 1, 5, dtype=np.float16),
}
EXPECTED: dict[DType, np.ndarray[Any, Any]] = {**SUB_BYTE, **WHOLE}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[DType, int]]:
    from coremltools.libmilstoragepython import _BlobStorageWriter

    path = tmp_path_factory.mktemp("blob") / "weight.bin"
    writer = _BlobStorageWriter(str(path))
    offsets = {}
    for dtype, values in SUB_BYTE.items():
        element = types.nptype_from_builtin(getattr(types, dtype.value))
        offsets[dtype] = getattr(writer, f"write_{dtype.value}_data")(values.astype(element))
    for dtype, values in WHOLE.items():
        name = {DType.FP32: "float", DType.FP16: "fp16"}.get(dtype, dtype.value)
        stored = values.view(np.uint16) if dtype is DType.FP16 else values
        offsets[dtype] = getattr(writer, f"write_{name}_data")(stored)
    del writer
    return path, offsets


@pytest.mark.parametrize("dtype", EXPECTED, ids=lambda d: d.value)
def test_every_type_reads_back(written: tuple[Path, dict[DType, int]], dtype: DType) -> None:
    path, offsets = written
    with BlobFile(path) as file:
        blob = file.expect(offsets[dtype], dtype, EXPECTED[dtype].size)
        values = file.array(blob)
        assert values.dtype == dtype.storage
        np.testing.assert_array_equal(values, EXPECTED[dtype])


@pytest.mark.parametrize(
    ("kind", "dtype", "data"),
    [
        (5, DType.BF16, b"\x80\x3f\x00\xc0"),
        (16, DType.FP8E4M3FN, b"\x38\xc0"),
        (17, DType.FP8E5M2, b"\x3c\xc0"),
    ],
    ids=lambda v: v.value if isinstance(v, DType) else "",
)
def test_floats_that_coremltools_does_not_write(tmp_path: Path, kind: int, dtype: DType, data: bytes) -> None:
    path = _file(tmp_path / "weight.bin", kind=kind, size=len(data), data=0)
    path.write_bytes(path.read_bytes() + data)
    with BlobFile(path) as file:
        values = to_carrier(file.array(file.expect(64, dtype, 2)), dtype)
    assert values.tolist() == [1, -2]


def test_records_finds_all(written: tuple[Path, dict[DType, int]]) -> None:
    path, offsets = written
    with BlobFile(path) as file:
        assert {blob.dtype: offset for offset, blob in file.records()} == offsets


def test_maps_without_copying_and_never_writes(written: tuple[Path, dict[DType, int]]) -> None:
    path, offsets = written
    before = path.read_bytes()
    with BlobFile(path) as file:
        values = file.array(file.record(offsets[DType.FP32]))
        again = file.array(file.record(offsets[DType.FP32]))
        assert np.shares_memory(values, again)
        values[:] = 0
        assert path.read_bytes() == before


def _file(path: Path, count: int = 1, kind: int = 2, size: int = 8, start: int = 128, **fields: int) -> Path:
    header = struct.pack("<II56x", count, fields.get("version", 2))
    record = struct.pack("<IIQQQ32x", fields.get("sentinel", 0xDEADBEEF), kind, size, start, fields.get("pad", 0))
    path.write_bytes(header + record + b"\0" * fields.get("data", 8))
    return path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sentinel": 7}, "no record there"),
        ({"kind": 99}, "unknown data type number 99"),
        ({"size": 16}, "the file ends at 136"),
        ({"start": 4096}, "the file ends at 136"),
        ({"start": 0}, "the file ends at"),
        ({"size": 7}, "do not hold whole fp32 values"),
        ({"version": 1}, "weight file version 1"),
        ({"kind": 11, "size": 1, "pad": 16}, "do not hold whole uint4"),
    ],
)
def test_damage_is_named(tmp_path: Path, fields: dict[str, int], message: str) -> None:
    path = _file(tmp_path / "weight.bin", **fields)
    with pytest.raises(BlobError, match=message) as error:
        BlobFile(path).record(64)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(("offset", "message"), [(0, "multiples of 64"), (100, "multiples of 64"), (192, "truncated")])
def test_offsets_are_checked(tmp_path: Path, offset: int, message: str) -> None:
    with pytest.raises(BlobError, match=message):
        BlobFile(_file(tmp_path / "weight.bin")).record(offset)


def test_expectations_are_checked(tmp_path: Path) -> None:
    file = BlobFile(_file(tmp_path / "weight.bin"))
    with pytest.raises(BlobError, match="holds fp32, the program expects fp16"):
        file.expect(64, DType.FP16, 4)
    with pytest.raises(BlobError, match="holds 2 fp32 values, the program expects 3"):
        file.expect(64, DType.FP32, 3)
    with pytest.raises(BlobError, match="cannot be mapped"):
        BlobFile(tmp_path / "absent.bin")
    (tmp_path / "short.bin").write_bytes(b"\0" * 10)
    with pytest.raises(BlobError, match="too few"):
        BlobFile(tmp_path / "short.bin")
    (tmp_path / "empty.bin").write_bytes(b"")
    with pytest.raises(BlobError, match="cannot be mapped"):
        BlobFile(tmp_path / "empty.bin")


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(SUB_BYTE, key=lambda d: d.value)), st.data())
def test_unpack_inverts_packing(dtype: DType, data: st.DataObject) -> None:
    low, high = (-8, 7) if dtype is DType.INT4 else (0, 2**dtype.bits - 1)
    values = np.array(data.draw(st.lists(st.integers(low, high), max_size=40)), np.int64)
    bits = (values[:, None] >> np.arange(dtype.bits)) & 1
    packed = np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little")
    np.testing.assert_array_equal(unpack(packed, dtype, values.size), values)
    with pytest.raises(BlobError, match="fewer than"):
        unpack(packed, dtype, packed.size * 8 // dtype.bits + 1)


@settings(deadline=None, max_examples=80)
@given(st.binary(max_size=400))
def test_random_bytes_never_crash(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random.bin"
    path.write_bytes(struct.pack("<II56x", 3, 2) + content)
    with BlobFile(path) as file:
        for offset in range(64, file.size, 64):
            with contextlib.suppress(BlobError):
                blob = file.record(offset)
                assert file.array(blob).size == blob.elements
