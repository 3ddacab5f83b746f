"""Pixels and patch positions against transformers' image processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

from PIL import Image

from converters.errors import RecipeError
from converters.mil.types import Array
from converters.run.pictures import Grid, centred, fitted, load_picture, pooled, squashed

pytestmark = pytest.mark.convert

STILL, FRAME, NEURAL = Grid(2520, 16, 3), Grid(630, 16, 3), Grid(2304, 16, 3)


def picture(width: int, height: int) -> Array:
    """`(height, width, 3)` bytes without symmetry."""
    y, x = np.mgrid[0:height, 0:width]
    colours = np.stack([x * 255 // width, y * 255 // height, (x * 7 + y * 3) % 256], axis=-1)
    pixels: Array = colours.astype(np.uint8)
    return pixels


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1000, 90), (33, 900), (768, 768), (3, 3), (2000, 20)])
def test_padded_images_equal_transformers(size: tuple[int, int]) -> None:
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    image = Image.fromarray(picture(*size))
    theirs = Gemma4ImageProcessorPil(max_soft_tokens=280)(images=[image], return_tensors="np")
    ours = fitted(image, STILL)
    np.testing.assert_array_equal(ours.positions, theirs["image_position_ids"][0])
    np.testing.assert_allclose(ours.values, theirs["pixel_values"][0], atol=1e-6)
    assert ours.tokens == theirs["num_soft_tokens_per_image"][0]


def test_full_grids_take_any_shape() -> None:
    """768 x 768 pixels in 48 x 48 patches whatever the image's proportions, as the app draws them."""
    image = Image.fromarray(picture(300, 200))
    found = squashed(image, NEURAL)
    assert found.tokens == 256
    assert (found.positions >= 0).all()
    assert found.positions[47].tolist() == [47, 0]
    assert found.positions[48].tolist() == [0, 1]
    resized = np.asarray(image.resize((768, 768), Image.Resampling.BICUBIC), np.float32) / 255
    np.testing.assert_array_equal(found.values[49].reshape(16, 16, 3), resized[16:32, 16:32])
    with pytest.raises(RecipeError, match="2520 patches, which are no square"):
        squashed(image, STILL)


def test_frames_are_cut_to_a_square() -> None:
    """384 x 384 pixels in 24 x 24 patches and 54 of padding, as the app prepares them."""
    wide = centred(Image.fromarray(picture(300, 200)), FRAME)
    assert wide.tokens == 64
    assert (wide.positions[576:] == -1).all()
    assert not wide.values[576:].any()
    square = centred(Image.fromarray(picture(300, 200)[:, 50:250]), FRAME)
    np.testing.assert_array_equal(wide.values, square.values)


def test_grids_follow_from_the_encoder() -> None:
    assert Grid.of((1, 2304, 768), 3) == NEURAL
    assert (NEURAL.square, FRAME.square, STILL.square) == (48, 24, 48)
    with pytest.raises(RecipeError, match="which are no square patches"):
        Grid.of((1, 2304, 700), 3)


def test_halves() -> None:
    """Token by token, as the app's loops have it."""
    features = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float16)
    found = pooled(features)
    square = features.reshape(4, 4, 5).astype(np.float32)
    for row in range(2):
        for column in range(2):
            four = [square[2 * row + y, 2 * column + x] for y in range(2) for x in range(2)]
            np.testing.assert_array_equal(found[2 * row + column], (sum(four) / 4).astype(np.float16))
    with pytest.raises(RecipeError, match="9 tokens cannot be halved"):
        pooled(features[:9])


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    tags = Image.Exif()
    tags[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(picture(40, 20)).save(path, exif=tags)
    assert load_picture(path).size == (20, 40)
    clear = tmp_path / "clear.png"
    Image.fromarray(picture(4, 4)).convert("RGBA").save(clear)
    assert load_picture(clear).mode == "RGB"
    (tmp_path / "words.png").write_text("no image")
    with pytest.raises(RecipeError, match=r"words.png is not an image"):
        load_picture(tmp_path / "words.png")
    (tmp_path / "half.jpg").write_bytes(path.read_bytes()[:400])
    with pytest.raises(RecipeError, match=r"half.jpg"):
        load_picture(tmp_path / "half.jpg")
