"""A prompt with text, an image and sound, as transformers' preprocessing makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from converters.gemma4.config import TokenIds
from converters.mil.types import Array
from tests.converters.parity.conftest import FRAMES, IMAGE_TOKENS

SIDE = 12
"""Patches along each side of the image: 16 tokens of 3 x 3 patches."""

PATCH, SAMPLE_RATE, SOUND_TOKENS = 16, 16_000, FRAMES // 4


@dataclass(frozen=True)
class Prompt:
    """Ids with placeholders, and what they stand for.

    Attributes:
        ids: 36 of them; the image alone is longer than the sliding window.
        pixels: `(144, 768)`.
        patch_positions: `(144, 2)` x and y.
        mel: `(40, 128)`.
    """

    ids: list[int]
    pixels: Array
    patch_positions: Array
    mel: Array

    def for_transformers(self, tokens: TokenIds) -> dict[str, torch.Tensor]:
        """The other arguments of transformers' forward pass."""
        kinds = [{tokens.image: 1, tokens.audio: 3}.get(token, 0) for token in self.ids]
        mel = torch.from_numpy(self.mel)[None]
        return {
            "pixel_values": torch.from_numpy(self.pixels)[None],
            "image_position_ids": torch.from_numpy(self.patch_positions)[None].long(),
            "input_features": mel,
            "input_features_mask": torch.ones(mel.shape[:2], dtype=torch.bool),
            "mm_token_type_ids": torch.tensor([kinds]),
        }


def make_prompt(tokens: TokenIds) -> Prompt:
    """Text, image, text, sound, text."""
    image, audio = [tokens.image] * IMAGE_TOKENS, [tokens.audio] * SOUND_TOKENS
    ids: list[Any] = [2, 617, 93, tokens.boi, *image, tokens.eoi, 401, tokens.boa, *audio, tokens.eoa, 555, 12]
    pixels, positions = _patches(_picture())
    return Prompt(ids, pixels, positions, _mel(_sound()))


def _picture() -> Array:
    """`(3, 192, 192)` in 0 to 1: a sky, a sun, a fence. No symmetry, so that any mix-up of patches shows."""
    y, x = np.mgrid[0:1:192j, 0:1:192j]
    sun = np.exp(-((x - 0.7) ** 2 + (y - 0.25) ** 2) / 0.01)
    fence = ((x * 23 % 1 < 0.3) & (y > 0.6)).astype(float)
    picture = np.stack([0.3 + 0.7 * sun, 0.5 * y + 0.4 * sun, 0.9 - 0.6 * y]) * (1 - 0.8 * fence)
    clipped: Array = np.clip(picture, 0, 1).astype(np.float32)
    return clipped


def _patches(picture: Array) -> tuple[Array, Array]:
    from transformers.models.gemma4.image_processing_pil_gemma4 import convert_image_to_patches

    index = np.arange(SIDE * SIDE, dtype=np.int32)
    return convert_image_to_patches(picture, PATCH), np.stack([index % SIDE, index // SIDE], axis=1)


def _sound() -> Array:
    """0.5 s of a rising tone over noise."""
    time = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    noise = np.random.default_rng(0).normal(size=len(time))
    return (0.5 * np.sin(2 * np.pi * (300 + 2000 * time) * time) + 0.02 * noise).astype(np.float32)


def _mel(sound: Array) -> Array:
    from transformers import Gemma4AudioFeatureExtractor

    features = Gemma4AudioFeatureExtractor()([sound], sampling_rate=SAMPLE_RATE, return_tensors="np")
    mel: Array = np.asarray(features["input_features"][0][:FRAMES], dtype=np.float32)
    assert mel.shape == (FRAMES, 128)
    return mel
