"""Activations."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional as F

from converters.mil.ops.registry import op
from converters.mil.site import Bound, Site

SIGMOID_GELU_SCALE = 1.702
"""gelu's SIGMOID_APPROXIMATION: `x * sigmoid(1.702 x)` (Hendrycks and Gimpel, 2016)."""

RELU6_LIMIT = 6.0


@op("relu", moves=True)
def relu(site: Site) -> Bound:
    """`max(x, 0)`."""
    return site.bind(torch.relu, "x")


@op("relu6", moves=True)
def relu6(site: Site) -> Bound:
    """`min(max(x, 0), 6)`."""
    return site.bind(lambda x: torch.clamp(x, 0.0, RELU6_LIMIT), "x")


@op("sigmoid")
def sigmoid(site: Site) -> Bound:
    """Logistic function."""
    return site.bind(torch.sigmoid, "x")


@op("silu")
def silu(site: Site) -> Bound:
    """`x * sigmoid(x)`."""
    return site.bind(F.silu, "x")


@op("softplus")
def softplus(site: Site) -> Bound:
    """`log(1 + exp(x))`, without overflow."""
    return site.bind(lambda x: torch.logaddexp(x, torch.zeros_like(x)), "x")


@op("softsign")
def softsign(site: Site) -> Bound:
    """`x / (1 + |x|)`."""
    return site.bind(F.softsign, "x")


@op("gelu")
def gelu(site: Site) -> Bound:
    """Gaussian error linear unit, exact or in one of the two approximations."""
    mode = site.text("mode", "EXACT", among=("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"))
    if mode == "SIGMOID_APPROXIMATION":
        return site.bind(lambda x: x * torch.sigmoid(SIGMOID_GELU_SCALE * x), "x")
    approximate = "none" if mode == "EXACT" else "tanh"
    return site.bind(partial(F.gelu, approximate=approximate), "x")


@op("softmax")
def softmax(site: Site) -> Bound:
    """Softmax along `axis`."""
    axis = site.integer("axis", -1)
    return site.bind(lambda x: torch.softmax(x, axis), "x")


@op("leaky_relu")
def leaky_relu(site: Site) -> Bound:
    """`x`, or `alpha x` below 0."""
    alpha = site.number("alpha")
    return site.bind(lambda x: torch.where(x >= 0, x, alpha * x), "x")


@op("elu")
def elu(site: Site) -> Bound:
    """`x`, or `alpha (exp(x) - 1)` below 0."""
    alpha = site.number("alpha")
    return site.bind(lambda x: torch.where(x >= 0, x, alpha * torch.expm1(x)), "x")


@op("thresholded_relu", moves=True)
def thresholded_relu(site: Site) -> Bound:
    """`x` from `alpha` on, else 0."""
    alpha = site.number("alpha")
    return site.bind(lambda x: torch.where(x >= alpha, x, torch.zeros_like(x)), "x")


@op("clamped_relu")
def clamped_relu(site: Site) -> Bound:
    """`min(x, beta)`, or `min(alpha x, beta)` below 0."""
    alpha, beta = site.number("alpha"), site.number("beta")
    return site.bind(lambda x: torch.clamp(torch.where(x >= 0, x, alpha * x), max=beta), "x")


@op("linear_activation")
def linear_activation(site: Site) -> Bound:
    """`alpha x + beta`."""
    alpha, beta = site.number("alpha"), site.number("beta")
    return site.bind(lambda x: alpha * x + beta, "x")


@op("scaled_tanh")
def scaled_tanh(site: Site) -> Bound:
    """`alpha tanh(beta x)`."""
    alpha, beta = site.number("alpha"), site.number("beta")
    return site.bind(lambda x: alpha * torch.tanh(beta * x), "x")


@op("sigmoid_hard")
def sigmoid_hard(site: Site) -> Bound:
    """`alpha x + beta`, held between 0 and 1."""
    alpha, beta = site.number("alpha"), site.number("beta")
    return site.bind(lambda x: torch.clamp(alpha * x + beta, 0.0, 1.0), "x")


@op("prelu")
def prelu(site: Site) -> Bound:
    """`x`, or `alpha x` below 0 with one alpha per channel (axis 1)."""
    shape = (1, -1, *[1] * (site.rank("x") - 2))
    return site.bind(lambda x, alpha: torch.where(x >= 0, x, alpha.reshape(shape) * x), "x", "alpha")


@op("softplus_parametric")
def softplus_parametric(site: Site) -> Bound:
    """`alpha log(1 + exp(beta x))` with one alpha and beta per channel (axis 1)."""
    shape = (1, -1, *[1] * (site.rank("x") - 2))

    def kernel(x: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        scaled = beta.reshape(shape) * x
        return alpha.reshape(shape) * torch.logaddexp(scaled, torch.zeros_like(scaled))

    return site.bind(kernel, "x", "alpha", "beta")
