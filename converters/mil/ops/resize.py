"""Resizing the last axes of a tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from converters.mil.ops.grids import GRIDS, positions
from converters.mil.ops.registry import op
from converters.mil.site import Bound, Site


def linear(x: torch.Tensor, sizes: Sequence[int], mode: str) -> torch.Tensor:
    """The last axes brought to `sizes` by linear interpolation, one axis after the other."""
    for place, size in enumerate(sizes):
        axis = x.dim() - len(sizes) + place
        where = positions(mode, x.shape[axis], size)
        low = where.floor()
        weight = (where - low).reshape([-1 if i == axis else 1 for i in range(x.dim())])
        first = low.to(torch.int64)
        second = torch.clamp(first + 1, max=x.shape[axis] - 1)
        before, after = x.index_select(axis, first), x.index_select(axis, second)
        # Not `before + weight * (after - before)`: that is NaN between equal infinities.
        x = torch.where(weight == 0, before, before * (1 - weight) + after * weight)
    return x


def _pick(x: torch.Tensor, sizes: Sequence[int], index: Sequence[torch.Tensor]) -> torch.Tensor:
    for place, chosen in enumerate(index):
        x = x.index_select(x.dim() - len(sizes) + place, chosen)
    return x


def nearest_by_ratio(x: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """The pixel at `floor(i * size / count)`, for each axis: torch's `nearest`, TensorFlow's without half pixels."""
    sources = x.shape[x.dim() - len(sizes) :]
    return _pick(x, sizes, [torch.arange(n) * s // n for s, n in zip(sources, sizes, strict=True)])


def nearest(x: torch.Tensor, sizes: Sequence[int], mode: str) -> torch.Tensor:
    """The pixel nearest to each sample.

    `DEFAULT` looks from the middle of each pixel, as coremltools' TensorFlow converter uses it. Between two pixels
    it is the later one; what Core ML takes there is not documented.
    """
    grid = "UNALIGN_CORNERS" if mode == "DEFAULT" else mode
    sources = x.shape[x.dim() - len(sizes) :]
    index = [
        torch.clamp(torch.floor(positions(grid, s, n) + 0.5), max=s - 1).to(torch.int64)
        for s, n in zip(sources, sizes, strict=True)
    ]
    return _pick(x, sizes, index)


def _factors(site: Site) -> tuple[float, float]:
    return site.number("scale_factor_height", 1.0), site.number("scale_factor_width", 1.0)


def _scaled(site: Site, x: torch.Tensor, factors: tuple[float, float]) -> list[int]:
    """Sizes after scaling: those declared, since factors may have been rounded on their way into the program."""
    declared = (site.output_type().shape or (None, None))[-2:]
    sources = x.shape[-2:]
    return [
        math.floor(source * factor) if size is None else size
        for source, factor, size in zip(sources, factors, declared, strict=True)
    ]


@op("upsample_nearest_neighbor", moves=True)
def upsample_nearest_neighbor(site: Site) -> Bound:
    """Repeats pixels by factors, which may be fractions."""
    factors = _factors(site)
    return site.bind(lambda x: nearest_by_ratio(x, _scaled(site, x, factors)), "x")


@op("upsample_bilinear")
def upsample_bilinear(site: Site) -> Bound:
    """Bilinear resampling by factors: corners aligned, half-pixel centres, or neither."""
    factors = _factors(site)
    aligned = site.flag("align_corners", default=True)
    half = site.flag("half_pixel_centers", default=not aligned)
    site.require(not (aligned and half), "aligns corners and has half-pixel centres")
    mode = "STRICT_ALIGN_CORNERS" if aligned else ("UNALIGN_CORNERS" if half else "DEFAULT")
    return site.bind(lambda x: linear(x, _scaled(site, x, factors), mode), "x")


@op("resize_nearest_neighbor", moves=True)
def resize_nearest_neighbor(site: Site) -> Bound:
    """The pixel whose middle is nearest, for a given size."""
    size = (site.integer("target_size_height"), site.integer("target_size_width"))
    return site.bind(lambda x: nearest(x, size, "DEFAULT"), "x")


@op("resize_bilinear")
def resize_bilinear(site: Site) -> Bound:
    """Bilinear resampling to a given size."""
    size = (site.integer("target_size_height", 1), site.integer("target_size_width", 1))
    mode = site.text("sampling_mode", "DEFAULT", among=tuple(GRIDS))
    return site.bind(lambda x: linear(x, size, mode), "x")


@op("resize")
def resize(site: Site) -> Bound:
    """Brings the last `resized_dims` axes to the last sizes of `shape`; a size of 0 leaves an axis as it is."""
    count = site.integer("resized_dims")
    mode = site.text("sampling_mode", "DEFAULT", among=tuple(GRIDS))
    kinds = ("LINEAR", "NEAREST_NEIGHBOR")
    sample = linear if site.text("interpolation_mode", "LINEAR", among=kinds) == "LINEAR" else nearest
    site.require(sample is nearest or site.dtype("x").is_float, f"interpolates {site.tensor_type('x')}")

    def kernel(x: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
        wanted = shape.tolist()[shape.numel() - count :]
        sources = x.shape[x.dim() - count :]
        return sample(x, [size or source for size, source in zip(wanted, sources, strict=True)], mode)

    return site.bind(kernel, "x", "shape")


@op("crop", moves=True)
def crop(site: Site) -> Bound:
    """Cuts the last two axes at both ends."""
    (top, bottom), (left, right) = site.ints("crop_height"), site.ints("crop_width")
    return site.bind(lambda x: x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right], "x")
