"""A bundle's encoders, opened when the first image, frame or sound comes: files in, features out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from converters.errors import RecipeError
from converters.gemma4.config import parse_config
from converters.mil.types import Array
from converters.run.features import audio_features, image_features
from converters.run.folder import Chosen
from converters.run.pictures import SQUARE_GRIDS, Grid, Pixels, centred, fitted, load_picture, pooled, squashed
from converters.run.prompts import Span
from converters.run.runner import AnyRunner, OpenModel, Units
from converters.run.sidecars import read_audio_projection, read_json, read_settings
from converters.run.sounds import Mel, Sound, mel_features, read_front_end, read_wav
from converters.run.videos import FRAMES, read_video

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Heard:
    """A clip of sound as features.

    Attributes:
        span: the features.
        seconds: how long the clip is.
        heard: how much of it the encoder takes.
    """

    span: Span
    seconds: float
    heard: float


class Encoders:
    """What turns media into features. Nothing is opened before it is needed."""

    def __init__(self, chosen: Chosen, open_model: OpenModel) -> None:
        self._chosen, self._open = chosen, open_model
        self._hidden = read_settings(chosen.folder).hidden_size
        self._opened: dict[Path, AnyRunner] = {}

    def see(self, path: Path) -> Span:
        """An image file.

        Raises:
            RecipeError: it cannot be read, or the bundle has no encoder for it.
        """
        return Span((self.image(self.image_pixels(load_picture(path))),))

    def watch(self, path: Path, frames: int = FRAMES) -> Span:
        """A video, by its frames.

        Raises:
            RecipeError: it cannot be read, or the bundle has no encoder for it.
        """
        shown = read_video(path, frames)
        parts = tuple(self.frame(self.frame_pixels(frame.image)) for frame in shown)
        return Span(parts, tuple(frame.seconds for frame in shown))

    def hear(self, path: Path) -> Heard:
        """A WAV file.

        Raises:
            RecipeError: it cannot be read, or the bundle has no encoder for it.
        """
        sound = read_wav(path)
        mel = self.mel(sound)
        return Heard(Span((self.sound(mel),)), sound.seconds, mel.heard)

    def image_pixels(self, picture: Image) -> Pixels:
        """An image as the image encoder takes it."""
        place = self._place(self._chosen.image, "images", "vision.ane or vision")
        fit = squashed if _is_square(place) else fitted
        return fit(picture, self._grid(place))

    def frame_pixels(self, picture: Image) -> Pixels:
        """A frame as the encoder for frames takes it; without one, as the image encoder does."""
        return centred(picture, self._grid(self._frame_place()))

    def image(self, pixels: Pixels) -> Array:
        """`(tokens, hidden)` fp16 of an image."""
        return self._features(self._place(self._chosen.image, "images", "vision.ane or vision"), pixels)

    def frame(self, pixels: Pixels) -> Array:
        """`(tokens, hidden)` fp16 of a frame; a quarter of an image's tokens where the image encoder stands in."""
        rows = self._features(self._frame_place(), pixels)
        return rows if self._chosen.video else pooled(rows)

    def mel(self, sound: Sound) -> Mel:
        """A clip as the audio encoder takes it."""
        front = read_front_end(self._chosen.folder)
        return mel_features(sound, front, self._hearing().inputs["input_features"][1])

    def sound(self, mel: Mel) -> Array:
        """`(tokens, hidden)` fp16 of a clip."""
        rows = audio_features(self._hearing(), read_audio_projection(self._chosen.folder), mel.values)
        return self._checked(rows, self._place(self._chosen.audio, "sound", "audio"))[: mel.tokens]

    def _frame_place(self) -> Path:
        return self._place(self._chosen.video or self._chosen.image, "videos", "vision_video, vision.ane or vision")

    def _place(self, place: Path | None, what: str, names: str) -> Path:
        if place is None:
            raise RecipeError(f"{self._chosen.folder}: this bundle has no encoder for {what} ({names})")
        return place

    def _hearing(self) -> AnyRunner:
        return self._runner(self._place(self._chosen.audio, "sound", "audio"), "cpu-gpu")

    def _seeing(self, place: Path) -> AnyRunner:
        return self._runner(place, "cpu-ane" if _is_square(place) else "cpu-gpu")

    def _runner(self, place: Path, units: Units) -> AnyRunner:
        if place not in self._opened:
            self._opened[place] = self._open(place, None, units)
        return self._opened[place]

    def _grid(self, place: Path) -> Grid:
        vision = parse_config(read_json(self._chosen.folder / "hf_model" / "config.json")).vision
        if vision is None:
            raise RecipeError("hf_model/config.json: vision_config is missing; this model does not see")
        return Grid.of(self._seeing(place).inputs["pixel_values"], vision.pooling_kernel_size)

    def _features(self, place: Path, pixels: Pixels) -> Array:
        rows = self._checked(image_features(self._seeing(place), pixels.values, pixels.positions), place)
        if len(rows) < pixels.tokens:
            raise RecipeError(f"{place}: gives {len(rows)} tokens, the image has {pixels.tokens}")
        return rows[: pixels.tokens]

    def _checked(self, rows: Array, place: Path) -> Array:
        if rows.ndim != 2 or rows.shape[1] != self._hidden:
            raise RecipeError(
                f"{place}: gives features of shape {rows.shape}, but hidden_size in model_config.json is"
                f" {self._hidden}; is it another model's encoder?"
            )
        if not np.isfinite(rows.astype(np.float32)).all():
            raise RecipeError(f"{place}: gives features that are not finite")
        return rows


def _is_square(place: Path) -> bool:
    return place.name.startswith(SQUARE_GRIDS)
