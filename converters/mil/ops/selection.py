"""Ordering and finding elements."""

from __future__ import annotations

import torch

from converters.mil.ops.registry import op
from converters.mil.site import Bound, Site


@op("topk", moves=True)
def topk(site: Site) -> Bound:
    """The `k` greatest (or least) elements along an axis, and their positions."""
    axis, ascending = site.integer("axis", -1), site.flag("ascending", default=False)
    site.flag("sort", default=True)  # unsorted results may come in any order, so also in this one
    with_indices = site.flag("return_indices", default=True)
    site.text("output_indices_dtype", "int32")
    count = site.integer("k", 1)
    carrier = site.output_carrier(1) if with_indices else torch.int32

    def kernel(x: torch.Tensor) -> tuple[torch.Tensor, ...] | torch.Tensor:
        size = x.shape[axis] if count == -1 else count
        # a stable sort: of equal elements the first comes first
        order = torch.sort(x, dim=axis, descending=not ascending, stable=True)
        values = order.values.narrow(axis, 0, size)
        return (values, order.indices.narrow(axis, 0, size).to(carrier)) if with_indices else values

    return site.bind(kernel, "x")


@op("argsort")
def argsort(site: Site) -> Bound:
    """Positions that would sort the elements along an axis."""
    axis, ascending = site.integer("axis", -1), site.flag("ascending", default=False)
    carrier = site.output_carrier()
    return site.bind(lambda x: torch.argsort(x, dim=axis, descending=not ascending, stable=True).to(carrier), "x")


@op("non_zero")
def non_zero(site: Site) -> Bound:
    """Positions of the elements that are not 0, one row each, in row-major order."""
    carrier = site.output_carrier()
    return site.bind(lambda x: torch.nonzero(x).to(carrier), "x")
