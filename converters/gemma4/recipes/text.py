"""Recipes for the text model: four decode chunks, and the two merged chunks of the three-chunk layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from converters.errors import RecipeError
from converters.gemma4.config import Range, TextConfig, parse_config
from converters.gemma4.stateful_interface import EXACT, VARIANTS
from converters.gemma4.tensors import chunk_shapes
from converters.parameters import choice, whole
from converters.recipe import LIGHT, Needs, Parameters, Recipe

if TYPE_CHECKING:
    from converters.checkpoint import Checkpoint

LIBRARIES = ("coremltools", "torch", "numpy", "protobuf")
BITS = (1, 2, 3, 4, 6, 8, 16)

ARGMAX, LOGITS = "argmax", "logits"
HEADS = (ARGMAX, LOGITS)
"""What the last chunk gives: the best token, or also the logits of all; of no effect in the other chunks."""

DECODE_CHUNK: Parameters = {
    "chunk": 1,
    "context_length": 2048,
    "verify": 3,
    "variant": EXACT,
    "prefill": 0,
    "head": ARGMAX,
    "bits": 4,
    "group_size": 32,
}
MERGED_CHUNK: Parameters = {
    "chunk": 2,
    "context_length": 2048,
    "prefill": 0,
    "head": ARGMAX,
    "bits": 4,
    "group_size": 32,
}


@dataclass(frozen=True, slots=True)
class TextParameters:
    """Checked parameters of a text recipe.

    Attributes:
        layers: of the chunk.
        context_length: rows of the full-attention caches.
        verify: tokens that `verify_qK` takes; 0 for none.
        exact: what `verify_qK` sees, see `converters.gemma4.verify`.
        prefill: positions that `prefill_bN` takes, N; 0 for none.
        logits: the head also gives all logits.
        bits: per weight; 16 leaves them float16.
        group_size: output channels that share a look-up table.
    """

    layers: Range
    context_length: int
    verify: int
    exact: bool
    prefill: int
    logits: bool
    bits: int
    group_size: int


def decode_parameters(text: TextConfig, parameters: Parameters) -> TextParameters:
    """Check the parameters of `gemma4.decode-chunk`; its chunks are numbered 1 to 4."""
    ranges = dict(enumerate(text.chunk_boundaries(), start=1))
    return _checked(text, parameters, ranges)


def merged_parameters(text: TextConfig, parameters: Parameters) -> TextParameters:
    """Check the parameters of `gemma4.merged-chunk`; chunk 1 of the three is that of the four."""
    _, second, third = text.merged_boundaries()
    return _checked(text, parameters, {2: second, 3: third})


def _checked(text: TextConfig, parameters: Parameters, ranges: dict[int, Range]) -> TextParameters:
    layers = chunk_range(text, parameters, ranges)
    prefill = whole(parameters, "prefill", 0, text.sliding_window)
    if prefill == 1:
        raise RecipeError("parameter prefill is 1, which is what decoding does; 0 is for none")
    return TextParameters(
        layers=layers,
        context_length=whole(parameters, "context_length", text.sliding_window, 1 << 20),
        verify=whole(parameters, "verify", 0, text.sliding_window) if "verify" in parameters else 0,
        exact=choice(parameters, "variant", VARIANTS) == EXACT if "variant" in parameters else True,
        prefill=prefill,
        logits=choice(parameters, "head", HEADS) == LOGITS,
        bits=weight_bits(parameters),
        group_size=whole(parameters, "group_size", 1, 1 << 16),
    )


def chunk_range(text: TextConfig, parameters: Parameters, ranges: Mapping[int, Range]) -> Range:
    """The layers of the chunk that is asked for.

    Args:
        text: the text configuration.
        parameters: of the recipe; `chunk` is looked at.
        ranges: the chunks there are.

    Raises:
        RecipeError: there is no such chunk, it is empty, or the model does not divide as the app expects.
    """
    chunk = whole(parameters, "chunk", 0, 1 << 16)
    if chunk not in ranges:
        raise RecipeError(f"parameter chunk is {chunk}; there are {', '.join(map(str, ranges))}")
    start, end = ranges[chunk]
    if start == end:
        raise RecipeError(f"chunk {chunk} has no layers; the model has {text.num_hidden_layers}")
    producing = text.chunk_boundaries()[1]
    if any(not producing[0] <= layer < producing[1] for layer in text.kv_producers):
        raise RecipeError(
            f"layers {text.kv_producers}, whose keys and values are shared, must lie in chunk 2, layers"
            f" {producing[0]} to {producing[1] - 1}; this model's layout is not supported"
        )
    return start, end


def weight_bits(parameters: Parameters) -> int:
    """Bits per weight, one of `BITS`."""
    bits = whole(parameters, "bits", 1, 16)
    if bits not in BITS:
        raise RecipeError(f"parameter bits is {bits}; Core ML has {', '.join(map(str, BITS))}")
    return bits


def chunk_needs(checkpoint: Checkpoint, text: TextConfig, layers: Range) -> Needs:
    """Tensors of the chunk with these layers."""
    shapes = chunk_shapes(text, *layers)
    for name, shape in shapes.items():
        checkpoint.require(name, shape)
    return Needs(tensors=tuple(sorted(shapes)))


def needs_of_decode_chunk(checkpoint: Checkpoint, parameters: Parameters) -> Needs:
    """Tensors of one of the four decode chunks; the last one also reads the embedding, its tied LM head."""
    text = parse_config(checkpoint.config).text
    return chunk_needs(checkpoint, text, decode_parameters(text, parameters).layers)


def needs_of_merged_chunk(checkpoint: Checkpoint, parameters: Parameters) -> Needs:
    """Tensors of `chunk2_3way` or `chunk3_3way`."""
    text = parse_config(checkpoint.config).text
    return chunk_needs(checkpoint, text, merged_parameters(text, parameters).layers)


TEXT_RECIPES: tuple[Recipe, ...] = (
    Recipe(
        name="gemma4.decode-chunk",
        version=2,
        libraries=LIBRARIES,
        parameters=DECODE_CHUNK,
        needs=needs_of_decode_chunk,
        run="converters.gemma4.decode:build_decode_chunk",
        weight=2.0,
        memory=LIGHT,
    ),
    Recipe(
        name="gemma4.merged-chunk",
        version=2,
        libraries=LIBRARIES,
        parameters=MERGED_CHUNK,
        needs=needs_of_merged_chunk,
        run="converters.gemma4.decode:build_merged_chunk",
        weight=2.0,
        memory=LIGHT,
    ),
)
