"""What `zoo build` asks of the Gemma 4 converters: their recipes, whether a checkpoint fits, what it may leave out.

Imports neither torch nor coremltools.
"""

from __future__ import annotations

from collections.abc import Mapping

from converters.checkpoint import Checkpoint, KnownUnused
from converters.gemma4 import coverage
from converters.gemma4.config import check_expectations, parse_config
from converters.gemma4.recipes import RECIPES
from converters.recipe import ParameterValue

__all__ = ["RECIPES", "check_checkpoint", "known_unused"]


def check_checkpoint(checkpoint: Checkpoint, expect: Mapping[str, ParameterValue], entry: str) -> None:
    """Whether `checkpoint` is a Gemma 4 of the size that `entry` is made from.

    Raises:
        RecipeError: another architecture, a malformed config, or another size; names the keys.
    """
    check_expectations(parse_config(checkpoint.config), expect, entry)


def known_unused(checkpoint: Checkpoint, modalities: frozenset[str]) -> tuple[KnownUnused, ...]:
    """Tensors that an entry with these modalities leaves out on purpose. Video goes through the image encoder."""
    encoders = modalities | ({"image"} if "video" in modalities else set())
    return coverage.known_unused(parse_config(checkpoint.config), encoders)
