"""Quantisation of activations while running."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from converters.mil.ops.registry import op
from converters.mil.site import Bound, Site

_RANGES = {"int8": (-128, 127), "uint8": (0, 255)}


def _spread(site: Site) -> Sequence[int]:
    """Shape that lays a scale vector along `axis`; empty for scalars."""
    if site.rank("scale") == 0:
        if site.has("axis"):
            site.integer("axis")
        return ()
    rank = site.rank("input")
    axis = site.axis("axis", rank)
    return [-1 if i == axis else 1 for i in range(rank)]


@op("quantize")
def quantize(site: Site) -> Bound:
    """`clip(round(input / scale) + zero_point)`."""
    low, high = _RANGES[site.text("output_dtype", among=tuple(_RANGES))]
    spread, carrier = _spread(site), site.output_carrier()

    def kernel(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None) -> torch.Tensor:
        steps = torch.round(x / scale.reshape(spread))
        if zero is not None:
            steps = steps + zero.reshape(spread)
        return torch.clamp(steps, low, high).to(carrier)

    return site.bind(kernel, "input", "scale", "zero_point")


@op("dequantize")
def dequantize(site: Site) -> Bound:
    """`scale * (input - zero_point)`."""
    spread = _spread(site)

    def kernel(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None) -> torch.Tensor:
        steps = x.to(scale.dtype)
        if zero is not None:
            steps = steps - zero.to(scale.dtype).reshape(spread)
        return steps * scale.reshape(spread)

    return site.bind(kernel, "input", "scale", "zero_point")
