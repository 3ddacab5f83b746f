"""Weights that the app reads as plain arrays: quantised embeddings, small projections, numpy files.

Everything is streamed in blocks of rows, so memory is bounded whatever the table's size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from converters.checkpoint import Checkpoint
from converters.errors import RecipeError
from converters.ordered import in_order

if TYPE_CHECKING:
    import torch

BLOCK_ELEMENTS = 1 << 20
"""Values converted at a time: 4 MiB in float32, which a processor's cache still holds."""

INT8_MAX = 127

NPY_HEADER_BYTES = 128
_NPY_MAGIC = b"\x93NUMPY\x01\x00"


def blocks(rows: int, width: int, block_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, int]]:
    """Row ranges that cover `rows` rows of `width` values in blocks of about `block_elements` values."""
    step = max(1, block_elements // max(1, width))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def quantize_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric int8 with one scale per row.

    The stored scale is the row's largest magnitude in fp16; a value is `q * scale / 127`. The quotient is taken with
    the fp16 scale, since that is the one the reader has. Format: `embed_tokens_q8.bin` of the public E2B bundle.

    Args:
        rows: (rows, width), any float dtype, finite.

    Returns:
        (rows, width) int8 and (rows,) fp16. A row whose scale underflows fp16 becomes zeros.
    """
    import torch

    exact = rows.to(torch.float32, copy=True)
    scales = torch.maximum(exact.amax(dim=1), exact.amin(dim=1).neg_()).to(torch.float16)
    divisor = scales.to(torch.float32).clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    quantized = exact.mul_(INT8_MAX).div_(divisor).round_().clamp_(-INT8_MAX, INT8_MAX)
    quantized[scales == 0] = 0
    return quantized.to(torch.int8), scales


def write_quantized_table(
    checkpoint: Checkpoint,
    name: str,
    shape: tuple[int, int],
    values_path: Path,
    scales_path: Path,
    *,
    must_equal: str | None = None,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> None:
    """Writes a 2-D tensor as int8 rows and fp16 row scales (`quantize_rows`), both row-major without header.

    Args:
        checkpoint: where the tensor is.
        name: canonical tensor name.
        shape: required (rows, width).
        values_path: gets rows * width bytes.
        scales_path: gets rows * 2 bytes.
        must_equal: a second tensor that has to hold the same values (a stored tied head).
        progress: called with the fraction done.

    Raises:
        RecipeError: missing tensor, wrong shape, a row that is not finite or exceeds fp16, or unequal tensors.
    """
    rows, width = shape
    checkpoint.require(name, shape)
    if must_equal is not None:
        checkpoint.require(must_equal, shape)
    convert = partial(_quantize_block, checkpoint, name, must_equal)
    with (
        values_path.open("wb") as values_file,
        scales_path.open("wb") as scales_file,
        torch_in_callers() as threads,
    ):
        for stop, quantized, scales in in_order(convert, blocks(rows, width), threads):
            write_tensor(values_file, quantized)
            write_tensor(scales_file, scales)
            progress(stop / rows)


def _quantize_block(
    checkpoint: Checkpoint, name: str, must_equal: str | None, span: tuple[int, int]
) -> tuple[int, torch.Tensor, torch.Tensor]:
    """The end of a range of rows, their values and their scales."""
    import torch

    start, stop = span
    block = checkpoint.rows(name, start, stop)
    if must_equal is not None and not torch.equal(block, checkpoint.rows(must_equal, start, stop)):
        raise RecipeError(
            f"{checkpoint.directory}: {must_equal} differs from {name} in rows {start} to {stop - 1},"
            " but config.json ties them; if the head is its own, set tie_word_embeddings to false there"
        )
    quantized, scales = quantize_rows(block)
    bad = torch.nonzero(~torch.isfinite(scales))
    if len(bad):
        raise RecipeError(f"tensor {name}, row {start + int(bad[0])}: not finite or too large for fp16")
    return stop, quantized, scales


@contextlib.contextmanager
def torch_in_callers() -> Iterator[int]:
    """Has torch compute in the threads that call it; gives how many of those there should be.

    Blocks are small, and between them torch's own threads wait for each other: for a table of 2.8e9 values two of them
    took 82 CPU-seconds on a busy machine, one took 12.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def to_half(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """fp16, refusing what does not fit.

    Raises:
        RecipeError: a value is not finite or exceeds fp16's range.
    """
    import torch

    half = tensor.to(torch.float16)
    if not bool(torch.isfinite(half).all()):
        raise RecipeError(f"tensor {name} has values that are not finite or too large for fp16")
    return half


def write_half(checkpoint: Checkpoint, name: str, shape: tuple[int, ...], path: Path, *, npy: bool = False) -> None:
    """Writes a tensor as row-major little-endian fp16, raw or with an npy header.

    Raises:
        RecipeError: missing tensor, wrong shape, or values outside fp16.
    """
    checkpoint.require(name, shape)
    width = 1
    for size in shape[1:]:
        width *= size
    with path.open("wb") as file:
        if npy:
            file.write(npy_header("<f2", shape))
        for start, stop in blocks(shape[0], width):
            write_tensor(file, to_half(checkpoint.rows(name, start, stop), name))


def write_float32(checkpoint: Checkpoint, name: str, shape: tuple[int, ...], path: Path) -> None:
    """Writes a small tensor as raw row-major little-endian float32.

    Raises:
        RecipeError: missing tensor or wrong shape.
    """
    import torch

    with path.open("wb") as file:
        write_tensor(file, checkpoint.tensor(name, shape).to(torch.float32))


def npy_header(descr: str, shape: tuple[int, ...]) -> bytes:
    """A version 1.0 npy header of exactly 128 bytes, C order; the app reads the version 1 length field only.

    Layout: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.
    """
    dimensions = "".join(f"{size}, " for size in shape) if len(shape) == 1 else ", ".join(map(str, shape))
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dimensions.rstrip(' ')}), }}"
    room = NPY_HEADER_BYTES - len(_NPY_MAGIC) - 2
    if len(text) >= room:
        raise ValueError(f"an array of shape {shape} does not fit a {NPY_HEADER_BYTES}-byte header")
    return _NPY_MAGIC + room.to_bytes(2, "little") + text.ljust(room - 1).encode("ascii") + b"\n"


def write_tensor(file: BinaryIO, tensor: torch.Tensor) -> None:
    """Appends the values, row-major, little-endian, to an open file."""
    file.write(tensor.contiguous().numpy().tobytes())
