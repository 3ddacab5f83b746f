"""Operations that make tensors from sizes and numbers."""

from __future__ import annotations

import torch

from converters.mil.ops.registry import op
from converters.mil.site import Bound, Site


@op("fill")
def fill(site: Site) -> Bound:
    """A tensor of the given sizes, all of one value."""
    value, carrier = site.number("value", 0.0), site.output_carrier()
    return site.bind(lambda sizes: torch.full(sizes.tolist(), value, dtype=carrier), "shape")


@op("fill_like")
def fill_like(site: Site) -> Bound:
    """A tensor of another one's sizes, all of one value."""
    value, carrier = site.number("value", 0.0), site.output_carrier()
    return site.bind(lambda reference: torch.full(reference.shape, value, dtype=carrier), "ref_tensor")


@op("range_1d")
def range_1d(site: Site) -> Bound:
    """`start`, `start + step`, ... below `end`."""
    carrier = site.output_carrier()

    def kernel(start: torch.Tensor, end: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        return torch.arange(start.item(), end.item(), step.item(), dtype=carrier)

    return site.bind(kernel, "start", "end", "step")


@op("one_hot")
def one_hot(site: Site) -> Bound:
    """`on_value` at each index along a new axis, `off_value` elsewhere; all off for an index outside."""
    on, off = site.number("on_value", 1.0), site.number("off_value", 0.0)
    axis, carrier = site.integer("axis", -1), site.output_carrier()

    def kernel(indices: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        hot = indices.unsqueeze(-1) == torch.arange(int(size), dtype=indices.dtype)
        return torch.where(hot, on, off).to(carrier).movedim(-1, axis)

    return site.bind(kernel, "indices", "one_hot_vector_size")


@op("band_part", moves=True)
def band_part(site: Site) -> Bound:
    """Zeroes all but a band of each matrix: `lower` diagonals below and `upper` above; negative keeps all."""
    lower, upper = site.integer("lower", -1), site.integer("upper", -1)

    def kernel(x: torch.Tensor) -> torch.Tensor:
        if lower >= 0:
            x = torch.triu(x, -lower)
        return torch.tril(x, upper) if upper >= 0 else x

    return site.bind(kernel, "x")


@op("cumsum")
def cumsum(site: Site) -> Bound:
    """Running sum along an axis, without the element itself if exclusive, from the end if reverse."""
    axis = site.integer("axis", 0)
    exclusive, backward = site.flag("exclusive", default=False), site.flag("reverse", default=False)

    def kernel(x: torch.Tensor) -> torch.Tensor:
        source = torch.flip(x, (axis,)) if backward else x
        total = torch.cumsum(source, axis, dtype=x.dtype)
        if exclusive:
            total = torch.roll(total, 1, axis)
            total.select(axis, 0).zero_()
        return torch.flip(total, (axis,)) if backward else total

    return site.bind(kernel, "x")
