"""Gathering by index.

Up to iOS 16 negative indices count from the end, from iOS 17 on they are out of bounds. Core ML leaves it
undefined what an index out of bounds gives; here it is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from converters.mil.ops.registry import op
from converters.mil.site import Bound, Site

Positions = Callable[[torch.Tensor, int], torch.Tensor]
"""(indices, size of the axis) -> int64 positions."""

FIRST_OPSET_WITHOUT_NEGATIVES = 7
"""iOS 17."""


def positions(site: Site) -> Positions:
    """How the operation's indices are to be read; what is out of bounds stays so, for torch to refuse."""
    if site.opset >= FIRST_OPSET_WITHOUT_NEGATIVES:
        return lambda indices, _: indices.to(torch.int64)

    def from_the_end(indices: torch.Tensor, size: int) -> torch.Tensor:
        wide = indices.to(torch.int64)
        return torch.where(wide < 0, wide + size, wide)

    return from_the_end


def flat_positions(indices: torch.Tensor, sizes: Sequence[int], read: Positions) -> torch.Tensor:
    """Row-major positions for index vectors in the last axis of `indices`.

    Raises:
        IndexError: one lies outside.
    """
    flat = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for i, size in enumerate(sizes):
        place = read(indices[..., i], size)
        if bool(((place < 0) | (place >= size)).any()):
            raise IndexError(f"an index is out of bounds for axis {i} of size {size}")
        flat = flat * size + place
    return flat


@op("gather", moves=True)
def gather(site: Site) -> Bound:
    """Slices of x along an axis: x[:axis] + indices[batch_dims:] + x[axis + 1:] in shape."""
    rank = site.rank("x")
    axis, batch = site.axis("axis", rank, 0), site.integer("batch_dims", 0)
    site.flag("validate_indices", default=False)
    read = positions(site)
    site.require(0 <= batch <= axis, f"has batch_dims {batch} with axis {axis}")

    def plain(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        picked = x.index_select(axis, read(indices, x.shape[axis]).reshape(-1))
        return picked.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))

    def batched(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        lead, rest = x.shape[:batch], indices.shape[batch:]
        items = zip(
            x.reshape(-1, *x.shape[batch:]), indices.reshape(math.prod(lead), -1), strict=True
        )  # one per batch element
        picked = [item.index_select(axis - batch, read(i, x.shape[axis])) for item, i in items]
        return torch.stack(picked).reshape((*x.shape[:axis], *rest, *x.shape[axis + 1 :]))

    return site.bind(batched if batch else plain, "x", "indices")


@op("gather_along_axis", moves=True)
def gather_along_axis(site: Site) -> Bound:
    """For each index, the element at that position along the axis and at the index's own place elsewhere."""
    axis, read = site.axis("axis", site.rank("x"), 0), positions(site)
    site.flag("validate_indices", default=False)
    return site.bind(lambda x, indices: torch.gather(x, axis, read(indices, x.shape[axis])), "x", "indices")


@op("gather_nd", moves=True)
def gather_nd(site: Site) -> Bound:
    """Slices of x at index vectors, which are the last axis of `indices`."""
    batch, read = site.integer("batch_dims", 0), positions(site)
    site.flag("validate_indices", default=False)

    def kernel(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        depth = indices.shape[-1]
        lead, middle, rest = x.shape[:batch], x.shape[batch : batch + depth], x.shape[batch + depth :]
        count = math.prod(lead)
        rows = x.reshape(count, math.prod(middle), *rest)
        flat = flat_positions(indices, middle, read).reshape(count, -1)
        picked = torch.stack([row.index_select(0, place) for row, place in zip(rows, flat, strict=True)])
        return picked.reshape((*indices.shape[:-1], *rest))

    return site.bind(kernel, "x", "indices")
