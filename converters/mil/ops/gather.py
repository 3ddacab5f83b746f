"""Gathering by index.

From iOS 17 on negative indices count as out of bounds, before that they count from the end. Core ML leaves
it undefined what an index out of bounds gives; here it is an error.
"""

from __future__ import annotations

import math

import torch

from converters.mil.ops.registry import op
from converters.mil.site import Bound, Site


def positions(indices: torch.Tensor, size: int) -> torch.Tensor:
    """Indices as int64, negative ones counted from the end of an axis of `size`."""
    wide = indices.to(torch.int64)
    return torch.where(wide < 0, wide + size, wide)


def flat_positions(indices: torch.Tensor, sizes: torch.Size) -> torch.Tensor:
    """Row-major positions for index vectors in the last axis of `indices`.

    Raises:
        IndexError: one lies outside.
    """
    flat = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for i, size in enumerate(sizes):
        place = positions(indices[..., i], size)
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
    site.require(0 <= batch <= axis, f"has batch_dims {batch} with axis {axis}")

    def plain(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        picked = x.index_select(axis, positions(indices, x.shape[axis]).reshape(-1))
        return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])

    def batched(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        lead, rest = x.shape[:batch], indices.shape[batch:]
        items = zip(
            x.reshape(-1, *x.shape[batch:]), indices.reshape(math.prod(lead), -1), strict=True
        )  # one per batch element
        picked = [item.index_select(axis - batch, positions(i, x.shape[axis])) for item, i in items]
        return torch.stack(picked).reshape(*x.shape[:axis], *rest, *x.shape[axis + 1 :])

    return site.bind(batched if batch else plain, "x", "indices")


@op("gather_along_axis", moves=True)
def gather_along_axis(site: Site) -> Bound:
    """For each index, the element at that position along the axis and at the index's own place elsewhere."""
    axis = site.axis("axis", site.rank("x"), 0)
    site.flag("validate_indices", default=False)
    return site.bind(lambda x, indices: torch.gather(x, axis, positions(indices, x.shape[axis])), "x", "indices")


@op("gather_nd", moves=True)
def gather_nd(site: Site) -> Bound:
    """Slices of x at index vectors, which are the last axis of `indices`."""
    batch = site.integer("batch_dims", 0)
    site.flag("validate_indices", default=False)

    def kernel(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        depth = indices.shape[-1]
        lead, middle, rest = x.shape[:batch], x.shape[batch : batch + depth], x.shape[batch + depth :]
        count = math.prod(lead)
        rows = x.reshape(count, math.prod(middle), *rest)
        flat = flat_positions(indices, middle).reshape(count, -1)
        picked = torch.stack([row.index_select(0, place) for row, place in zip(rows, flat, strict=True)])
        return picked.reshape(*indices.shape[:-1], *rest)

    return site.bind(kernel, "x", "indices")
