"""Recipes for the encoders that feed the text model: images and audio."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from converters.errors import RecipeError
from converters.gemma4.config import AudioConfig, Gemma4Config, VisionConfig, parse_config
from converters.gemma4.encoder_interface import MAX_TOKENS, Grid, full_grid, padded_grid
from converters.gemma4.encoder_tensors import audio_shapes, vision_shapes
from converters.gemma4.recipes.text import BITS, LIBRARIES
from converters.gemma4.tensors import Shapes
from converters.parameters import choice, whole
from converters.recipe import LIGHT, Needs, Parameters, Recipe

if TYPE_CHECKING:
    from converters.checkpoint import Checkpoint

VISION_ENCODER: Parameters = {"variant": "ane", "tokens": 256}
TABLES, LINEAR = "tables", "linear"
SCHEMES = (TABLES, LINEAR)
"""How the audio encoder's weights are compressed: look-up tables, or integers times a scale per output channel."""

LINEAR_BITS = (4, 8)
"""Widths of the latter's integers."""

AUDIO_ENCODER: Parameters = {"frames": 200, "bits": 4, "scheme": TABLES, "group_size": 32}

GRIDS: Mapping[str, Callable[[VisionConfig, int], Grid]] = MappingProxyType(
    {
        "ane": full_grid,
        "padded": padded_grid,
    }
)
"""Variants of the vision encoder: a full grid in float16, or float32 pixels with padding as the processors make it
(280 tokens for images, 64 for square video frames)."""

MAX_FRAMES = 3000
"""30 seconds, the longest clip that Gemma 4 takes (`audio_seq_length` 750 in its processor)."""


@dataclass(frozen=True, slots=True)
class AudioParameters:
    """Checked parameters of the audio recipe.

    Attributes:
        frames: mel frames, 10 ms each.
        bits: per weight; 16 leaves them float16.
        linear: weights are integers times a scale, not in look-up tables.
        group_size: output channels that share a look-up table.
    """

    frames: int
    bits: int
    linear: bool
    group_size: int


def vision_config(config: Gemma4Config) -> VisionConfig:
    """The vision tower's config.

    Raises:
        RecipeError: there is none.
    """
    if config.vision is None:
        raise RecipeError("config.json: vision_config is missing; this checkpoint cannot see images")
    return config.vision


def audio_config(config: Gemma4Config) -> AudioConfig:
    """The audio tower's config.

    Raises:
        RecipeError: there is none.
    """
    if config.audio is None:
        raise RecipeError("config.json: audio_config is missing; this checkpoint cannot hear audio")
    return config.audio


def vision_grid(vision: VisionConfig, parameters: Parameters) -> Grid:
    """Check the parameters of `gemma4.vision-encoder`."""
    variant = choice(parameters, "variant", GRIDS)
    return GRIDS[variant](vision, whole(parameters, "tokens", 1, MAX_TOKENS))


def audio_parameters(parameters: Parameters) -> AudioParameters:
    """Check the parameters of `gemma4.audio-encoder`."""
    bits = whole(parameters, "bits", 1, 16)
    if bits not in BITS:
        raise RecipeError(f"parameter bits is {bits}; Core ML has {', '.join(map(str, BITS))}")
    linear = choice(parameters, "scheme", SCHEMES) == LINEAR
    if linear and bits not in LINEAR_BITS:
        raise RecipeError(f"parameter bits is {bits}; with scheme = {LINEAR!r} it can be 4 or 8")
    frames = whole(parameters, "frames", 1, MAX_FRAMES)
    return AudioParameters(frames, bits, linear, whole(parameters, "group_size", 1, 1 << 16))


def _require(checkpoint: Checkpoint, shapes: Shapes) -> Needs:
    for name, shape in shapes.items():
        checkpoint.require(name, shape)
    return Needs(tensors=tuple(sorted(shapes)))


def needs_of_vision_encoder(checkpoint: Checkpoint, parameters: Parameters) -> Needs:
    """The vision tower's tensors and the projection behind it."""
    config = parse_config(checkpoint.config)
    vision = vision_config(config)
    vision_grid(vision, parameters)
    return _require(checkpoint, vision_shapes(vision, config.text.hidden_size))


def needs_of_audio_encoder(checkpoint: Checkpoint, parameters: Parameters) -> Needs:
    """The audio tower's tensors without `output_proj`, which is a sidecar."""
    audio = audio_config(parse_config(checkpoint.config))
    audio_parameters(parameters)
    return _require(checkpoint, audio_shapes(audio))


ENCODER_RECIPES: tuple[Recipe, ...] = (
    Recipe(
        name="gemma4.vision-encoder",
        version=1,
        libraries=LIBRARIES,
        parameters=VISION_ENCODER,
        needs=needs_of_vision_encoder,
        run="converters.gemma4.encoders:build_vision_encoder",
        weight=2.0,
        memory=LIGHT,
    ),
    Recipe(
        name="gemma4.audio-encoder",
        version=2,
        libraries=LIBRARIES,
        parameters=AUDIO_ENCODER,
        needs=needs_of_audio_encoder,
        run="converters.gemma4.encoders:build_audio_encoder",
        weight=1.0,
        memory=LIGHT,
    ),
)
