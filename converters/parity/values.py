"""Stored values of a bundle against the checkpoint's: settings, RoPE tables, embeddings, weights of the chunks.

Whoever says afterwards that only rounding is left has handed these values to the reference; so how far they are from
the checkpoint's is measured here, while they are handed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from converters.checkpoint import Checkpoint
from converters.errors import RecipeError
from converters.gemma4.config import FULL, SLIDING, Range, TextConfig, parse_config
from converters.gemma4.model_config import model_config
from converters.gemma4.sidecars import audio_projection_tensors
from converters.mil.runtime import Model
from converters.parity.compare import relative_error
from converters.parity.limits import (
    HALF_ERROR,
    ROPE_ERROR,
    SETTING_ERROR,
    TABLE_ERROR,
    lookup_error,
)
from converters.parity.oracle import TABLES, Matrix, Oracle
from converters.parity.report import Check, Kind, Measure
from converters.run.sidecars import RopeTables, Sidecars, read_audio_projection, read_json

NOT_COMPARED = frozenset({"model_name", "context_length", "quantization", "compute_units", "tokenizer_repo"})
"""Keys of `model_config.json` that do not follow from the checkpoint."""


def guarded(name: str, kind: Kind, says: str, make: Callable[[], Check]) -> Check:
    """Makes a check; a `RecipeError` on the way makes it a failed one."""
    try:
        return make()
    except RecipeError as error:
        return Check(name, kind, says, problem=str(error))


def check_settings(folder: Path, text: TextConfig) -> Check:
    """`model_config.json` against what follows from the checkpoint's configuration."""
    says = "model_config.json follows from the checkpoint's config.json"

    def compare() -> Check:
        stated = read_json(folder / "model_config.json")
        wanted = model_config(
            text, model_name="", context_length=0, quantization="", compute_units="", tokenizer_repo=""
        )
        worst, where = 0.0, ""
        for key in sorted(wanted.keys() - NOT_COMPARED):
            off = _difference(stated.get(key), wanted[key])
            if off > worst:
                worst, where = off, key
        return Check("settings", "values", says, (Measure("relative difference", worst, SETTING_ERROR, where),))

    return guarded("settings", "values", says, compare)


def _difference(stated: object, wanted: object) -> float:
    """Relative for numbers; otherwise 0 or infinite."""
    numbers = isinstance(stated, int | float) and isinstance(wanted, int | float)
    if not numbers or isinstance(stated, bool):
        return 0.0 if stated == wanted else float("inf")
    assert isinstance(stated, int | float)
    assert isinstance(wanted, int | float)
    return abs(stated - wanted) / abs(wanted) if wanted else abs(stated)


def check_rope(rope: RopeTables, oracle: Oracle, context: int) -> Check:
    """Cosines and sines of every position that can be reached against transformers' rotary embedding."""
    says = f"RoPE tables of positions 0 to {context - 1}"

    def compare() -> Check:
        measures = []
        for kind in (SLIDING, FULL):
            letter = kind[0]
            for name, rows in zip(("cos", "sin"), oracle.rope_rows(kind, context), strict=True):
                table = rope.tables[f"{name}_{letter}"]
                if len(table) < context or table.shape[1:] != rows.shape[1:]:
                    raise RecipeError(f"{name}_{kind} has the shape {table.shape}, expected {rows.shape} or longer")
                errors = np.abs(table[:context].astype(np.float32) - rows).max(axis=1)
                first = np.flatnonzero(~(errors <= ROPE_ERROR))
                where = f"from position {first[0]} on" if len(first) else ""
                measures.append(Measure(f"{name}_{kind.partition('_')[0]}", float(errors.max()), ROPE_ERROR, where))
        return Check("rope", "values", says, tuple(measures))

    return guarded("rope", "values", says, compare)


def check_tables(sidecars: Sidecars, oracle: Oracle) -> Check:
    """int8 embeddings against the checkpoint's; the reference embeds with them from now on."""
    says = "int8 rows of the embeddings"

    def compare() -> Check:
        tables = dict(zip(TABLES, (sidecars.embeddings, sidecars.per_layer), strict=True))
        found = [oracle.use_table(stem, table) for stem, table in tables.items()]
        measures = tuple(Measure(matrix.name, matrix.error, TABLE_ERROR) for matrix in found)
        return Check("embeddings", "values", says, measures)

    return guarded("embeddings", "values", says, compare)


def check_layers(chunks: Mapping[str, Model], expected: Sequence[Range]) -> Check:
    """The layers that packages say they hold against what follows from the checkpoint's configuration."""
    says = "layers of each chunk"

    def compare() -> Check:
        stated = [_layers_of(model) for model in chunks.values()]
        wrong = [
            f"{name} has layers {found}, expected {wanted[0]}-{wanted[1] - 1}"
            for name, found, wanted in zip(chunks, stated, expected, strict=True)
            if found not in (None, f"{wanted[0]}-{wanted[1] - 1}")
        ]
        measure = Measure("chunks with other layers", float(len(wrong)), 0.0, "; ".join(wrong))
        return Check("layers", "values", says, (measure,))

    return guarded("layers", "values", says, compare)


def _layers_of(model: Model) -> str | None:
    """What the package says; packages that zoo did not build say nothing."""
    return model.package.metadata.get("zoo.layers")


def check_weights(name: str, model: Model, layers: Range, oracle: Oracle, *, first: bool, last: bool) -> Check:
    """A chunk's weights against the checkpoint's; the reference computes with them from now on."""
    says = f"weights of layers {layers[0]} to {layers[1] - 1}"

    def compare() -> Check:
        found = oracle.use_chunk(model, range(*layers), first=first, last=last)
        return Check(f"weights of {name}", "values", says, _by_kind(found))

    return guarded(f"weights of {name}", "values", says, compare)


def check_audio(model: Model, oracle: Oracle) -> Check:
    """An audio encoder's compressed weights against the checkpoint; the reference hears with them from now on."""
    says = "compressed weights of the audio encoder"

    def compare() -> Check:
        return Check("weights of audio", "values", says, _by_kind(oracle.use_audio(model)))

    return guarded("weights of audio", "values", says, compare)


def _by_kind(matrices: Sequence[Matrix]) -> tuple[Measure, ...]:
    """The worst of each form of weights, relative to its limit."""
    groups: dict[tuple[str, float], list[Matrix]] = {}
    for matrix in matrices:
        groups.setdefault(_form(matrix), []).append(matrix)
    measures = []
    for (label, limit), group in sorted(groups.items()):
        worst = max(group, key=lambda matrix: matrix.error if matrix.error == matrix.error else float("inf"))
        measures.append(Measure(label, worst.error, limit, worst.name))
    return tuple(measures)


def _form(matrix: Matrix) -> tuple[str, float]:
    """What a matrix is stored as, and how far it may be off."""
    if matrix.integers:
        return "int8 rows", TABLE_ERROR
    bits = _bits(matrix.levels)
    return ("fp16", HALF_ERROR) if bits is None else (f"look-up tables of {bits} bits", lookup_error(1 << bits))


def _bits(levels: int | None) -> int | None:
    return None if levels is None else max(1, (levels - 1).bit_length())


def check_audio_projection(folder: Path, checkpoint: Checkpoint) -> Check:
    """The audio projection's three files against the checkpoint's tensors."""
    says = "the audio projection's matrices"

    def compare() -> Check:
        projection = read_audio_projection(folder)
        stored = {
            "output_proj_weight.npy": projection.output_weight,
            "output_proj_bias.npy": projection.output_bias,
            "embed_proj_weight.npy": projection.embed_weight,
        }
        measures = []
        for file, name, shape in audio_projection_tensors(parse_config(checkpoint.config)):
            wanted = checkpoint.tensor(name, shape).float().numpy()
            if stored[file].shape != wanted.shape:
                raise RecipeError(f"{file} has the shape {stored[file].shape}, the checkpoint's {wanted.shape}")
            measures.append(Measure(file, relative_error(stored[file], wanted), HALF_ERROR))
        return Check("audio projection", "values", says, tuple(measures))

    return guarded("audio projection", "values", says, compare)
