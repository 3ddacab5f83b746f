"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch

from converters.mil.ops.registry import Build, op
from converters.mil.site import Bound, Site

Axes = tuple[int, ...]
Reduce = Callable[[torch.Tensor, Axes, bool], torch.Tensor]


def _prod(x: torch.Tensor, axes: Axes, keep: bool) -> torch.Tensor:
    descending = sorted(axes, reverse=True)  # so that earlier axes keep their numbers
    return reduce(lambda value, axis: torch.prod(value, axis, keep, dtype=x.dtype), descending, x)


def _sum(x: torch.Tensor, axes: Axes, keep: bool) -> torch.Tensor:
    return torch.sum(x, axes, keep, dtype=x.dtype)  # torch would widen integers


_REDUCTIONS: dict[str, Reduce] = {
    "reduce_l1_norm": lambda x, axes, keep: _sum(torch.abs(x), axes, keep),
    "reduce_l2_norm": lambda x, axes, keep: torch.sqrt(_sum(x * x, axes, keep)),
    "reduce_log_sum": lambda x, axes, keep: torch.log(_sum(x, axes, keep)),
    "reduce_log_sum_exp": lambda x, axes, keep: torch.logsumexp(x, axes, keep),
    "reduce_max": lambda x, axes, keep: torch.amax(x, axes, keep),
    "reduce_mean": lambda x, axes, keep: torch.mean(x, axes, keep),
    "reduce_min": lambda x, axes, keep: torch.amin(x, axes, keep),
    "reduce_prod": _prod,
    "reduce_sum": _sum,
    "reduce_sum_square": lambda x, axes, keep: _sum(x * x, axes, keep),
}

_FLOAT_ONLY = frozenset({"reduce_l2_norm", "reduce_log_sum", "reduce_log_sum_exp", "reduce_mean"})


def _reduction(kernel: Reduce) -> Build:
    def build(site: Site) -> Bound:
        if site.kind in _FLOAT_ONLY:
            site.require(site.dtype("x").is_float, f"reduces {site.tensor_type('x')}, only floats are handled")
        keep = site.flag("keep_dims", default=False)
        rank = site.rank("x")
        axes = tuple(axis % max(rank, 1) for axis in site.ints("axes", range(rank)))
        if not axes:
            return site.bind(lambda x: x, "x")
        return site.bind(lambda x: kernel(x, axes, keep), "x")

    return build


for _name, _kernel in _REDUCTIONS.items():
    op(_name)(_reduction(_kernel))


@op("reduce_argmax", "reduce_argmin")
def reduce_arg(site: Site) -> Bound:
    """Index of the greatest or least element along an axis; the first one if there are several."""
    axis, keep = site.integer("axis", -1), site.flag("keep_dims", default=False)
    site.text("output_dtype", "int32")
    carrier = site.output_carrier()
    find = torch.argmax if site.kind == "reduce_argmax" else torch.argmin
    return site.bind(lambda x: find(x, axis, keep).to(carrier), "x")
