"""Weights as 4 or 8-bit integers times a scale per block of input channels, or per output channel.

The scheme is coremltools' `linear_symmetric` (`linear_quantize_weights`), to the bit: its arithmetic is float16 like
the weights, each step rounded. Rows are read, quantized and packed block by block, on all cores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from converters.ordered import in_order, usable_cores
from converters.weights import Half, Weight

BITS = (4, 8)

BLOCK = 1 << 20
"""Weights that one thread works on at a time, about; NumPy's steps in between take some 12 bytes for each."""


@dataclass(frozen=True, slots=True)
class LinearQuantization:
    """How the weights of a package are compressed.

    Attributes:
        bits: per weight, 4 or 8.
        block_size: input channels that share a scale; 0 for one scale per output channel.
        threshold: tensors with at most this many elements stay as they are (coremltools' default).

    Raises:
        ValueError: other numbers of bits, or a negative block size.
    """

    bits: int = 4
    block_size: int = 32
    threshold: int = 2048

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"weights are quantized to {' or '.join(map(str, BITS))} bits, not {self.bits}")
        if self.block_size < 0:
            raise ValueError(f"a block of {self.block_size} channels is none; 0 is for whole output channels")

    def applies_to(self, shape: tuple[int, ...]) -> bool:
        """Whether a weight of this shape, output channels first, is compressed."""
        size = math.prod(shape)
        return len(shape) > 1 and size > self.threshold and shape[1] % (self.block_size or shape[1]) == 0

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a weight's scales."""
        return (shape[0], shape[1] // (self.block_size or shape[1]), *(1 for _ in shape[2:]))


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a quantized weight.

    Attributes:
        data: int8, flat, within plus and minus `2**(bits - 1) - 1`.
        scale: float16, flat.
    """

    data: npt.NDArray[np.int8]
    scale: Half


def blocks(weight: Weight, scheme: LinearQuantization, *, threads: int | None = None) -> Iterator[Block]:
    """Quantize a weight block by block, reading it as it goes along.

    Args:
        weight: of a shape that the scheme applies to.
        scheme: what to quantize to.
        threads: to work on; None for as many as there are cores.

    Returns:
        Blocks in order.

    Raises:
        RecipeError: a value is infinite or not a number in float16.
    """
    rows = max(1, BLOCK // weight.row_size)
    spans = [(start, min(start + rows, weight.shape[0])) for start in range(0, weight.shape[0], rows)]
    yield from in_order(partial(_quantize, weight, scheme), spans, threads or usable_cores())


def _quantize(weight: Weight, scheme: LinearQuantization, span: tuple[int, int]) -> Block:
    values = weight.half(*span)
    grouped = values.reshape(values.shape[0], weight.shape[1] // (scheme.block_size or weight.shape[1]), -1)
    most = np.abs(grouped).max(axis=-1, keepdims=True)
    top = 2 ** (scheme.bits - 1) - 1
    with np.errstate(over="ignore"):
        scale = ((most - -most) / (2 * top)).astype(np.float16)
    scale = np.where(np.isfinite(scale), scale, (most.astype(np.float32) / top).astype(np.float16))
    divisor = np.where(scale == 0, np.float16(1), scale)  # nothing but zeros, which stay zeros
    data = np.clip(np.round(grouped / divisor), -top, top).astype(np.int8)
    return Block(data.reshape(-1), scale.reshape(-1))
