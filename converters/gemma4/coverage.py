"""Tensors of a Gemma 4 checkpoint that a bundle leaves out on purpose. All others must be used."""

from __future__ import annotations

from collections.abc import Collection

from converters.checkpoint import KnownUnused
from converters.gemma4.config import Gemma4Config
from converters.gemma4.tensors import LM_HEAD, TEXT


def known_unused(config: Gemma4Config, modalities: Collection[str]) -> tuple[KnownUnused, ...]:
    """What `Checkpoint.unused` may ignore.

    Args:
        config: of the checkpoint.
        modalities: what the bundle contains besides text: any of `image`, `audio`.
    """
    known: list[KnownUnused] = []
    if config.text.tie_word_embeddings:
        known.append(KnownUnused(LM_HEAD, "tied to the embedding, which is used"))
    for layer in range(config.text.first_shared_layer, config.text.num_hidden_layers):
        reason = f"layer {layer} reads the K/V of an earlier layer; real checkpoints carry unused weights here"
        known += [
            KnownUnused(f"{TEXT}layers.{layer}.self_attn.{part}.weight", reason)
            for part in ("k_proj", "v_proj", "k_norm")
        ]
    if "image" not in modalities:
        known += [
            KnownUnused("model.vision_tower.*", "the bundle has no images"),
            KnownUnused("model.embed_vision.*", "the bundle has no images"),
        ]
    if "audio" not in modalities:
        known += [
            KnownUnused("model.audio_tower.*", "the bundle has no audio"),
            KnownUnused("model.embed_audio.*", "the bundle has no audio"),
        ]
    return tuple(known)
