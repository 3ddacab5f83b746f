"""What is still rounding, and what is still quantisation. Each number is justified in docs/parity.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from converters.mil.plan import Arithmetic
from converters.parity.compare import Limits

EXACT = Limits(hidden=1e-4, logit=1e-4)
"""Nothing rounded but the bundle's values, which both sides have: float32 summed in other orders: 5e-6
found for 12 layers, 6e-5 for 42."""

ROUNDING = Limits(hidden=0.01, logit=0.016)
"""fp16 inputs, weights, caches and hand-overs between chunks, exact arithmetic in between: twice the 0.005 and 0.008
that were found."""

HALF_ARITHMETIC = Limits(hidden=0.03, logit=0.04)
"""Every result rounded to fp16: 0.011 and 0.012 found."""

EIGHT_BITS = Limits(hidden=0.2, logit=0.25)
"""Against the untouched checkpoint, fp16 weights: int8 embeddings are 0.7 % off, which twenty narrow random layers
amplify: 0.14 and 0.16 found."""

FOUR_BITS = Limits(hidden=2.5, logit=3.0)
"""Against the untouched checkpoint, weights in four bits: about 0.45 of the hidden states' root mean square, of which
the largest of some thousand values is five to six times the usual one."""

Reference = Literal["bundle's values", "checkpoint"]

BY_ARITHMETIC: Mapping[Arithmetic, Limits] = MappingProxyType(
    {"unrounded": EXACT, "fp32": ROUNDING, "fp16": HALF_ARITHMETIC}
)
"""With the bundle's quantised values on both sides. Core ML counts as fp16."""

TABLE_ERROR = 0.02
"""Relative error of int8 rows: a 254th of the largest value over the square root of 3; a row's largest value is about
5 times its root mean square at most, which makes 0.011."""

HALF_ERROR = 1e-3
"""Relative error of fp16 weights: 2^-11, and what is below fp16's smallest normal number."""

ROPE_ERROR = 1e-3
"""Absolute error of fp16 cosines and sines (2^-12), and of float32 angles of some thousand radians (2^-12)."""

SETTING_ERROR = 1e-6
"""Relative error of a number in `model_config.json`, which are written in full."""

ENCODER_COSINE: Mapping[bool, float] = MappingProxyType({False: 0.9995, True: 0.97})
"""Mean cosine of features and transformers', if only rounding is left, and if look-up tables of four bits are, too."""

EXACT_COSINE = 0.999999
"""The same if nothing is rounded but weights, to fp16: 3e-8 short of 1 found."""


def lookup_error(levels: int) -> float:
    """Relative error that look-up tables of so many values may have: a Gaussian's, and half as much more.

    The best N values for a Gaussian leave a mean square of (pi sqrt(3) / 2) / N^2 (Panter and Dite, 1951): 0.10 of the
    root mean square for 16. Weights with heavier tails are up to 0.13 off, and nothing else comes near: weights of
    another layer are 1.4 off, a transposed matrix as well.
    """
    return min(0.9, 1.5 * math.sqrt(math.pi * math.sqrt(3) / 2) / levels)


SHALLOW = 12
"""Layers of the small model that the limits of rounding were found with."""


def depth_factor(layers: int) -> float:
    """How much more rounding deeper models may show: independent errors add up by their squares.

    Hidden states: 0.005 was found for 12 layers and 0.0092 for 42, which is sqrt(42 / 12) times as much; in a wider
    model with 42 layers, 0.0129. Logits: 0.008 and 0.0228.
    """
    return math.sqrt(max(1.0, layers / SHALLOW))


def scaled(limits: Limits, factor: float) -> Limits:
    """Limits times a factor."""
    return Limits(limits.hidden * factor, limits.logit * factor)
