"""Recipes for the text chunks that keep their keys and values in Core ML state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from converters.gemma4.config import Range, TextConfig, parse_config
from converters.gemma4.recipes.text import ARGMAX, HEADS, LIBRARIES, LOGITS, chunk_needs, chunk_range, weight_bits
from converters.gemma4.stateful_interface import EXACT, VARIANTS
from converters.parameters import choice, whole, whole_numbers
from converters.recipe import LIGHT, Needs, Parameters, Recipe

if TYPE_CHECKING:
    from converters.checkpoint import Checkpoint

CONV, LINEAR = "conv", "linear"
PROJECTIONS = (CONV, LINEAR)
"""1x1 convolutions, or linear layers."""

THREE, FOUR = 3, 4

_COMMON: Parameters = {
    "chunk": 1,
    "chunks": THREE,
    "context_length": 2048,
    "projections": CONV,
    "variant": EXACT,
    "head": ARGMAX,
    "bits": 4,
    "group_size": 32,
}
STATEFUL_CHUNK: Parameters = {**_COMMON, "prefill": ""}
STATEFUL_PREFILL: Parameters = {**_COMMON, "length": 288}
"""288 tokens: an image's 256 and 32 of text, which is what the app's engine asks for."""


@dataclass(frozen=True, slots=True)
class StatefulParameters:
    """Checked parameters of a stateful recipe.

    Attributes:
        layers: of the chunk.
        context_length: rows of the full-attention states.
        lengths: tokens per call of each function besides that for one token; the only one of a prefill package.
        linear: projections are linear layers.
        variant: see `converters.gemma4.stateful_interface.VARIANTS`.
        logits: the head also gives all logits.
        bits: per weight; 16 leaves them float16.
        group_size: output channels that share a look-up table.
    """

    layers: Range
    context_length: int
    lengths: tuple[int, ...]
    linear: bool
    variant: str
    logits: bool
    bits: int
    group_size: int


def stateful_parameters(text: TextConfig, parameters: Parameters) -> StatefulParameters:
    """Check the parameters of `gemma4.stateful-chunk`; its chunks are numbered 1 to `chunks`."""
    return _checked(text, parameters, whole_numbers(parameters, "prefill", 2, text.sliding_window))


def stateful_prefill_parameters(text: TextConfig, parameters: Parameters) -> StatefulParameters:
    """Check the parameters of `gemma4.stateful-prefill`."""
    return _checked(text, parameters, (whole(parameters, "length", 2, text.sliding_window),))


def _checked(text: TextConfig, parameters: Parameters, lengths: tuple[int, ...]) -> StatefulParameters:
    layouts = {THREE: text.merged_boundaries(), FOUR: text.chunk_boundaries()}
    chunks = whole(parameters, "chunks", THREE, FOUR)
    context = whole(parameters, "context_length", text.sliding_window, 1 << 20)
    return StatefulParameters(
        layers=chunk_range(text, parameters, dict(enumerate(layouts[chunks], start=1))),
        context_length=context,
        lengths=lengths,
        linear=choice(parameters, "projections", PROJECTIONS) == LINEAR,
        variant=choice(parameters, "variant", VARIANTS),
        logits=choice(parameters, "head", HEADS) == LOGITS,
        bits=weight_bits(parameters),
        group_size=whole(parameters, "group_size", 1, 1 << 16),
    )


def needs_of_stateful_chunk(checkpoint: Checkpoint, parameters: Parameters) -> Needs:
    """Tensors of one of the three or four chunks; the last one also reads the embedding, its tied LM head."""
    text = parse_config(checkpoint.config).text
    return chunk_needs(checkpoint, text, stateful_parameters(text, parameters).layers)


def needs_of_stateful_prefill(checkpoint: Checkpoint, parameters: Parameters) -> Needs:
    """Tensors of one of the three or four chunks, as `needs_of_stateful_chunk`."""
    text = parse_config(checkpoint.config).text
    return chunk_needs(checkpoint, text, stateful_prefill_parameters(text, parameters).layers)


STATEFUL_RECIPES: tuple[Recipe, ...] = (
    Recipe(
        name="gemma4.stateful-chunk",
        version=2,
        libraries=LIBRARIES,
        parameters=STATEFUL_CHUNK,
        needs=needs_of_stateful_chunk,
        run="converters.gemma4.stateful_packages:build_stateful_chunk",
        weight=2.0,
        memory=LIGHT,
    ),
    Recipe(
        name="gemma4.stateful-prefill",
        version=2,
        libraries=LIBRARIES,
        parameters=STATEFUL_PREFILL,
        needs=needs_of_stateful_prefill,
        run="converters.gemma4.stateful_packages:build_stateful_prefill",
        weight=2.0,
        memory=LIGHT,
    ),
)
