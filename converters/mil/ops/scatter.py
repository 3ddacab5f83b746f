"""Scattering by index: a copy of `data`, changed at the indices by a mode."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from converters.mil.ops.gather import flat_positions, positions
from converters.mil.ops.registry import op
from converters.mil.site import Bound, Site

Scatter = Callable[[torch.Tensor, int, torch.Tensor, torch.Tensor], torch.Tensor]
"""(data, axis, indices of the updates' shape, updates) -> changed copy."""

_REDUCTIONS = {"mul": "prod", "max": "amax", "min": "amin"}
_MODES = ("update", "add", "sub", "mul", "div", "max", "min")


def _scatter(mode: str) -> Scatter:
    if mode == "update":
        return lambda data, axis, index, updates: data.scatter(axis, index, updates)
    if mode == "add":
        return lambda data, axis, index, updates: data.scatter_add(axis, index, updates)
    if mode == "sub":
        return lambda data, axis, index, updates: data.scatter_add(axis, index, -updates)
    if mode == "div":
        return lambda data, axis, index, updates: data.scatter_reduce(axis, index, 1 / updates, "prod")
    reduction = _REDUCTIONS[mode]
    return lambda data, axis, index, updates: data.scatter_reduce(axis, index, updates, reduction)


def _mode(site: Site) -> Scatter:
    site.flag("validate_indices", default=False)
    mode = site.text("mode", "add", among=_MODES)
    site.require(mode != "div" or site.dtype("data").is_float, "divides integers, which is not handled")
    return _scatter(mode)


@op("scatter")
def scatter(site: Site) -> Bound:
    """Changes whole slices along an axis; `indices` is a vector."""
    rank = site.rank("data")
    axis, change, read = site.axis("axis", rank, 0), _mode(site), positions(site)
    site.require(site.rank("indices") == 1, f"has indices of rank {site.rank('indices')}, handled is 1")
    spread = [-1 if i == axis else 1 for i in range(rank)]

    def kernel(data: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
        index = read(indices, data.shape[axis]).reshape(spread).expand(updates.shape)
        return change(data, axis, index, updates)

    return site.bind(kernel, "data", "indices", "updates")


@op("scatter_along_axis")
def scatter_along_axis(site: Site) -> Bound:
    """Changes single elements along an axis, at each update's own place elsewhere."""
    axis, change, read = site.axis("axis", site.rank("data"), 0), _mode(site), positions(site)
    return site.bind(
        lambda data, indices, updates: change(data, axis, read(indices, data.shape[axis]), updates),
        "data", "indices", "updates",
    )  # fmt: skip


@op("scatter_nd")
def scatter_nd(site: Site) -> Bound:
    """Changes slices at index vectors, which are the last axis of `indices`."""
    change, read = _mode(site), positions(site)

    def kernel(data: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
        depth = indices.shape[-1]
        lead, rest = data.shape[:depth], data.shape[depth:]
        rows = data.reshape(math.prod(lead), math.prod(rest))
        values = updates.reshape(-1, math.prod(rest))
        index = flat_positions(indices, lead, read).reshape(-1, 1).expand(values.shape)
        return change(rows, 0, index, values).reshape(data.shape)

    return site.bind(kernel, "data", "indices", "updates")
