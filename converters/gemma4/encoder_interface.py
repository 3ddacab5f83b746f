"""Inputs and outputs of the vision and audio encoders: the contract with the app. Nothing heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass

from converters.errors import RecipeError
from converters.gemma4.config import AudioConfig, VisionConfig
from converters.signature import FunctionSpec, TensorSpec

MAIN = "main"

SOFT_TOKEN_BUDGETS = (70, 140, 280, 560, 1120)
"""Image sizes, in soft tokens, that Gemma 4's processors pad to (`_SUPPORTED_SOFT_TOKENS` in transformers)."""

MAX_TOKENS = SOFT_TOKEN_BUDGETS[-1]

COLOUR_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class Grid:
    """The fixed number of patches a vision encoder takes.

    Attributes:
        patches: patches, padding included.
        tokens: soft tokens that come out.
        kernel: side of the square of patches that become one token.
        is_padded: patches at position -1 may occur, and pixels are float32, as the image processor makes them.
    """

    patches: int
    tokens: int
    kernel: int
    is_padded: bool


def full_grid(vision: VisionConfig, tokens: int) -> Grid:
    """A grid without padding: 256 tokens are 2304 patches, 48 x 48 of them in a square image."""
    kernel = vision.pooling_kernel_size
    return Grid(tokens * kernel**2, tokens, kernel, is_padded=False)


def padded_grid(vision: VisionConfig, tokens: int) -> Grid:
    """What Gemma 4's image and video processors make, padded to the smallest budget that holds `tokens`.

    280 tokens mean 2520 patches. 64 tokens, a square video frame, come out of the budget of 70, which is 630 patches.

    Raises:
        RecipeError: more tokens than any budget holds.
    """
    budget = next((budget for budget in SOFT_TOKEN_BUDGETS if budget >= tokens), None)
    if budget is None:
        raise RecipeError(f"tokens is {tokens}, but Gemma 4 has no images above {MAX_TOKENS} tokens")
    kernel = vision.pooling_kernel_size
    return Grid(budget * kernel**2, tokens, kernel, is_padded=True)


def patch_values(vision: VisionConfig) -> int:
    """Numbers in one flattened patch: 768 for patches of 16 x 16 pixels."""
    return COLOUR_CHANNELS * vision.patch_size**2


def vision_spec(vision: VisionConfig, text_hidden_size: int, grid: Grid) -> FunctionSpec:
    """Pixels are colours in 0 to 1; positions are x and y of each patch."""
    pixels = (1, grid.patches, patch_values(vision))
    return FunctionSpec(
        MAIN,
        (
            TensorSpec("pixel_values", pixels, "float32" if grid.is_padded else "float16"),
            TensorSpec("pixel_position_ids", (1, grid.patches, 2), "int32"),
        ),
        (TensorSpec("image_features", (1, grid.tokens, text_hidden_size)),),
    )


def mel_bins(audio: AudioConfig) -> int:
    """Width of the mel features, 128 in Gemma 4.

    No key says it: `Gemma4AudioSubSampleConvProjection` takes a quarter of its first channel count to be the
    width left after two convolutions of stride 2.
    """
    return audio.subsampling_conv_channels[0] // 4 * 4


def audio_steps(frames: int) -> int:
    """Encoder steps (soft tokens, 40 ms each) that `frames` mel frames (10 ms each) become: 200 give 50."""
    halved = (frames + 1) // 2
    return (halved + 1) // 2


def audio_spec(audio: AudioConfig, frames: int) -> FunctionSpec:
    """Hidden states are those before `output_proj`, whose weights are sidecar files of a bundle."""
    features = TensorSpec("input_features", (1, frames, mel_bins(audio)))
    return FunctionSpec(MAIN, (features,), (TensorSpec("hidden_states", (1, audio_steps(frames), audio.hidden_size)),))
