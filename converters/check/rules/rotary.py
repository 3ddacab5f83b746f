"""Rotary tables are what the configuration implies, and long enough."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from converters.check.facts import Bundle
from converters.check.measures import common, trusted_text
from converters.check.rule import Hit, Rule
from converters.gemma4.config import FULL, SLIDING, RopeConfig
from converters.mil.types import Array

KINDS = {"sliding": (SLIDING, "head_dim"), "full": (FULL, "global_head_dim")}
FUNCTIONS = {"cos": np.cos, "sin": np.sin}

COMPARED_ROWS = 2048
"""Of a longer table, rows spread over it are compared."""

ROUNDING = 1e-3
"""Two steps of fp16 near 1."""

ANGLE_ERROR = 2.0**-22
"""Of a float32 angle, for each position: the frequency and the product with it are rounded."""


def _tables(bundle: Bundle) -> Iterator[tuple[str, str, str, Array]]:
    """File, `sliding` or `full`, `cos` or `sin`, and the table."""
    for kind in KINDS:
        for function in FUNCTIONS:
            file = f"{function}_{kind}.npy"
            if file in bundle.arrays:
                yield file, kind, function, bundle.arrays[file]


def _width(bundle: Bundle, kind: str) -> int | None:
    measure = KINDS[kind][1]
    found: int | None = getattr(common(bundle), measure)
    if found is None and bundle.text is not None:
        found = getattr(bundle.text, measure)
    return found


def _well_formed(bundle: Bundle, kind: str, table: Array) -> bool:
    width = _width(bundle, kind)
    return table.dtype == np.float16 and table.ndim == 2 and width in (None, table.shape[1])


def _format(bundle: Bundle) -> Iterator[Hit]:
    for file, kind, _, table in _tables(bundle):
        if not _well_formed(bundle, kind, table):
            yield Hit(
                bundle.path(file),
                f"is {table.dtype} of shape {table.shape}, the programs take rows of {_width(bundle, kind)} float16",
            )


def _length(bundle: Bundle) -> Iterator[Hit]:
    context = common(bundle).context
    for file, kind, _, table in _tables(bundle):
        if _well_formed(bundle, kind, table) and context is not None and len(table) < context:
            yield Hit(bundle.path(file), f"has {len(table)} rows, the context is {context} positions long")


def _turning(rope: RopeConfig, head_dim: int, *, legacy: bool) -> Array:
    """Angles per position: as transformers computes them, or all pairs as the first public bundles had them."""
    pairs = head_dim // 2
    partial = rope.type == "proportional" and not legacy
    count = int(rope.partial_rotary_factor * head_dim // 2) if partial else pairs
    angles = np.zeros(pairs)
    angles[:count] = rope.theta ** (-np.arange(0, 2 * count, 2) / head_dim)
    return angles


def _error(table: Array, function: str, rope: RopeConfig, *, legacy: bool) -> tuple[float, int]:
    """Largest error and the position where it is."""
    rows = np.unique(np.linspace(0, len(table) - 1, min(len(table), COMPARED_ROWS)).astype(np.int64))
    angles = rows[:, None] * _turning(rope, table.shape[1], legacy=legacy)
    exact = FUNCTIONS[function](np.concatenate((angles, angles), axis=1))
    wrong = np.abs(np.asarray(table[rows], np.float64) - exact).max(axis=1)
    excess = wrong - rows * ANGLE_ERROR
    worst = int(np.nanargmax(excess)) if np.isfinite(excess).any() else 0
    return (float(excess[worst]) if np.isfinite(wrong).all() else float("inf")), int(rows[worst])


def _values(bundle: Bundle, *, legacy: bool) -> Iterator[Hit]:
    text = trusted_text(bundle)
    for file, kind, function, table in _tables(bundle) if text is not None else ():
        assert text is not None
        if not _well_formed(bundle, kind, table) or not len(table):
            continue
        rope = text.rope(KINDS[kind][0])
        error, position = _error(table, function, rope, legacy=False)
        if error <= ROUNDING:
            continue
        is_legacy = _error(table, function, rope, legacy=True)[0] <= ROUNDING
        if is_legacy and legacy:
            share = round(rope.partial_rotary_factor * table.shape[1] / 2)
            yield Hit(
                bundle.path(file),
                "is the legacy table, which turns all frequency pairs",
                f"this model turns {share} of {table.shape[1] // 2}; off by {error:.2g} at position {position}",
            )
        elif not is_legacy and not legacy:
            yield Hit(
                bundle.path(file),
                f"has other values than theta {rope.theta:g} and type {rope.type} give",
                f"off by {error:.2g} at position {position}; it is not the legacy table either",
            )


_BUILD = "build the tables: recipe gemma4.rope. They are inputs of the chunks, so nothing has to be converted again"

RULES: tuple[Rule, ...] = (
    Rule(
        id="rope.format",
        severity="error",
        title="Rotary tables are float16 rows of the head dimension",
        why="The app copies rows of the width that the programs take, whatever the file's header says.",
        remedy=_BUILD,
        check=_format,
    ),
    Rule(
        id="rope.length",
        severity="error",
        title="Rotary tables reach to the end of the context",
        why="For positions past a table's end the app goes on with zeros, without a word.",
        remedy=_BUILD,
        check=_length,
    ),
    Rule(
        id="rope.legacy",
        severity="warning",
        title="Rotary tables of full-attention layers turn a quarter of the pairs",
        why="The model's rope is `proportional` with factor 0.25. The first public bundles turn all pairs; their text "
        "stays fluent, and loses track of what is more than a few hundred tokens back.",
        remedy=_BUILD,
        check=lambda bundle: _values(bundle, legacy=True),
        evidence="transformers' _compute_proportional_rope_parameters; upstream later corrected its generator; on a "
        "small model the legacy tables change logits by 0.03 before position 10 and by 1.8 after 50",
    ),
    Rule(
        id="rope.values",
        severity="error",
        title="Rotary tables hold the angles that the configuration implies",
        why="Positions are all that attention knows of order.",
        remedy=_BUILD,
        check=lambda bundle: _values(bundle, legacy=False),
    ),
)
