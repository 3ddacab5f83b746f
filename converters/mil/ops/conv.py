"""Convolution and its transpose, in one to three spatial dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from converters.mil.matrix import Matrix
from converters.mil.ops.registry import op
from converters.mil.site import Bound, Site

_CONV: dict[int, Callable[..., torch.Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSE: dict[int, Callable[..., torch.Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


def same_padding(sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], lower: bool) -> tuple[int, ...]:
    """Padding that makes each output size `ceil(size / stride)`.

    Args:
        sizes: spatial sizes of the input.
        kernel: extents of the kernel, dilation included.
        strides: one per dimension.
        lower: put the odd element before instead of after (`same_lower`).

    Returns:
        Before and after, for each dimension in order.
    """
    pads: list[int] = []
    for size, extent, stride in zip(sizes, kernel, strides, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + extent - size)
        less, more = total // 2, total - total // 2
        pads += [more, less] if lower else [less, more]
    return tuple(pads)


def torch_padding(pads: Sequence[int]) -> list[int]:
    """Before-and-after pairs in dimension order as `F.pad` wants them: last dimension first."""
    pairs = [pads[i : i + 2] for i in range(0, len(pads), 2)]
    return [amount for pair in reversed(pairs) for amount in pair]


def read_padding(site: Site, spatial: int, kinds: Sequence[str]) -> tuple[str, tuple[int, ...]]:
    """The operation's kind of padding and, for `custom`, its amounts (else zeros)."""
    kind = site.text("pad_type", "valid", among=kinds)
    pads = site.ints("pad", [0] * (2 * spatial))
    site.require(len(pads) == 2 * spatial, f"has {len(pads)} pads for {spatial} spatial dimensions")
    return kind, pads if kind == "custom" else (0,) * (2 * spatial)


def _mix_channels(matrix: Matrix, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """A convolution whose kernel is a single element: a matrix product at each position."""
    batch, channels, *sizes = x.shape
    mixed = matrix.product(x.movedim(1, -1).reshape(-1, channels))
    if bias is not None:
        mixed.add_(bias)
    return mixed.reshape(batch, *sizes, matrix.rows).movedim(-1, 1)


@op("conv")
def conv(site: Site) -> Bound:
    """Convolution: x (n, c, *d), weight (out, c / groups, *k), bias (out)."""
    spatial = site.rank("x") - 2
    site.require(spatial in _CONV, f"has {spatial} spatial dimensions, handled are 1 to 3")
    strides = site.ints("strides", [1] * spatial)
    dilations = site.ints("dilations", [1] * spatial)
    groups = site.integer("groups", 1)
    kind, pads = read_padding(site, spatial, ("valid", "custom", "same", "same_lower"))
    function = _CONV[spatial]
    pointwise = groups == 1 and set(strides) == {1} and not any(pads)  # or the weight is not 1 x 1, and no matrix
    matrix = site.matrix("weight") if pointwise else None
    if matrix is not None:
        return site.bind(partial(_mix_channels, matrix), "x", "bias")
    if kind.startswith("same"):
        lower = kind == "same_lower"

        def same(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            extents = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
            padded = F.pad(x, torch_padding(same_padding(x.shape[2:], extents, strides, lower)))
            return function(padded, weight, bias, strides, 0, dilations, groups)

        return site.bind(same, "x", "weight", "bias")
    if pads[::2] == pads[1::2]:
        both = pads[::2]
        return site.bind(
            lambda x, weight, bias: function(x, weight, bias, strides, both, dilations, groups),
            "x", "weight", "bias",
        )  # fmt: skip
    uneven = torch_padding(pads)
    return site.bind(
        lambda x, weight, bias: function(F.pad(x, uneven), weight, bias, strides, 0, dilations, groups),
        "x", "weight", "bias",
    )  # fmt: skip


@op("conv_transpose")
def conv_transpose(site: Site) -> Bound:
    """Transposed convolution: x (n, c, *d), weight (c, out / groups, *k), bias (out).

    The full result, which `valid` padding gives, is cut at both ends: by `pad` for `custom`, evenly down to
    `size * stride` (or `output_shape`) for `same`. An `output_shape` beyond the full result is zeros plus
    bias, as for torch's output padding.
    """
    spatial = site.rank("x") - 2
    site.require(spatial in _TRANSPOSE, f"has {spatial} spatial dimensions, handled are 1 to 3")
    strides = site.ints("strides", [1] * spatial)
    dilations = site.ints("dilations", [1] * spatial)
    groups = site.integer("groups", 1)
    kind, pads = read_padding(site, spatial, ("valid", "custom", "same"))
    wanted = site.ints("output_shape")[2:] if site.has("output_shape") else None
    function = _TRANSPOSE[spatial]

    def cut(full: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        amounts: list[int] = []
        for i, size in enumerate(full.shape[2:]):
            if kind == "same":
                target = sizes[i] * strides[i] if wanted is None else wanted[i]
                before = max(size - target, 0) // 2
            else:
                before = pads[2 * i]
                target = size - before - pads[2 * i + 1] if wanted is None else wanted[i]
            amounts += [-before, target - (size - before)]
        return F.pad(full, torch_padding(amounts)) if any(amounts) else full

    def kernel(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> Any:
        full = function(x, weight, None, strides, 0, 0, groups, dilations)
        out = cut(full, x.shape[2:])
        return out if bias is None else out + bias.reshape(1, -1, *[1] * spatial)

    return site.bind(kernel, "x", "weight", "bias")
