"""Embedding tables and projections have the size and the form that the app reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from converters.check.facts import Bundle
from converters.check.measures import common
from converters.check.rule import Hit, Rule
from converters.check.rules.configuration import layer_count
from converters.gemma4.tables import INT8_MAX

PROJECTION = "per_layer_projection.bin"
NORM = "per_layer_norm_weight.bin"

HALF, SINGLE = 2, 4
"""Bytes of fp16 and float32."""

LEAST_PEAK = INT8_MAX - 1
"""A row's scale is its largest magnitude, so some value of the row is 127; rounding the scale may cost one."""

CLEAR_SCALE = 1e-3
"""Below this, fp16 rounds a scale coarsely and a row may peak lower."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What decides the tables' sizes: the programs first, then the checkpoint's configuration, then the app's."""

    vocab: int | None
    per_layer_vocab: int | None
    hidden: int | None
    per_layer_width: int | None
    per_layer_dim: int | None


def table_sizes(bundle: Bundle) -> Sizes:
    """The sizes that the tables must have."""
    usual, text, settings = common(bundle), bundle.text, bundle.settings()
    layers, width = layer_count(settings), settings.get("per_layer_dim")
    stated = layers * width if type(layers) is int and type(width) is int else None

    def whole(key: str) -> int | None:
        value = settings.get(key)
        return value if type(value) is int else None

    return Sizes(
        vocab=text.vocab_size if text is not None else whole("vocab_size"),
        per_layer_vocab=text.vocab_size_per_layer_input if text is not None else whole("vocab_size"),
        hidden=usual.hidden or (text.hidden_size if text is not None else whole("hidden_size")),
        per_layer_width=usual.per_layer_width or (text.per_layer_width if text is not None else stated),
        per_layer_dim=text.hidden_size_per_layer_input if text is not None else whole("per_layer_dim"),
    )


def _expected(sizes: Sizes) -> Iterator[tuple[str, str, tuple[int | None, ...], int]]:
    """File, what it holds, its shape and the bytes of one value."""
    yield "embed_tokens_q8.bin", "int8", (sizes.vocab, sizes.hidden), 1
    yield "embed_tokens_scales.bin", "fp16", (sizes.vocab,), HALF
    yield "embed_tokens_per_layer_q8.bin", "int8", (sizes.per_layer_vocab, sizes.per_layer_width), 1
    yield "embed_tokens_per_layer_scales.bin", "fp16", (sizes.per_layer_vocab,), HALF
    yield PROJECTION, "fp16", (sizes.per_layer_width, sizes.hidden), HALF
    yield NORM, "float32", (sizes.per_layer_dim,), SINGLE


def _size(bundle: Bundle) -> Iterator[Hit]:
    for file, kind, shape, width in _expected(table_sizes(bundle)):
        found = bundle.size(file)
        known = [size for size in shape if size is not None]
        if found is None or len(known) < len(shape) or bundle.path(file) in bundle.impostors:
            continue
        wanted = int(np.prod(known, dtype=np.int64)) * width
        if found != wanted and not (file == NORM and _is_half(bundle)):
            yield Hit(
                bundle.path(file),
                f"has {found} bytes, expected {wanted}",
                f"{' x '.join(map(str, known))} values of {kind}",
            )


def _is_half(bundle: Bundle) -> bool:
    width = table_sizes(bundle).per_layer_dim
    return width is not None and bundle.size(NORM) == width * HALF


def _norm(bundle: Bundle) -> Iterator[Hit]:
    if _is_half(bundle):
        size = bundle.size(NORM) or 0
        yield Hit(
            bundle.path(NORM),
            f"holds fp16 values: the app reads {2 * size} bytes of float32, past the file's end at {size}",
        )


def _scales(bundle: Bundle) -> Iterator[Hit]:
    for stem, sample in bundle.samples.items():
        if sample.scales is None or bundle.path(f"{stem}_scales.bin") in bundle.impostors:
            continue
        bad = np.flatnonzero(~np.isfinite(sample.scales) | (sample.scales < 0))
        if len(bad):
            row = int(bad[0])
            yield Hit(
                bundle.path(f"{stem}_scales.bin"),
                f"row {row} has the scale {sample.scales[row]}",
                f"{len(bad)} of {len(sample.scales)} scales are negative or not finite",
            )


def _rows(bundle: Bundle) -> Iterator[Hit]:
    for stem, sample in bundle.samples.items():
        file = f"{stem}_q8.bin"
        if sample.scales is None or bundle.path(file) in bundle.impostors or not _whole(bundle, file):
            continue
        weak = [row for row, peak in sample.rows.items() if peak < LEAST_PEAK and sample.scales[row] > CLEAR_SCALE]
        if weak:
            row = weak[0]
            yield Hit(
                bundle.path(file),
                f"row {row} peaks at {sample.rows[row]}, its scale says {INT8_MAX}",
                f"so do {len(weak)} of the {len(sample.rows)} rows looked at: the file has holes, or belongs to other"
                " scales",
            )


def _whole(bundle: Bundle, file: str) -> bool:
    """Whether a table has its size; else its rows are not where they are looked for."""
    return all(hit.file != bundle.path(file) for hit in _size(bundle))


RULES: tuple[Rule, ...] = (
    Rule(
        id="tables.size",
        severity="error",
        title="Tables have the size that the configuration implies",
        why="The app computes where a row starts; in a table of another width every token gets another one's values, "
        "and rows past the end are read from elsewhere.",
        remedy="build the table from the checkpoint of the chunks: recipes gemma4.embeddings, "
        "gemma4.per-layer-embeddings, gemma4.per-layer-projection",
        check=_size,
    ),
    Rule(
        id="tables.norm-half",
        severity="warning",
        title="per_layer_norm_weight.bin is float32",
        why="The app reads 4 bytes for each value. In chunked bundles the program has the norm itself and the file is "
        "not used; an engine with one model for all layers reads past its end.",
        remedy="build it again: recipe gemma4.per-layer-projection",
        check=_norm,
        evidence="the public E4B bundles have 512 bytes, E2B's have 1024",
    ),
    Rule(
        id="tables.scales",
        severity="error",
        title="Scales are finite and not negative",
        why="A scale multiplies a whole row; one that is not a number makes the whole context one.",
        remedy="build or fetch the table again",
        check=_scales,
    ),
    Rule(
        id="tables.rows",
        severity="error",
        title="Rows use the range that their scale says",
        why="The scale of a row is its largest value, so every row reaches 127. One that does not was never written, "
        "or belongs to other scales.",
        remedy="fetch the table again: zoo verify tells which bytes are wrong",
        check=_rows,
    ),
)
