"""How MIL values are held in torch while a program runs.

Every floating-point type up to 32 bits is carried in float32: arithmetic is always done in float32, and an
fp16 program run "in fp16" rounds each result to fp16. Integer types torch computes poorly with are carried
in the next wider signed type.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from converters.mil.types import Array, DType

CARRIERS: dict[DType, torch.dtype] = {
    DType.BOOL: torch.bool,
    DType.FP16: torch.float32,
    DType.FP32: torch.float32,
    DType.FP64: torch.float64,
    DType.BF16: torch.float32,
    DType.FP8E4M3FN: torch.float32,
    DType.FP8E5M2: torch.float32,
    DType.INT4: torch.int8,
    DType.INT8: torch.int8,
    DType.INT16: torch.int16,
    DType.INT32: torch.int32,
    DType.INT64: torch.int64,
    DType.UINT1: torch.uint8,
    DType.UINT2: torch.uint8,
    DType.UINT3: torch.uint8,
    DType.UINT4: torch.uint8,
    DType.UINT6: torch.uint8,
    DType.UINT8: torch.uint8,
    DType.UINT16: torch.int32,
    DType.UINT32: torch.int64,
    DType.UINT64: torch.int64,
}

_BIT_PATTERNS = {
    DType.BF16: (np.int16, torch.bfloat16),
    DType.FP8E4M3FN: (np.int8, torch.float8_e4m3fn),
    DType.FP8E5M2: (np.int8, torch.float8_e5m2),
}

Rounding = Callable[[torch.Tensor], torch.Tensor]


def to_carrier(array: Array, dtype: DType) -> torch.Tensor:
    """A tensor with the values of `array`, which holds `dtype` in its storage form.

    The memory is shared where storage and carrier are the same type.
    """
    if dtype in _BIT_PATTERNS:
        integer, pattern = _BIT_PATTERNS[dtype]
        return torch.from_numpy(array.view(integer)).view(pattern).to(torch.float32)
    if dtype in {DType.UINT16, DType.UINT32, DType.UINT64}:
        array = array.astype(np.int32 if dtype is DType.UINT16 else np.int64)
    return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape)).to(CARRIERS[dtype])


def from_carrier(tensor: torch.Tensor, dtype: DType) -> Array:
    """A fresh numpy array in `dtype`'s storage form; fp16 is rounded to nearest even."""
    if dtype in _BIT_PATTERNS:
        integer, pattern = _BIT_PATTERNS[dtype]
        bits = tensor.to(pattern).view(torch.int16 if integer is np.int16 else torch.int8)
        return bits.numpy().view(dtype.storage).copy()
    if dtype is DType.FP16:  # beyond its range is infinity, as on the device; fifty times as fast as numpy
        return tensor.to(torch.float16, copy=True).numpy()
    return np.array(tensor.numpy(), dtype=dtype.storage, copy=True)


def round_fp16(tensor: torch.Tensor) -> torch.Tensor:
    """The nearest fp16 values, still carried in float32."""
    return tensor.half().float()  # the short names take half as long to call


def _round_bf16(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16().float()


def rounding(dtype: DType) -> Rounding | None:
    """The function that rounds a carried value to `dtype`, None where the carrier is exact."""
    return {DType.FP16: round_fp16, DType.BF16: _round_bf16}.get(dtype)
