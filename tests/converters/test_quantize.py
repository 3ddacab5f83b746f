"""Linear quantization against coremltools' own, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from converters.errors import RecipeError
from converters.package import quiet
from converters.quantize import LinearQuantization, blocks
from converters.weights import array_weight
from tests.converters.test_palettize import bfloat16_values

pytestmark = pytest.mark.convert


def quantized(values: Any, scheme: LinearQuantization, threads: int = 2) -> tuple[Any, Any]:
    found = list(blocks(array_weight("w", values), scheme, threads=threads))
    data = np.concatenate([block.data for block in found]).reshape(values.shape)
    return data, np.concatenate([block.scale for block in found]).reshape(scheme.scale_shape(values.shape))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("shape", "block_size"), [((64, 128), 32), ((64, 128), 0), ((48, 96, 1, 1), 16), ((32, 64, 3, 3), 32)]
)
def test_same_as_coremltools(
    bits: int, shape: tuple[int, ...], block_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with quiet():
        from coremltools.optimize.coreml._quantization_passes import linear_quantize_weights
    values = bfloat16_values(int(np.prod(shape)), bits).reshape(shape)
    wanted = linear_quantize_weights.blockwise_compress_by_dtype(
        values, f"int{bits}", "LINEAR_SYMMETRIC", [1, block_size, *(0 for _ in shape[2:])]
    )
    assert wanted is not None
    monkeypatch.setattr("converters.quantize.BLOCK", 1000)
    data, scale = quantized(values, LinearQuantization(bits, block_size))
    assert (data == wanted.data).all()
    assert scale.dtype == wanted.scale.dtype == np.float16
    assert scale.shape == wanted.scale.shape
    assert (scale == wanted.scale).all()


def test_zeros_and_extremes() -> None:
    values = np.zeros((2, 2048), np.float16)
    values[1, :32] = 65504
    values[1, 5] = -65504
    data, scale = quantized(values, LinearQuantization(8, 32))
    assert not data[0].any()
    assert not scale[0].any()
    assert (data[1, :5] == 127).all()
    assert data[1, 5] == -127
    assert np.isfinite(scale).all()


def test_what_cannot_be_quantized() -> None:
    assert LinearQuantization().applies_to((64, 64, 1, 1))
    assert not LinearQuantization().applies_to((64, 48))  # not whole blocks
    assert LinearQuantization(8, 0).applies_to((64, 48))
    assert not LinearQuantization().applies_to((32, 64))  # not above the threshold
    assert not LinearQuantization().applies_to((4096,))
    with pytest.raises(ValueError, match="4 or 8 bits"):
        LinearQuantization(3)
    with pytest.raises(ValueError, match="block of -1"):
        LinearQuantization(4, -1)
    broken = np.ones((64, 64), np.float16)
    broken[3, 3] = np.nan
    with pytest.raises(RecipeError, match="weight w: a value is infinite or not a number"):
        quantized(broken, LinearQuantization())
