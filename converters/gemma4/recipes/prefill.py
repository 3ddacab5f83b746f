"""Recipe for the prefill chunks: the first positions of a prompt at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from converters.errors import RecipeError
from converters.gemma4.config import Range, TextConfig, parse_config
from converters.gemma4.prefill_interface import MASKS, SEPARATE
from converters.gemma4.recipes.text import ARGMAX, HEADS, LIBRARIES, LOGITS, chunk_needs, chunk_range, weight_bits
from converters.parameters import choice, text, whole
from converters.recipe import LIGHT, Needs, Parameters, Recipe

if TYPE_CHECKING:
    from converters.checkpoint import Checkpoint

PREFILL_CHUNK: Parameters = {
    "chunk": 1,
    "lengths": "1024",
    "masks": SEPARATE,
    "head": ARGMAX,
    "context_length": 2048,
    "bits": 4,
    "group_size": 32,
}


@dataclass(frozen=True, slots=True)
class PrefillParameters:
    """Checked parameters of the prefill recipe.

    Attributes:
        layers: of the chunk.
        lengths: positions that each function takes, in ascending order.
        masks: one of `MASKS`.
        logits: the head also gives all logits.
        bits: per weight; 16 leaves them float16.
        group_size: output channels that share a look-up table.
    """

    layers: Range
    lengths: tuple[int, ...]
    masks: str
    logits: bool
    bits: int
    group_size: int


def prefill_parameters(config: TextConfig, parameters: Parameters) -> PrefillParameters:
    """Check the parameters of `gemma4.prefill-chunk`."""
    context = whole(parameters, "context_length", config.sliding_window, 1 << 20)
    return PrefillParameters(
        layers=chunk_range(config, parameters, dict(enumerate(config.chunk_boundaries(), start=1))),
        lengths=_lengths(text(parameters, "lengths"), context),
        masks=choice(parameters, "masks", MASKS),
        logits=choice(parameters, "head", HEADS) == LOGITS,
        bits=weight_bits(parameters),
        group_size=whole(parameters, "group_size", 1, 1 << 16),
    )


def _lengths(given: str, context: int) -> tuple[int, ...]:
    """`64, 256` as numbers; none may be longer than the caches that the engine copies the rows to."""
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) < 9 for part in parts):
        raise RecipeError(
            f"parameter lengths is {given!r}, expected whole numbers with commas between, as in '64, 512'"
        )
    lengths = sorted(int(part) for part in parts)
    if lengths[0] < 2 or lengths[-1] > context:
        raise RecipeError(f"parameter lengths is {given!r}; each must be from 2 to the context length, {context}")
    if len(set(lengths)) != len(lengths):
        raise RecipeError(f"parameter lengths is {given!r}, which has one twice")
    return tuple(lengths)


def needs_of_prefill_chunk(checkpoint: Checkpoint, parameters: Parameters) -> Needs:
    """Tensors of one of the four chunks: those that the decode chunk of the same number reads."""
    config = parse_config(checkpoint.config).text
    return chunk_needs(checkpoint, config, prefill_parameters(config, parameters).layers)


PREFILL_RECIPES: tuple[Recipe, ...] = (
    Recipe(
        name="gemma4.prefill-chunk",
        version=2,
        libraries=LIBRARIES,
        parameters=PREFILL_CHUNK,
        needs=needs_of_prefill_chunk,
        run="converters.gemma4.prefill:build_prefill_chunk",
        weight=2.0,
        memory=LIGHT,
    ),
)
