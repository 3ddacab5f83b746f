"""Blocks of space into channels or the batch, and back."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from converters.mil.ops.conv import torch_padding
from converters.mil.ops.registry import op
from converters.mil.site import Bound, Site


@op("depth_to_space", moves=True)
def depth_to_space(site: Site) -> Bound:
    """(n, b*b*c, h, w) -> (n, c, h*b, w*b), the block's place outermost in the channels."""
    block = site.integer("block_size")

    def kernel(x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        out = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
        return out.reshape(n, c // block**2, h * block, w * block)

    return site.bind(kernel, "x")


@op("space_to_depth", moves=True)
def space_to_depth(site: Site) -> Bound:
    """(n, c, h*b, w*b) -> (n, b*b*c, h, w), the block's place outermost in the channels."""
    block = site.integer("block_size")

    def kernel(x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        out = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
        return out.reshape(n, c * block**2, h // block, w // block)

    return site.bind(kernel, "x")


@op("pixel_shuffle", moves=True)
def pixel_shuffle(site: Site) -> Bound:
    """(n, c*f*f, h, w) -> (n, c, h*f, w*f), the block's place innermost in the channels."""
    factor = site.integer("upscale_factor")
    return site.bind(lambda x: F.pixel_shuffle(x, factor), "x")


@op("pixel_unshuffle", moves=True)
def pixel_unshuffle(site: Site) -> Bound:
    """(n, c, h*f, w*f) -> (n, c*f*f, h, w), the block's place innermost in the channels."""
    factor = site.integer("downscale_factor")
    return site.bind(lambda x: F.pixel_unshuffle(x, factor), "x")


@op("space_to_batch", moves=True)
def space_to_batch(site: Site) -> Bound:
    """Pads the spatial axes and moves their blocks to the batch, the block's place outermost."""
    blocks, pads = site.ints("block_shape"), torch_padding(site.ints("paddings"))

    def kernel(x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, pads)
        n, c, *spatial = x.shape
        parts = [part for s, b in zip(spatial, blocks, strict=True) for part in (s // b, b)]
        places = range(3, 2 + len(parts), 2)
        order = [*places, 0, 1, *range(2, 2 + len(parts), 2)]
        out = x.reshape(n, c, *parts).permute(order)
        return out.reshape(-1, c, *(s // b for s, b in zip(spatial, blocks, strict=True)))

    return site.bind(kernel, "x")


@op("batch_to_space", moves=True)
def batch_to_space(site: Site) -> Bound:
    """Moves blocks from the batch to the spatial axes and crops those."""
    blocks, crops = site.ints("block_shape"), torch_padding([-amount for amount in site.ints("crops")])

    def kernel(x: torch.Tensor) -> torch.Tensor:
        batch, c, *spatial = x.shape
        count = len(blocks)
        out = x.reshape(*blocks, -1, c, *spatial)
        order = [count, count + 1]
        for i in range(count):
            order += [count + 2 + i, i]
        sizes = [s * b for s, b in zip(spatial, blocks, strict=True)]
        n = batch // int(torch.Size(blocks).numel())
        return F.pad(out.permute(order).reshape(n, c, *sizes), crops)

    return site.bind(kernel, "x")
