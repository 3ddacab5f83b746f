"""Image resizing: the forms whose sampling is the same as torch's."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from converters.mil.ops.registry import op
from converters.mil.site import Bound, Site


@op("upsample_nearest_neighbor", moves=True)
def upsample_nearest_neighbor(site: Site) -> Bound:
    """Repeats each pixel; whole-number factors only."""
    height, width = site.number("scale_factor_height", 1.0), site.number("scale_factor_width", 1.0)
    site.require(height == int(height) and width == int(width), f"scales by {height} x {width}, not whole numbers")
    by = (int(height), int(width))
    return site.bind(lambda x: x.repeat_interleave(by[0], -2).repeat_interleave(by[1], -1), "x")


@op("upsample_bilinear")
def upsample_bilinear(site: Site) -> Bound:
    """Bilinear enlargement by factors, with aligned corners or half-pixel centres."""
    height, width = site.number("scale_factor_height", 1.0), site.number("scale_factor_width", 1.0)
    aligned = site.flag("align_corners", default=True)
    half = site.flag("half_pixel_centers", default=not aligned)
    site.require(half != aligned, f"has align_corners {aligned} with half_pixel_centers {half}")

    def kernel(x: torch.Tensor) -> torch.Tensor:
        size = [int(x.shape[-2] * height), int(x.shape[-1] * width)]
        return F.interpolate(x, size, mode="bilinear", align_corners=aligned)

    return site.bind(kernel, "x")


_ALIGNED = "STRICT_ALIGN_CORNERS"
_HALF = "UNALIGN_CORNERS"


@op("resize_bilinear")
def resize_bilinear(site: Site) -> Bound:
    """Bilinear resampling to a given size."""
    size = [site.integer("target_size_height", 1), site.integer("target_size_width", 1)]
    aligned = site.text("sampling_mode", among=(_ALIGNED, _HALF)) == _ALIGNED
    return site.bind(lambda x: F.interpolate(x, size, mode="bilinear", align_corners=aligned), "x")
