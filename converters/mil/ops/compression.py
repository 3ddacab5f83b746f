"""Compressed weights: `constexpr_*` operations, decompressed when a weight is first used.

iOS 16 keeps operands in attributes and packs bits in uint8; iOS 18 has sub-byte types, blocks and groups.
Decompressed fp16 weights are fp16 values in either arithmetic, as they are on a device. What `MATRICES` names can
also be multiplied without ever being decompressed as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from converters.mil.blob import unpack
from converters.mil.carriers import rounding
from converters.mil.errors import OpError
from converters.mil.matrix import Matrix, Palette, palettized
from converters.mil.ops.registry import constexpr
from converters.mil.types import Array, DType, TensorType
from converters.mil.weights import AsMatrix, Parameters, matrix_size

_PACKED = {1: DType.UINT1, 2: DType.UINT2, 4: DType.UINT4, 6: DType.UINT6}
"""Bits of packed iOS 16 indices -> the type that unpacks them; 8 bits are not packed."""


def _rounded(tensor: torch.Tensor, dtype: DType) -> torch.Tensor:
    round_result = rounding(dtype)
    return tensor if round_result is None else round_result(tensor)


def _repeated(tensor: torch.Tensor, shape: Sequence[int], label: str) -> torch.Tensor:
    """A tensor of one value per block, repeated to the full shape."""
    if tensor.dim() != len(shape):
        raise OpError(f"{label}: blocks of rank {tensor.dim()} for data of rank {len(shape)}")
    for axis, size in enumerate(shape):
        blocks = tensor.shape[axis]
        if size % blocks:
            raise OpError(f"{label}: {blocks} blocks do not divide axis {axis} of {size}")
        if blocks not in {1, size}:
            tensor = tensor.repeat_interleave(size // blocks, axis)
    return tensor


def _shift_scale(
    p: Parameters, data: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor | None, dtype: DType
) -> torch.Tensor:
    """`scale * (data - offset)`, rounded as the declared type computes."""
    steps = data.to(torch.float32)
    if offset is not None:
        steps = _rounded(steps - _repeated(offset.to(torch.float32), data.shape, p.label), dtype)
    return _rounded(steps * _repeated(scale, data.shape, p.label), dtype)


@constexpr("constexpr_blockwise_shift_scale")
def blockwise_shift_scale(p: Parameters) -> tuple[torch.Tensor, ...]:
    """`scale * (data - offset)` with one scale per block; any number of blocks along any axis."""
    p.check_names(frozenset({"data", "scale", "offset"}))
    offset = p.tensor("offset") if p.has("offset") else None
    return (_shift_scale(p, p.tensor("data"), p.tensor("scale"), offset, p.type("scale").dtype),)


@constexpr("constexpr_affine_dequantize")
def affine_dequantize(p: Parameters) -> tuple[torch.Tensor, ...]:
    """`scale * (data - zero_point)`, both scalars or vectors along `axis`."""
    p.check_names(frozenset({"quantized_data", "zero_point", "scale", "axis"}))
    data = p.tensor("quantized_data")
    axis = int(p.array("axis")) % data.dim()
    spread = [-1 if i == axis else 1 for i in range(data.dim())]

    def lay(values: torch.Tensor) -> torch.Tensor:
        return values.reshape(spread if values.dim() else [1] * data.dim())

    return (_shift_scale(p, data, lay(p.tensor("scale")), lay(p.tensor("zero_point")), p.type("scale").dtype),)


@constexpr("constexpr_cast")
def constexpr_cast(p: Parameters) -> tuple[torch.Tensor, ...]:
    """fp16 weights stored small and used as fp32."""
    p.check_names(frozenset({"source_val", "output_dtype"}))
    if p.text("output_dtype") != "fp32":
        raise OpError(f"{p.label}: casts to {p.text('output_dtype')}, only fp32 is known")
    return (p.tensor("source_val"),)


@constexpr("constexpr_lut_to_dense")
def lut_to_dense(p: Parameters) -> tuple[torch.Tensor, ...]:
    """Palettized weights: indices into tables, one table per group of elements.

    The tables have the shape (groups along each axis..., entries, vector). With a vector longer than 1 each
    index stands for that many elements along `vector_axis`. iOS 16's form has one table and packed indices.
    """
    p.check_names(frozenset({"indices", "lut", "shape", "vector_axis"}))
    if p.has("shape"):
        return (_one_table(p),)
    indices, table = p.shape("indices"), p.tensor("lut")
    if table.dim() != len(indices) + 2:
        raise OpError(f"{p.label}: tables of rank {table.dim()} for indices of rank {len(indices)}")
    fast = _four_bit_rows(p, indices, table)
    if fast is not None:
        return (fast,)
    axis = int(p.array("vector_axis")) if p.has("vector_axis") else None
    return (_look_up(p.label, p.array("indices"), table, axis),)


def _one_table(p: Parameters) -> torch.Tensor:
    shape = tuple(int(size) for size in p.array("shape"))
    table = p.tensor("lut")
    bits = (table.numel() - 1).bit_length()
    packed, count = p.array("indices"), int(np.prod(shape, dtype=np.int64))
    indices = packed[:count] if bits == 8 else unpack(packed, _PACKED[bits], count)
    return table[torch.from_numpy(indices.astype(np.int64))].reshape(shape)


def _four_bit_rows(p: Parameters, indices: Sequence[int], table: torch.Tensor) -> torch.Tensor | None:
    """4-bit indices with scalar tables for groups of leading rows, straight from the packed bytes.

    A byte holds two indices, so a table of all 256 byte values gives two weights per look-up and nothing
    needs unpacking. None if the layout is another one.
    """
    packed = p.packed("indices")
    groups = table.shape[0]
    rows = int(np.prod(indices, dtype=np.int64)) // max(groups, 1)
    scalar_rows = table.numel() == groups * 16 and table.dtype == torch.float32
    if packed is None or p.type("indices").dtype is not DType.UINT4 or not scalar_rows or rows % 2:
        return None
    if indices[0] % groups:
        raise OpError(f"{p.label}: {groups} tables do not divide {indices[0]} rows")
    entries = table.reshape(groups, 16).numpy()
    low, high = np.arange(256) & 15, np.arange(256) >> 4
    out = np.empty((groups, rows // 2), np.complex64)  # a pair of float32
    grouped = packed.reshape(groups, rows // 2)
    for group in range(groups):
        pairs = np.stack([entries[group, low], entries[group, high]], axis=-1).view(np.complex64).reshape(-1)
        np.take(pairs, grouped[group], out=out[group], mode="clip")  # never clips; "raise" would buffer
    return torch.from_numpy(out.view(np.float32)).reshape(tuple(indices))


def _look_up(label: str, indices: Array, table: torch.Tensor, vector_axis: int | None) -> torch.Tensor:
    """The general form: any grouping along any axes, vectors along any axis."""
    entries, vector = table.shape[-2:]
    rank = indices.ndim
    if vector > 1 and vector_axis is None:
        raise OpError(f"{label}: tables of vectors without a vector_axis")
    which = torch.zeros((1,) * rank, dtype=torch.int64)
    for axis, (size, groups) in enumerate(zip(indices.shape, table.shape[:rank], strict=True)):
        if size % groups:
            raise OpError(f"{label}: {groups} tables do not divide axis {axis} of {size}")
        number = torch.arange(groups).repeat_interleave(size // groups)
        which = which * groups + number.reshape([-1 if i == axis else 1 for i in range(rank)])
    rows = table.reshape(-1, vector)
    picked = rows[which * entries + torch.from_numpy(indices.astype(np.int64))]
    if vector == 1:
        return picked.squeeze(-1)
    assert vector_axis is not None
    place = vector_axis % rank
    return picked.movedim(-1, place + 1).flatten(place, place + 1).contiguous()


def _mask(p: Parameters, name: str) -> Array:
    return p.array(name).astype(bool)


def _spread_nonzero(p: Parameters, values: torch.Tensor, mask: Array) -> torch.Tensor:
    """Values at the mask's set places in row-major order, zeros elsewhere."""
    if int(mask.sum()) != values.numel():
        raise OpError(f"{p.label}: the mask has {int(mask.sum())} places for {values.numel()} values")
    dense = torch.zeros(mask.shape, dtype=values.dtype)
    dense[torch.from_numpy(mask)] = values.reshape(-1)
    return dense


@constexpr("constexpr_sparse_to_dense")
def sparse_to_dense(p: Parameters) -> tuple[torch.Tensor, ...]:
    """Non-zero values and a bit mask of where they go."""
    p.check_names(frozenset({"nonzero_data", "mask", "shape"}))
    if not p.has("shape"):
        return (_spread_nonzero(p, p.tensor("nonzero_data"), _mask(p, "mask")),)
    shape = tuple(int(size) for size in p.array("shape"))
    mask = unpack(p.array("mask"), DType.UINT1, int(np.prod(shape, dtype=np.int64))).astype(bool)
    return (_spread_nonzero(p, p.tensor("nonzero_data"), mask.reshape(shape)),)


@constexpr("constexpr_lut_to_sparse")
def lut_to_sparse(p: Parameters) -> tuple[torch.Tensor, ...]:
    """Palettized non-zero values; gives the dense tensor's mask and its non-zero values."""
    p.check_names(frozenset({"indices_mask", "indices_nonzero_data", "lut", "vector_axis"}))
    mask = _mask(p, "indices_mask")
    indices = _spread_nonzero(p, torch.from_numpy(p.array("indices_nonzero_data").copy()), mask).numpy()
    axis = int(p.array("vector_axis")) if p.has("vector_axis") else None
    table = p.tensor("lut")
    dense = _look_up(p.label, indices, table, axis)
    if table.shape[-1] > 1:
        assert axis is not None  # _look_up has made sure
        mask = mask.repeat(table.shape[-1], axis)
    return torch.from_numpy(mask.astype(np.uint8)), dense[torch.from_numpy(mask)]


@constexpr("constexpr_sparse_blockwise_shift_scale")
def sparse_blockwise_shift_scale(p: Parameters) -> tuple[torch.Tensor, ...]:
    """Quantised non-zero values; gives the mask and the dequantised non-zero values."""
    p.check_names(frozenset({"data_mask", "nonzero_data", "scale", "offset"}))
    mask = _mask(p, "data_mask")
    data = _spread_nonzero(p, p.tensor("nonzero_data"), mask)
    offset = p.tensor("offset") if p.has("offset") else None
    dense = _shift_scale(p, data, p.tensor("scale"), offset, p.type("scale").dtype)
    return torch.from_numpy(mask.astype(np.uint8)), dense[torch.from_numpy(mask)]


# --- matrices that stay compressed ----------------------------------------------------------------------


def _lut_matrix(p: Parameters) -> Matrix | None:
    """Palettized weights whose tables are of scalars, each for a number of whole rows."""
    table = p.tensor("lut")
    shape = tuple(int(size) for size in p.array("shape")) if p.has("shape") else p.shape("indices")
    size = matrix_size(TensorType(DType.FP16, shape))
    packed = p.packed("indices")
    if packed is None or size is None or table.dtype != torch.float32:
        return None
    groups, entries = (1, table.numel()) if p.has("shape") else (table.shape[0], table.shape[-2])
    bits = (entries - 1).bit_length()
    scalars = table.numel() == groups * entries and entries == 1 << bits
    if not scalars or size[0] % groups or packed.size * 8 < bits * size[0] * size[1]:
        return None
    return palettized(Palette(packed, bits, table.reshape(groups, entries).numpy(), *size))


def _shift_scale_matrix(p: Parameters) -> Matrix | None:
    """Quantised weights with one scale per block."""
    offset = p.tensor("offset") if p.has("offset") else None
    return _quantized_matrix(p, "data", p.tensor("scale"), offset)


def _affine_matrix(p: Parameters) -> Matrix | None:
    """Quantised weights with one scale, or one per row or column."""
    rank = len(p.shape("quantized_data"))
    axis = int(p.array("axis")) % rank
    spread = [-1 if i == axis else 1 for i in range(rank)]
    scale, zero_point = (
        values.reshape(spread if values.dim() else [1] * rank)
        for values in (p.tensor("scale"), p.tensor("zero_point"))
    )
    return _quantized_matrix(p, "quantized_data", scale, zero_point)


def _quantized_matrix(p: Parameters, data: str, scale: torch.Tensor, offset: torch.Tensor | None) -> Matrix | None:
    size, packed, dtype = matrix_size(p.type(data)), p.packed(data), p.type(data).dtype
    if size is None or packed is None or dtype not in _QUANTIZED:
        return None
    rows, columns = size
    row_bits = columns * dtype.bits
    blocks = [values for values in (scale, offset) if values is not None]
    if row_bits % 8 or any(v.dim() != len(p.shape(data)) or rows % v.shape[0] or columns % v.shape[1] for v in blocks):
        return None

    def part(values: torch.Tensor, first: int, last: int) -> torch.Tensor:
        numbers = torch.arange(first, last) // (rows // values.shape[0])
        return values.flatten(1).index_select(0, numbers)

    def decode(first: int, last: int) -> torch.Tensor:
        stored = packed[first * row_bits // 8 : last * row_bits // 8]
        count = (last - first) * columns
        values = unpack(stored, dtype, count) if dtype.bits < 8 else stored.view(dtype.storage)
        steps = torch.from_numpy(values.reshape(-1, columns))
        shift = None if offset is None else part(offset, first, last)
        return _shift_scale(p, steps, part(scale, first, last), shift, p.type("scale").dtype)

    return Matrix(rows, columns, decode)


_QUANTIZED = frozenset({DType.INT4, DType.UINT4, DType.INT8, DType.UINT8})

MATRICES: dict[str, AsMatrix] = {
    "constexpr_lut_to_dense": _lut_matrix,
    "constexpr_blockwise_shift_scale": _shift_scale_matrix,
    "constexpr_affine_dequantize": _affine_matrix,
}
