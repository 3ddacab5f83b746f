"""Random tensors.

Which numbers a seed gives is the generator's affair, and torch's is not Core ML's: only the distribution is the same.
A seed makes an operation give the same numbers in every prediction; without one (or with -1) they differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from converters.mil.ops.registry import op
from converters.mil.site import Bound, Site

NO_SEED = -1


def _generator(site: Site) -> Callable[[], torch.Generator | None]:
    """What gives the generator for one run."""
    seed = site.integer("seed", NO_SEED)
    if seed == NO_SEED:
        return lambda: None
    return lambda: torch.Generator().manual_seed(seed)


def _filled(site: Site, fill: Callable[[torch.Tensor, torch.Generator | None], Any]) -> Bound:
    """A tensor of the operation's sizes, filled in place."""
    generator, carrier = _generator(site), site.output_carrier()

    def kernel(sizes: torch.Tensor) -> torch.Tensor:
        out = torch.empty(sizes.tolist(), dtype=carrier)
        fill(out, generator())
        return out

    return site.bind(kernel, "shape")


@op("random_bernoulli", pure=False)
def random_bernoulli(site: Site) -> Bound:
    """1 with probability `prob`, else 0."""
    probability = site.number("prob", 0.5)
    return _filled(site, lambda out, generator: out.bernoulli_(probability, generator=generator))


@op("random_normal", pure=False)
def random_normal(site: Site) -> Bound:
    """Normally distributed numbers."""
    mean, deviation = site.number("mean", 0.0), site.number("stddev", 1.0)
    return _filled(site, lambda out, generator: out.normal_(mean, deviation, generator=generator))


@op("random_uniform", pure=False)
def random_uniform(site: Site) -> Bound:
    """Numbers from `low` up to, but without, `high`; `low` itself if both are the same."""
    low, high = site.number("low", 0.0), site.number("high", 1.0)
    site.require(low <= high, f"draws between {low:g} and {high:g}")
    return _filled(site, lambda out, generator: out.uniform_(low, high, generator=generator))


@op("random_categorical", pure=False)
def random_categorical(site: Site) -> Bound:
    """`size` indices drawn with replacement from each distribution in the last axis: logits, or probabilities."""
    logits = site.text("mode", "logits", among=("logits", "probs")) == "logits"
    size, generator, carrier = site.integer("size", 1), _generator(site), site.output_carrier()

    def kernel(x: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(x.to(torch.float32), -1) if logits else x.to(torch.float32)
        rows = weights.reshape(-1, x.shape[-1])
        drawn = torch.multinomial(rows, size, replacement=True, generator=generator())
        return drawn.reshape(*x.shape[:-1], size).to(carrier)

    return site.bind(kernel, "x")
