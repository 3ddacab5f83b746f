"""How large a text chunk's `weight.bin` will be, from the config alone: nothing is read and nothing is built.

The file is coremltools' blob storage: a header, then for each weight a record and its values, all aligned. A matrix
takes two blobs, indices and look-up tables, a norm one. What is equal is stored once, so the size before that is an
upper limit, and the exact one takes knowing which norms are equal: see `Identity`.

With the norms of all KV-sharing layers taken for equal, the result is the exact size of the public bundles' files,
in E2B and in E4B (`tests/converters/gemma4/test_sizes.py`, docs/sizes.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass

from converters.gemma4.config import Range, TextConfig
from converters.gemma4.tensors import chunk_shapes
from converters.palettize import Palettization

ALIGNMENT = 64
"""Of records and values, and the size of the header and of a record (`StorageFormat.hpp` in coremltools' mlmodel)."""

HALF_BYTES = 2

SMALLEST_BLOB = 10
"""Constants of fewer values lie in the program itself (`should_use_weight_file` in coremltools' MIL backend)."""

Identity = Callable[[str], Hashable]
"""Two tensors with equal identities hold the same values. `Checkpoint.digest` is one; so is the name, at worst."""


@dataclass(frozen=True, slots=True)
class Blob:
    """One entry of a weight file.

    Attributes:
        content: what it holds; equal contents of equal size are stored once.
        size: bytes of its values.
    """

    content: Hashable
    size: int


def by_name(name: str) -> Hashable:
    """No two tensors are the same."""
    return name


def chunk_weight_bytes(
    text: TextConfig,
    layers: Range,
    scheme: Palettization | None,
    *,
    linear: bool = False,
    identity: Identity = by_name,
) -> int:
    """Bytes of the `weight.bin` of a chunk, whichever functions it has: decode, verify, prefill or stateful.

    Args:
        text: the text configuration.
        layers: of the chunk.
        scheme: how matrices are compressed; None leaves them float16.
        linear: projections are linear layers, which Core ML gives a bias each; zeros of equal length are one blob.
        identity: which tensors are equal.
    """
    return weight_file_bytes(chunk_blobs(text, layers, scheme, linear=linear, identity=identity))


def weight_file_bytes(blobs: Iterable[Blob]) -> int:
    """Size of a weight file with these blobs.

    Nothing fills up the end of a file: where its last blob is no multiple of 64 bytes, as in models of odd widths,
    it is up to 63 bytes smaller.
    """
    return ALIGNMENT + sum(ALIGNMENT + math.ceil(blob.size / ALIGNMENT) * ALIGNMENT for blob in set(blobs))


def chunk_blobs(
    text: TextConfig, layers: Range, scheme: Palettization | None, *, linear: bool, identity: Identity
) -> Iterator[Blob]:
    """What a chunk stores; see `chunk_weight_bytes`."""
    for name, shape in chunk_shapes(text, *layers).items():
        content, size = identity(name), math.prod(shape)
        is_matrix = len(shape) > 1
        if is_matrix and scheme is not None and scheme.applies_to(shape):
            groups = shape[0] // (scheme.group_size or shape[0])
            yield Blob(("indices", content), math.ceil(size * scheme.bits / 8))
            yield Blob(("tables", content), groups * (1 << scheme.bits) * HALF_BYTES)
        elif size >= SMALLEST_BLOB:
            yield Blob(content, size * HALF_BYTES)
        if is_matrix and linear and shape[0] >= SMALLEST_BLOB:
            yield Blob("zeros", shape[0] * HALF_BYTES)
