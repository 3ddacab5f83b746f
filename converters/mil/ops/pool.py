"""Pooling, in one to three spatial dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from converters.mil.ops.conv import read_padding, same_padding, torch_padding
from converters.mil.ops.registry import op
from converters.mil.site import Bound, Site


@dataclass(frozen=True, slots=True)
class Window:
    """Where a pooling operation looks."""

    spatial: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    kind: str
    pads: tuple[int, ...]
    ceil: bool

    def padding(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Padding before and after each dimension for an input of these spatial sizes.

        With `ceil`, what the last window needs beyond the declared padding is not part of it.
        """
        if self.kind.startswith("same"):
            return same_padding(sizes, self.sizes, self.strides, self.kind == "same_lower")
        return self.pads

    def counts(self, sizes: Sequence[int], pads: Sequence[int]) -> list[int]:
        """Windows per dimension; with `ceil`, a last one that would start in the end padding is left out."""
        out = []
        for i, size in enumerate(sizes):
            span = size + pads[2 * i] + pads[2 * i + 1] - self.sizes[i]
            count = (-(-span // self.strides[i]) if self.ceil else span // self.strides[i]) + 1
            if self.ceil and (count - 1) * self.strides[i] >= size + pads[2 * i]:
                count -= 1
            out.append(count)
        return out


def _window(site: Site) -> Window:
    spatial = site.rank("x") - 2
    site.require(spatial in {1, 2, 3}, f"has {spatial} spatial dimensions, handled are 1 to 3")
    sizes = site.ints("kernel_sizes")
    strides = site.ints("strides", [1] * spatial)
    kind, pads = read_padding(site, spatial, ("valid", "custom", "same", "same_lower"))
    ceil = site.flag("ceil_mode", default=False)
    site.require(not (ceil and kind.startswith("same")), "combines ceil_mode with same padding")
    return Window(spatial, sizes, strides, kind, pads, ceil)


def _pooled(
    x: torch.Tensor, window: Window, fill: float, reduce: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """`reduce` over the windows of padded x.

    Returns:
        The result and the padding used.
    """
    sizes = x.shape[2:]
    pads = window.padding(sizes)
    counts = window.counts(sizes, pads)
    reach = [(c - 1) * s + k for c, s, k in zip(counts, window.strides, window.sizes, strict=True)]
    amounts = list(pads)
    for i, size in enumerate(sizes):
        amounts[2 * i + 1] = reach[i] - size - pads[2 * i]  # to the last window's end, not beyond
    padded = F.pad(x, torch_padding(amounts), value=fill)
    for i in range(window.spatial):
        padded = padded.unfold(2 + i, window.sizes[i], window.strides[i])
    return reduce(padded), pads


@op("max_pool", moves=True)
def max_pool(site: Site) -> Bound:
    """Greatest value of each window; padding never wins."""
    window = _window(site)
    axes = tuple(range(-window.spatial, 0))
    return site.bind(lambda x: _pooled(x, window, -math.inf, lambda w: torch.amax(w, axes))[0], "x")


@op("l2_pool")
def l2_pool(site: Site) -> Bound:
    """Square root of the sum of squares of each window."""
    window = _window(site)
    axes = tuple(range(-window.spatial, 0))
    return site.bind(lambda x: torch.sqrt(_pooled(x, window, 0.0, lambda w: torch.sum(w * w, axes))[0]), "x")


@op("avg_pool")
def avg_pool(site: Site) -> Bound:
    """Mean of each window, with or without the padded zeros in the count.

    What `ceil_mode` adds beyond the declared padding is never counted, as in torch.
    """
    window = _window(site)
    exclude = site.flag("exclude_padding_from_average", default=False)
    axes = tuple(range(-window.spatial, 0))

    def kernel(x: torch.Tensor) -> torch.Tensor:
        total, pads = _pooled(x, window, 0.0, lambda w: torch.sum(w, axes))
        ones = torch.ones((1, 1, *x.shape[2:]))
        if exclude:
            counted, _ = _pooled(ones, window, 0.0, lambda w: torch.sum(w, axes))
            return total / counted
        if not window.ceil:
            return total / math.prod(window.sizes)
        inside = F.pad(ones, torch_padding(pads), value=1.0)
        bare = Window(window.spatial, window.sizes, window.strides, "custom", (0,) * len(pads), ceil=True)
        counted = _pooled(inside, bare, 0.0, lambda w: torch.sum(w, axes))[0]
        for axis, size in enumerate(total.shape[2:]):
            counted = counted.narrow(2 + axis, 0, size)
        return total / counted

    return site.bind(kernel, "x")
