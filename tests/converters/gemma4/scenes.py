"""Prompts with images, videos and sound: real preprocessing, our encoders, and transformers' whole forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from converters.checkpoint import Checkpoint
from converters.gemma4.audio import load_audio, project_audio
from converters.gemma4.config import Gemma4Config, parse_config
from converters.gemma4.encoder_interface import Grid, padded_grid
from converters.gemma4.encoder_tensors import AUDIO_OUTPUT_BIAS, AUDIO_OUTPUT_WEIGHT, AUDIO_PROJECTION
from converters.gemma4.vision import load_vision
from tests.converters.gemma4.prompt_engine import Model, Prompt

BUDGET = 70
"""Soft tokens of the smallest images, and of video frames."""

SAMPLE_RATE = 16_000


def picture(width: int, height: int, hue: float = 0.0) -> Any:
    """A PIL image: a sky, a sun, a fence. Without symmetry, so that any mix-up of patches shows."""
    from PIL import Image

    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    sun = np.exp(-((x - 0.7 + hue) ** 2 + (y - 0.25) ** 2) / 0.01)
    fence = ((x * 23 % 1 < 0.3) & (y > 0.6)).astype(float)
    colours = np.stack([0.3 + hue + 0.7 * sun, 0.5 * y + 0.4 * sun, 0.9 - 0.6 * y], axis=-1)
    return Image.fromarray((255 * np.clip(colours * (1 - 0.8 * fence[..., None]), 0, 1)).astype(np.uint8))


def sound(seconds: float) -> npt.NDArray[np.float32]:
    """A rising tone over noise."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(0).normal(size=len(time))
    return (0.5 * np.sin(2 * np.pi * (300 + 2000 * time) * time) + 0.02 * noise).astype(np.float32)


def patches(images: Sequence[Any], tokens: int = BUDGET) -> tuple[Tensor, Tensor]:
    """What transformers' image processor makes of pictures; frames of a video go the same way.

    Returns:
        Pixels `(images, patches, 768)` and positions `(images, patches, 2)`, -1 for padding.
    """
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    found = Gemma4ImageProcessorPil(max_soft_tokens=tokens)(list(images), return_tensors="pt")
    return found["pixel_values"], found["image_position_ids"]


def mel(samples: npt.NDArray[np.float32]) -> Tensor:
    """`(1, frames, 128)`, only frames that are all sound."""
    from transformers import Gemma4AudioFeatureExtractor

    found = Gemma4AudioFeatureExtractor()([samples], sampling_rate=SAMPLE_RATE, return_tensors="np")
    valid = found["input_features_mask"][0]
    return torch.from_numpy(found["input_features"][:, valid]).float()


@dataclass
class Scene:
    """Text, an image, text, a video of two frames, text, sound, text."""

    model: Model
    config: Gemma4Config
    checkpoint: Checkpoint

    @classmethod
    def load(cls, path: Path) -> Scene:
        opened = Checkpoint.open(path)
        return cls(Model.load(path), parse_config(opened.config), opened)

    def prompt(self, *, bidirectional: bool = False) -> Prompt:
        """The prompt with features of our encoders in their places, and transformers' logits from pixels and sound."""
        image, video = patches([picture(200, 120)]), patches([picture(90, 90, hue) for hue in (0.1, 0.4)])
        features = mel(sound(0.4))
        made = {
            "image": self._see(*image, padded_grid(self._vision, BUDGET)),
            "video": self._see(*video, padded_grid(self._vision, 64)),  # square frames
            "audio": self._hear(features),
        }
        ids = self._ids({kind: rows.shape[0] for kind, rows in made.items()})
        tokens, oracle = self.model.text.tokens, self.model.oracle
        kinds = torch.tensor([[self._kind(int(token)) for token in ids[0]]])
        embedded, per_layer = oracle.embed(torch.where(kinds > 0, tokens.pad or 0, ids))
        for number, rows in enumerate(made.values(), start=1):
            embedded[kinds == number] = rows
        settings = oracle.text.config
        settings.use_bidirectional_attention = "vision" if bidirectional else None
        try:
            with torch.no_grad():
                output = oracle.model(
                    ids,
                    pixel_values=image[0],
                    image_position_ids=image[1],
                    pixel_values_videos=video[0],
                    video_position_ids=video[1],
                    num_frames_per_video=torch.tensor([len(video[0])]),
                    input_features=features,
                    input_features_mask=torch.ones(features.shape[:2], dtype=torch.bool),
                    mm_token_type_ids=kinds,
                    use_cache=False,
                )
        finally:
            settings.use_bidirectional_attention = None
        return Prompt(ids, embedded, per_layer, torch.tensor(list(_spans(kinds[0].tolist()))), output.logits[0])

    @property
    def _vision(self) -> Any:
        return self.config.vision

    def _kind(self, token: int) -> int:
        """1 for an image, 2 for a video, 3 for sound, as transformers numbers them; 0 for text."""
        tokens = self.model.text.tokens
        return {tokens.image: 1, tokens.video: 2, tokens.audio: 3}.get(token, 0)

    def _ids(self, counts: dict[str, int]) -> Tensor:
        tokens = self.model.text.tokens
        frame = [tokens.boi, *[tokens.video] * (counts["video"] // 2), tokens.eoi]
        ids = [2, 617, 93, tokens.boi, *[tokens.image] * counts["image"], tokens.eoi, 401, *frame, 77, *frame, 300]
        ids += [tokens.boa, *[tokens.audio] * counts["audio"], tokens.eoa, 555, 12, 341, 19, 42, 98, 760, 11]
        return torch.tensor([ids])

    def _see(self, pixels: Tensor, positions: Tensor, grid: Grid) -> Tensor:
        """Soft tokens of every picture, without those of its padding."""
        encoder = load_vision(self.checkpoint, self.config, grid)
        kept = []
        for one, where in zip(pixels, positions, strict=True):
            with torch.no_grad():
                found = encoder(one[None], where[None].to(torch.int32))[0]
            kept.append(found[: int((where[:, 0] >= 0).sum()) // grid.kernel**2])
        return torch.cat(kept)

    def _hear(self, features: Tensor) -> Tensor:
        assert self.config.audio is not None
        names = (AUDIO_OUTPUT_WEIGHT, AUDIO_OUTPUT_BIAS, AUDIO_PROJECTION)
        weights = [self.checkpoint.tensor(name).float() for name in names]
        with torch.no_grad():
            hidden = load_audio(self.checkpoint, self.config, features.shape[1])(features)
            return project_audio(hidden, weights[0], weights[1], weights[2], self.config.audio.rms_norm_eps)[0]


def _spans(kinds: Sequence[int]) -> Iterator[int]:
    """The number of the picture that a position belongs to, -1 for text and sound."""
    for number, (kind, run) in enumerate(groupby(kinds)):
        yield from [number if kind in (1, 2) else -1 for _ in run]
