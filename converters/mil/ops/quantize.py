"""Quantisation of activations while running."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from converters.mil.ops.conv import conv
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


@op("conv_quantized")
def conv_quantized(site: Site) -> Bound:
    """Convolution with a weight that is stored in bits: `weight * quant_scale + quant_bias`, scalars or per output.

    Only the TensorFlow converter emits it, and documents it as experimental. Its look-up tables have no parameter
    that would hold them.
    """
    site.text("quantization_type", among=("linear",))
    site.integer("nbits", 8)
    plain = conv(site)
    spread = (-1, *[1] * (site.rank("weight") - 1))
    scale, offset = (
        torch.from_numpy(np.array(site.array(name), np.float32)).reshape(spread)
        for name in ("quant_scale", "quant_bias")
    )

    def kernel(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        result: torch.Tensor = plain.kernel(x, weight.to(torch.float32) * scale + offset, bias)
        return result

    return Bound(kernel, plain.registers)
