"""Normalisation."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from converters.mil.ops.registry import op
from converters.mil.site import Bound, Site

NORM_EPSILON = 1e-5
L2_EPSILON = 1e-6
L2_AXES = 3
"""l2_norm is over the last three axes, whatever the rank."""


@op("layer_norm")
def layer_norm(site: Site) -> Bound:
    """Zero mean and unit variance over `axes`, then `gamma` and `beta`, which have those axes' shape."""
    rank = site.rank("x")
    axes = tuple(sorted(axis % rank for axis in site.ints("axes", range(rank))))
    epsilon = site.number("epsilon", NORM_EPSILON)
    shape = site.tensor_type("x").static_shape()
    if shape is not None and axes == tuple(range(rank - len(axes), rank)):
        sizes = shape[rank - len(axes) :]
        return site.bind(lambda x, gamma, beta: F.layer_norm(x, sizes, gamma, beta, epsilon), "x", "gamma", "beta")

    def kernel(x: torch.Tensor, gamma: torch.Tensor | None, beta: torch.Tensor | None) -> torch.Tensor:
        centred = x - x.mean(axes, keepdim=True)
        out = centred / torch.sqrt(centred.square().mean(axes, keepdim=True) + epsilon)
        spread = [size if axis in axes else 1 for axis, size in enumerate(x.shape)]
        if gamma is not None:
            out = out * gamma.reshape(spread)
        return out if beta is None else out + beta.reshape(spread)

    return site.bind(kernel, "x", "gamma", "beta")


@op("batch_norm")
def batch_norm(site: Site) -> Bound:
    """Normalisation by given mean and variance per channel (axis 1)."""
    epsilon = site.number("epsilon", NORM_EPSILON)
    return site.bind(
        lambda x, mean, variance, gamma, beta: F.batch_norm(x, mean, variance, gamma, beta, eps=epsilon),
        "x", "mean", "variance", "gamma", "beta",
    )  # fmt: skip


@op("instance_norm")
def instance_norm(site: Site) -> Bound:
    """Zero mean and unit variance over the spatial axes of each channel, then `gamma` and `beta`."""
    epsilon = site.number("epsilon", NORM_EPSILON)
    axes = tuple(range(2, site.rank("x")))
    shape = (1, -1, *[1] * len(axes))

    def kernel(x: torch.Tensor, gamma: torch.Tensor | None, beta: torch.Tensor | None) -> torch.Tensor:
        centred = x - x.mean(axes, keepdim=True)
        out = centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)
        if gamma is not None:
            out = out * gamma.reshape(shape)
        return out if beta is None else out + beta.reshape(shape)

    return site.bind(kernel, "x", "gamma", "beta")


@op("l2_norm")
def l2_norm(site: Site) -> Bound:
    """`x / sqrt(sum(x^2) + epsilon)` over the last three axes."""
    epsilon = site.number("epsilon", L2_EPSILON)
    rank = site.rank("x")
    site.require(rank >= L2_AXES, f"is of rank {rank}, at least {L2_AXES} is needed")
    axes = tuple(range(rank - L2_AXES, rank))
    return site.bind(lambda x: x * torch.rsqrt(x.square().sum(axes, keepdim=True) + epsilon), "x")


@op("local_response_norm")
def local_response_norm(site: Site) -> Bound:
    """`x / (k + alpha / size * sum of squares of size neighbouring channels) ^ beta`."""
    size = site.integer("size")
    alpha, beta, k = site.number("alpha", 1e-4), site.number("beta", 0.75), site.number("k", 1.0)
    return site.bind(lambda x: F.local_response_norm(x, size, alpha, beta, k), "x")
