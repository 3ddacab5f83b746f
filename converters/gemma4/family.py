"""What `zoo build` asks of the Gemma 4 converters: their recipes, whether a checkpoint fits, what it may leave out.

Imports neither torch nor coremltools.
"""

from __future__ import annotations

from collections.abc import Mapping

from converters.checkpoint import Checkpoint, KnownUnused
from converters.gemma4.config import check_expectations, parse_config
from converters.gemma4.encoder_tensors import AUDIO, VISION
from converters.gemma4.recipes import RECIPES
from converters.gemma4.tensors import TEXT
from converters.recipe import ParameterValue

__all__ = ["RECIPES", "check_checkpoint", "known_unused"]

_TOWERS: Mapping[frozenset[str], tuple[str, ...]] = {
    frozenset({"image", "video"}): (f"{VISION}*", "model.embed_vision.*"),
    frozenset({"audio"}): (f"{AUDIO}*", "model.embed_audio.*"),
}
"""Modalities -> the tensors that only they need."""

_SHARED_KV = ("k_proj.weight", "v_proj.weight", "k_norm.weight", "v_norm.weight")


def check_checkpoint(checkpoint: Checkpoint, expect: Mapping[str, ParameterValue], entry: str) -> None:
    """Whether `checkpoint` is a Gemma 4 of the size that `entry` is made from.

    Raises:
        RecipeError: another architecture, a malformed config, or another size; names the keys.
    """
    check_expectations(parse_config(checkpoint.config), expect, entry)


def known_unused(checkpoint: Checkpoint, modalities: frozenset[str]) -> tuple[KnownUnused, ...]:
    """Tensors that an entry with these modalities leaves out on purpose."""
    text = parse_config(checkpoint.config).text
    known = [
        KnownUnused(pattern, f"the entry takes no {' or '.join(sorted(needed))}")
        for needed, patterns in _TOWERS.items()
        if not needed & modalities
        for pattern in patterns
    ]
    known.append(KnownUnused("lm_head.weight", "the head is tied to the embedding"))
    known.extend(
        KnownUnused(f"{TEXT}layers.{layer}.self_attn.{name}", "the layer reads an earlier layer's keys and values")
        for layer in range(text.first_shared_layer, text.num_hidden_layers)
        for name in _SHARED_KV
    )
    return tuple(known)
