"""A bundle's encoders, opened when the first image, frame or sound comes: files in, features out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converters.errors import RecipeError
from converters.gemma4.config import parse_config
from converters.mil.types import Array
from converters.parity.encoders import audio_features, image_features
from converters.parity.folder import Chosen
from converters.parity.runner import AnyRunner, OpenModel, Units
from converters.parity.sidecars import read_audio_projection, read_json, read_settings
from converters.run.pictures import SQUARE_GRIDS, Grid, Pixels, centred, fitted, load_picture, pooled, squashed
from converters.run.prompts import Span
from converters.run.sounds import mel_features, read_front_end, read_wav
from converters.run.videos import FRAMES, Frame, read_video


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
        encoder, place = self._vision(self._chosen.image, "images", "vision.ane or vision")
        grid = self._grid(encoder)
        picture = load_picture(path)
        pixels = squashed(picture, grid) if _is_square(place) else fitted(picture, grid)
        return Span((self._features(encoder, pixels, place),))

    def watch(self, path: Path, frames: int = FRAMES) -> Span:
        """A video, by its frames.

        Raises:
            RecipeError: it cannot be read, or the bundle has no encoder for it.
        """
        wanted = self._chosen.video or self._chosen.image
        encoder, place = self._vision(wanted, "videos", "vision_video, vision.ane or vision")
        shown = read_video(path, frames)
        parts = tuple(self._look(encoder, place, frame) for frame in shown)
        return Span(parts, tuple(frame.seconds for frame in shown))

    def hear(self, path: Path) -> Heard:
        """A WAV file.

        Raises:
            RecipeError: it cannot be read, or the bundle has no encoder for it.
        """
        place = self._chosen.audio
        if place is None:
            raise RecipeError(f"{self._chosen.folder}: this bundle has no audio encoder (audio)")
        sound, front = read_wav(path), read_front_end(self._chosen.folder)
        encoder = self._runner(place, "cpu-gpu")
        mel = mel_features(sound, front, encoder.inputs["input_features"][1])
        rows = audio_features(encoder, read_audio_projection(self._chosen.folder), mel.values)
        return Heard(Span((self._checked(rows, place)[: mel.tokens],)), sound.seconds, mel.heard)

    def _look(self, encoder: AnyRunner, place: Path, frame: Frame) -> Array:
        grid = self._grid(encoder)
        rows = self._features(encoder, centred(frame.image, grid), place)
        return rows if self._chosen.video else pooled(rows)

    def _vision(self, place: Path | None, what: str, names: str) -> tuple[AnyRunner, Path]:
        if place is None:
            raise RecipeError(f"{self._chosen.folder}: this bundle has no encoder for {what} ({names})")
        return self._runner(place, "cpu-ane" if _is_square(place) else "cpu-gpu"), place

    def _runner(self, place: Path, units: Units) -> AnyRunner:
        if place not in self._opened:
            self._opened[place] = self._open(place, None, units)
        return self._opened[place]

    def _grid(self, encoder: AnyRunner) -> Grid:
        vision = parse_config(read_json(self._chosen.folder / "hf_model" / "config.json")).vision
        if vision is None:
            raise RecipeError("hf_model/config.json: vision_config is missing; this model does not see")
        return Grid.of(encoder.inputs["pixel_values"], vision.pooling_kernel_size)

    def _features(self, encoder: AnyRunner, pixels: Pixels, place: Path) -> Array:
        rows = self._checked(image_features(encoder, pixels.values, pixels.positions), place)
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
