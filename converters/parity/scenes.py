"""What a bundle is asked in a comparison: words, a conversation of several turns, a picture, a film, a sound.

Everything is made here, always the same, without symmetry, so that whatever is mixed up shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from converters.errors import RecipeError
from converters.gemma4.config import TokenIds
from converters.mil.types import Array
from converters.parity.oracle import Features
from converters.run.engine import splice
from converters.run.sidecars import Position
from converters.run.sounds import Sound
from converters.run.vocabulary import Vocabulary

if TYPE_CHECKING:
    from PIL.Image import Image

PASSAGE = (
    "The ferry left before sunrise, with eleven passengers, two bicycles and a crate of lemons.",
    "By nine the fog had lifted, and one could count the windows of the lighthouse on the far shore.",
    "Nobody had told the captain that the harbour was closed for repairs until the end of the week.",
    "He turned the wheel, swore under his breath, and asked the boy to read the chart aloud.",
    "Between the two islands there is a channel, nine metres deep at low water, narrow but clean.",
    "In 1874 a schooner sank there; divers still bring up plates, spoons and the odd brass button.",
    "The boy read slowly, because the light was poor and the print was smaller than he remembered.",
    "If the wind holds, said the captain, we shall be at the market before the bread is cold.",
    "A woman in a green coat laughed and offered him half of her orange, which he accepted.",
    "Later she wrote that the crossing had cost her a hat, gained her a friend, and taken 3 hours.",
)
"""Sentences that are repeated until there are enough tokens."""

TURNS = (("user", "Hi."), ("assistant", "Hello."), ("user", "Why?"), ("assistant", "Well."), ("user", "Go on."))

SAMPLE_RATE = 16_000
VIDEO_FRAMES = 2


@dataclass(frozen=True, slots=True)
class Scene:
    """A sequence with a name.

    Attributes:
        name: of the check.
        says: what it is, in words.
        ids: with placeholders.
        features: what stands for them.
        at_once: positions that are taken in together, as prompts are; all others go one by one.
    """

    name: str
    says: str
    ids: tuple[int, ...]
    features: Features = field(default_factory=Features)
    at_once: tuple[range, ...] = ()

    def positions(self, tokens: TokenIds) -> list[Position]:
        """The sequence as an engine takes it."""
        kinds = ((tokens.image, self.features.image), (tokens.video, self.features.video))
        given = (*kinds, (tokens.audio, self.features.audio))
        return splice(self.ids, {token: rows for token, rows in given if token is not None and rows is not None})


def words(vocabulary: Vocabulary, length: int, text: str | None = None) -> Scene:
    """So many tokens of a text.

    Args:
        vocabulary: of the bundle.
        length: tokens, with the first, which begins every sequence.
        text: instead of `PASSAGE`; repeated if it is too short.

    Raises:
        RecipeError: the text is empty.
    """
    ids = [vocabulary.tokens.bos]
    for sentence in cycle((text,) if text is not None else PASSAGE):
        found = vocabulary.encode(sentence + " ")
        if not found:
            raise RecipeError("the text for the comparison is empty")
        ids += found
        if len(ids) >= length:
            break
    return Scene("text", f"{length} tokens of text, one by one", tuple(ids[:length]))


def conversation(vocabulary: Vocabulary, context: int) -> Scene | None:
    """As many turns as fit, in the bundle's chat template; None if two of the person's do not.

    What the person says is taken in at once, up to where the model answers; the answers go one by one.
    """
    ids: tuple[int, ...] = ()
    at_once: list[range] = []
    begin = 0
    for count in range(1, len(TURNS) + 1, 2):
        messages = [{"role": role, "content": content} for role, content in TURNS[:count]]
        longer = tuple(vocabulary.encode(vocabulary.prompt(messages)))
        if len(longer) > context:
            break
        ids = longer
        at_once.append(range(begin, len(ids)))
        begin = len(ids) + (len(vocabulary.encode(TURNS[count][1])) if count < len(TURNS) else 0)
    if len(at_once) < 2:
        return None
    return Scene("turns", f"a conversation of {len(at_once)} turns", ids, at_once=tuple(at_once))


def picture(width: int = 240, height: int = 192, moment: float = 0.0) -> Image:
    """A sky, a sun, a fence; the sun moves with the moment."""
    from PIL import Image as Images

    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    sun = np.exp(-((x - 0.7 + moment) ** 2 + (y - 0.25 - moment / 2) ** 2) / 0.01)
    fence = ((x * 23 % 1 < 0.3) & (y > 0.6)).astype(float)
    colours = np.stack([0.3 + 0.7 * sun, 0.5 * y + 0.4 * sun, 0.9 - 0.6 * y], axis=-1) * (1 - 0.8 * fence[..., None])
    return Images.fromarray((np.clip(colours, 0, 1) * 255).astype(np.uint8))


def tone(seconds: float) -> Sound:
    """A rising tone over noise."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(0).normal(size=len(time))
    samples = 0.5 * np.sin(2 * np.pi * (300 + 2000 * time) * time) + 0.02 * noise
    return Sound(samples.astype(np.float32), SAMPLE_RATE)


def image_scene(vocabulary: Vocabulary, rows: Array) -> Scene:
    """Words, an image, words."""
    tokens = vocabulary.tokens
    ids = _around(vocabulary, [tokens.boi, *[tokens.image] * len(rows), tokens.eoi])
    return Scene("image", f"an image of {len(rows)} tokens between words", ids, Features(image=rows))


def audio_scene(vocabulary: Vocabulary, rows: Array) -> Scene:
    """Words, a sound, words."""
    tokens = vocabulary.tokens
    ids = _around(vocabulary, [tokens.boa, *[tokens.audio] * len(rows), tokens.eoa])
    return Scene("audio", f"a sound of {len(rows)} tokens between words", ids, Features(audio=rows))


def video_scene(vocabulary: Vocabulary, frames: Sequence[Array]) -> Scene:
    """Words, frames with something between them, words."""
    tokens = vocabulary.tokens
    between = vocabulary.encode(" 1:")
    inside: list[int | None] = []
    for rows in frames:
        inside += [*between, tokens.boi, *[tokens.video] * len(rows), tokens.eoi]
    rows = np.concatenate(frames)
    says = f"{len(frames)} frames of {len(frames[0])} tokens between words"
    return Scene("video", says, _around(vocabulary, inside), Features(video=rows))


def _around(vocabulary: Vocabulary, inside: Sequence[int | None]) -> tuple[int, ...]:
    if None in inside:
        raise RecipeError("hf_model/config.json names no placeholder for what the bundle has an encoder for")
    span = [token for token in inside if token is not None]
    before, after = vocabulary.encode("Look here:")[:4], vocabulary.encode("What is it?")[:5]
    return (vocabulary.tokens.bos, *before, *span, *after)
