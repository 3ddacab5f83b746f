"""A Gemma 4 text chunk to measure with: E4B's first, tiny or at full size, its weights drawn at random."""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from converters.gemma4.chunks import TextChunk
from converters.gemma4.config import TextConfig, parse_config
from converters.gemma4.decode import chunk_functions
from converters.gemma4.interface import MAIN, chunk_span
from converters.gemma4.synthetic import SIZES, model_config
from converters.gemma4.tensors import chunk_shapes
from converters.light import Placeholders, is_heavy
from converters.mil.types import Array
from converters.package import Function, build_package
from converters.palettize import Palettization
from converters.weights import Weight

LAYERS = 12
"""E4B's first chunk: ten sliding and two full-attention layers, all with keys and values of their own."""

POOL = 1 << 24
"""Random numbers that weights are cut from; drawing a billion of them would take longer than all the rest."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How wide a chunk is; its structure is always that of E4B's first chunk.

    Attributes:
        hidden: width of the decoder.
        intermediate: of its feed-forward layers.
        head_dim: of sliding layers; full ones have twice that.
        per_layer: width of one layer's slice of the per-layer embedding.
        window: positions in a sliding cache.
        context: positions in a full cache.
    """

    hidden: int
    intermediate: int
    head_dim: int
    per_layer: int
    window: int
    context: int


TINY = Shape(128, 256, 16, 32, 16, 64)
FULL_SIZE = Shape(2560, 10240, 256, 256, 512, 2048)


def text_config(shape: Shape) -> TextConfig:
    """E4B's text configuration with these widths."""
    text = parse_config(model_config(SIZES["e4b-small"]).to_dict()).text
    return replace(
        text,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        head_dim=shape.head_dim,
        global_head_dim=2 * shape.head_dim,
        hidden_size_per_layer_input=shape.per_layer,
        sliding_window=shape.window,
    )


def chunk_function(shape: Shape, read: Callable[[str, tuple[int, ...]], Tensor]) -> Function:
    """The chunk's decode function over the weights that `read` gives for a checkpoint name and a shape."""
    text = text_config(shape)
    shapes = chunk_shapes(text, 0, LAYERS)
    chunk = TextChunk(text, chunk_span(text, 0, LAYERS), lambda name: read(name, shapes[name]))
    return chunk_functions(text, chunk, shape.context, 0, MAIN)[0]


def write_chunk(
    shape: Shape, output: Path, compression: Palettization | None, progress: Callable[[str, float], None]
) -> int:
    """Write the chunk's package by the road of the recipes.

    Args:
        shape: how wide it is.
        output: the package's path, which must not exist.
        compression: of its weights; None for float16.
        progress: told what is happening and the fraction done.

    Returns:
        How many weights its matrices have.
    """
    placeholders = Placeholders()
    matrices = 0

    def read(name: str, size: tuple[int, ...]) -> Tensor:
        nonlocal matrices
        matrices += math.prod(size) if len(size) > 1 else 0
        if not is_heavy(size):
            return weight(name, size, torch.float16)
        return placeholders.add(Weight(name, size, "float16", functools.partial(_rows, name, size)), torch.float16)

    function = chunk_function(shape, read)
    build_package([function], output, compression=compression, placeholders=placeholders, progress=progress)
    return matrices


def weight(name: str, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The weight that the chunks have under this name, in a dtype; float16 values in any case."""
    halves = _rows(name, size, 0, size[0]).view(np.float16).reshape(size)
    return torch.from_numpy(halves.copy()).to(dtype)


def _rows(name: str, size: tuple[int, ...], start: int, stop: int) -> Array:
    """Rows of a weight as float16 codes, of a magnitude that keeps activations near 1."""
    row = math.prod(size[1:])
    values = np.take(_pool(), np.arange(start * row, stop * row) + zlib.crc32(name.encode()), mode="wrap")
    scaled = values * np.float32(row**-0.5) if len(size) > 1 else 1 + values * np.float32(0.1)
    return scaled.astype(np.float16).view(np.uint16)


@functools.cache
def _pool() -> Array:
    return np.random.default_rng(0).standard_normal(POOL, dtype=np.float32)
