"""Matrix products and attention."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch.nn import functional as F

from converters.mil.carriers import CARRIERS
from converters.mil.matrix import Matrix
from converters.mil.ops.registry import op
from converters.mil.site import Bound, Site


def _apply(matrix: Matrix, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`x @ matrix.T + bias`; x `(..., columns)`."""
    out = matrix.product(x.reshape(-1, matrix.columns)).reshape(*x.shape[:-1], matrix.rows)
    return out if bias is None else out.add_(bias)


@op("linear")
def linear(site: Site) -> Bound:
    """`x @ weight.T + bias`; integer weights (iOS 17) become what `x` is."""
    if CARRIERS[site.dtype("weight")] != CARRIERS[site.dtype("x")]:

        def mixed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

        return site.bind(mixed, "x", "weight", "bias")
    matrix = site.matrix("weight")
    if matrix is not None:
        return site.bind(partial(_apply, matrix), "x", "bias")
    return site.bind(F.linear, "x", "weight", "bias")


@op("matmul")
def matmul(site: Site) -> Bound:
    """Batched matrix product, either side transposed in its last two axes if asked for."""
    transpose_x = site.flag("transpose_x", default=False) and site.rank("x") > 1
    transpose_y = site.flag("transpose_y", default=False) and site.rank("y") > 1
    if CARRIERS[site.dtype("x")] != CARRIERS[site.dtype("y")]:  # iOS 17: a constant becomes what the other one is
        carrier = site.output_carrier()

        def mixed(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            left, right = x.mT if transpose_x else x, y.mT if transpose_y else y
            return torch.matmul(left.to(carrier), right.to(carrier))

        return site.bind(mixed, "x", "y")
    if transpose_x and transpose_y:
        return site.bind(lambda x, y: torch.matmul(x.mT, y.mT), "x", "y")
    if transpose_x:
        return site.bind(lambda x, y: torch.matmul(x.mT, y), "x", "y")
    if transpose_y:
        matrix = site.matrix("y") if site.rank("y") == 2 else None
        if matrix is not None:
            return site.bind(partial(_apply, matrix), "x")
        return site.bind(lambda x, y: torch.matmul(x, y.mT), "x", "y")
    return site.bind(torch.matmul, "x", "y")


@op("einsum")
def einsum(site: Site) -> Bound:
    """Einstein summation; the equation is in the common notation."""
    equation = site.text("equation")
    return site.bind(lambda *values: torch.einsum(equation, *values), "values")


@op("scaled_dot_product_attention")
def scaled_dot_product_attention(site: Site) -> Bound:
    """`softmax(query @ key.T / sqrt(E) + mask) @ value`; a boolean mask lets True through."""

    def kernel(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        scores = torch.matmul(query, key.mT) / math.sqrt(query.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        return torch.matmul(torch.softmax(scores, -1), value)

    return site.bind(kernel, "query", "key", "value", "attn_mask")
