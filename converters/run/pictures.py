"""Images as a vision encoder takes them: resized, cut into patches, padded. As transformers does it, where it can.

The app chooses by the encoder's name: a `vision.ane` takes a full square grid, to which images are squashed; every
other encoder takes the shape of the image, padded. For those, values are `Gemma4ImageProcessorPil`'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from converters.errors import RecipeError
from converters.gemma4.encoder_interface import COLOUR_CHANNELS
from converters.mil.types import Array

if TYPE_CHECKING:
    from PIL.Image import Image

PADDING = -1
"""Position of patches that are not there."""

SQUARE_GRIDS = "vision.ane"
"""What names of encoders with a full grid begin with."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What an encoder takes.

    Attributes:
        patches: how many, padding included.
        patch_size: pixels along a side.
        kernel: patches along the side of the square that becomes one token.
    """

    patches: int
    patch_size: int
    kernel: int

    @classmethod
    def of(cls, pixels: tuple[int, ...], kernel: int) -> Grid:
        """From the shape `(1, patches, values)` of an encoder's input.

        Raises:
            RecipeError: it is not the shape of square patches.
        """
        values = pixels[-1] // COLOUR_CHANNELS
        size = math.isqrt(values)
        if len(pixels) != 3 or size * size * COLOUR_CHANNELS != pixels[-1]:
            raise RecipeError(f"the vision encoder takes pixel_values of shape {pixels}, which are no square patches")
        return cls(pixels[1], size, kernel)

    @property
    def unit(self) -> int:
        """Pixels along the side of one token."""
        return self.kernel * self.patch_size

    @property
    def square(self) -> int:
        """Patches along the side of the largest square that fits."""
        return math.isqrt(self.patches) // self.kernel * self.kernel


@dataclass(frozen=True, slots=True)
class Pixels:
    """An image for an encoder.

    Attributes:
        values: `(patches, 3 * patch_size^2)` float32, colours in 0 to 1.
        positions: `(patches, 2)` int32, x and y.
        tokens: how many soft tokens of the result stand for it.
    """

    values: Array
    positions: Array
    tokens: int


def load_picture(path: Path) -> Image:
    """Reads an image file; turned upright, in RGB.

    Raises:
        RecipeError: it cannot be read as an image.
    """
    from PIL import Image as Images
    from PIL import ImageOps, UnidentifiedImageError

    try:
        with Images.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError:
        raise RecipeError(f"{path} is not an image that Pillow reads") from None
    except (OSError, ValueError, Images.DecompressionBombError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from error


def squashed(image: Image, grid: Grid) -> Pixels:
    """The image in a full square grid, whatever its shape; no padding.

    Raises:
        RecipeError: the grid is not a square.
    """
    if grid.square**2 != grid.patches:
        raise RecipeError(f"the vision encoder takes {grid.patches} patches, which are no square of tokens")
    return _cut(image, grid.square, grid.square, grid)


def fitted(image: Image, grid: Grid) -> Pixels:
    """The image in its own shape, as large as the grid allows, padded.

    Raises:
        RecipeError: the image is too narrow for any shape.
    """
    width, height = image.size
    rows, columns = _shape(height, width, grid)
    return _cut(image, rows, columns, grid)


def centred(image: Image, grid: Grid) -> Pixels:
    """The largest square in the image's middle: frames of videos, as the app takes them."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return _cut(image.crop((left, top, left + side, top + side)), grid.square, grid.square, grid)


def _shape(height: int, width: int, grid: Grid) -> tuple[int, int]:
    """Rows and columns of patches: the largest with the image's proportions, as in transformers' processor."""
    factor = math.sqrt(grid.patches * grid.patch_size**2 / (height * width))
    rows, columns = (math.floor(factor * side / grid.unit) * grid.kernel for side in (height, width))
    longest = grid.patches // grid.kernel**2 * grid.kernel
    if not rows and not columns:
        raise RecipeError(f"an image of {width} x {height} pixels is too small for the vision encoder")
    if not rows:
        return grid.kernel, min(width // height * grid.kernel, longest)
    if not columns:
        return min(height // width * grid.kernel, longest), grid.kernel
    return rows, columns


def _cut(image: Image, rows: int, columns: int, grid: Grid) -> Pixels:
    from PIL.Image import Resampling

    size = grid.patch_size
    wanted = (columns * size, rows * size)
    resized = image if image.size == wanted else image.resize(wanted, Resampling.BICUBIC)
    colours = np.asarray(resized, np.float32) / np.float32(255)
    patches = colours.reshape(rows, size, columns, size, COLOUR_CHANNELS).transpose(0, 2, 1, 3, 4)
    count = rows * columns
    values = np.zeros((grid.patches, size * size * COLOUR_CHANNELS), np.float32)
    values[:count] = patches.reshape(count, -1)
    positions = np.full((grid.patches, 2), PADDING, np.int32)
    index = np.arange(count, dtype=np.int32)
    positions[:count] = np.stack([index % columns, index // columns], axis=1)
    return Pixels(values, positions, count // grid.kernel**2)


def pooled(features: Array) -> Array:
    """Halves a square of tokens along both sides by averaging, `(side^2, hidden)` to `(side^2 / 4, hidden)` fp16.

    What the app does with frames where a bundle has no encoder for them.

    Raises:
        RecipeError: they are not a square of even side.
    """
    side = math.isqrt(len(features))
    if side * side != len(features) or side % 2:
        raise RecipeError(f"a frame of {len(features)} tokens cannot be halved")
    square = features.astype(np.float32).reshape(side // 2, 2, side // 2, 2, -1)
    halved: Array = square.mean(axis=(1, 3)).reshape(len(features) // 4, -1).astype(np.float16)
    return halved
