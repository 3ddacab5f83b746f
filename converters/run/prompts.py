"""From a conversation to positions: the chat template's text, placeholders at full length, features in their place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from converters.errors import RecipeError
from converters.gemma4.config import TokenIds
from converters.mil.types import Array
from converters.run.engine import splice
from converters.run.sidecars import Position
from converters.run.videos import timestamp
from converters.run.vocabulary import Message, Vocabulary


@dataclass(frozen=True, slots=True)
class Span:
    """Features that stand for an image, a clip of sound, or the frames of a video.

    Attributes:
        parts: `(tokens, hidden)` fp16 each; one, or one for each frame.
        seconds: when each frame is shown; empty if it is not a video.
    """

    parts: tuple[Array, ...]
    seconds: tuple[float, ...] = ()

    def written(self, begin: str, placeholder: str, end: str) -> str:
        """As `Gemma4Processor` of transformers writes it: begin, a placeholder for each soft token, end."""
        spans = [f"{begin}{placeholder * len(part)}{end}" for part in self.parts]
        times = [f"{timestamp(moment)} " for moment in self.seconds] or [""]
        return " ".join(time + span for time, span in zip(times, spans, strict=True))


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says.

    Attributes:
        role: `system`, `user` or `assistant`.
        text: in words.
        images: in front of the words.
        videos: behind the images.
        sounds: behind the videos.
    """

    role: str
    text: str
    images: tuple[Span, ...] = field(default=(), kw_only=True)
    videos: tuple[Span, ...] = field(default=(), kw_only=True)
    sounds: tuple[Span, ...] = field(default=(), kw_only=True)

    def message(self) -> Message:
        """As a chat template takes it."""
        kinds = (("image", self.images), ("video", self.videos), ("audio", self.sounds))
        media = [{"type": kind} for kind, spans in kinds for _ in spans]
        if not media:
            return {"role": self.role, "content": self.text}
        return {"role": self.role, "content": [*media, {"type": "text", "text": self.text}]}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation as the engine takes it.

    Attributes:
        text: with placeholders at full length.
        ids: the same as tokens.
        positions: with features in their place.
    """

    text: str
    ids: tuple[int, ...]
    positions: tuple[Position, ...]


def make_prompt(turns: Sequence[Turn], vocabulary: Vocabulary) -> Prompt:
    """Writes a conversation up to the answer that is wanted.

    Raises:
        RecipeError: the template refuses the conversation, or placeholders and media do not match.
    """
    text = vocabulary.prompt([turn.message() for turn in turns])
    features: dict[int, Array] = {}
    for kind, token, (begin, end), spans in _media(turns, vocabulary.tokens):
        if token is None:
            if spans:
                raise RecipeError(f"hf_model/config.json names no {kind} token: this model does not take {kind}")
            continue
        name = vocabulary.name_of(token)
        first, *rest = text.split(name)
        if len(rest) != len(spans):
            raise RecipeError(f"the conversation has {name} {len(rest)} times, for {len(spans)} of {kind}")
        if spans:
            markers = vocabulary.name_of(begin), name, vocabulary.name_of(end)
            text = first + "".join(span.written(*markers) + tail for span, tail in zip(spans, rest, strict=True))
            features[token] = np.concatenate([part for span in spans for part in span.parts])
    ids = vocabulary.encode(text)
    return Prompt(text, tuple(ids), tuple(splice(ids, features)))


def _media(
    turns: Sequence[Turn], tokens: TokenIds
) -> Iterator[tuple[str, int | None, tuple[int | None, int | None], list[Span]]]:
    """Kind, placeholder, begin and end, and the spans of each kind."""
    yield "image", tokens.image, (tokens.boi, tokens.eoi), [span for turn in turns for span in turn.images]
    yield "audio", tokens.audio, (tokens.boa, tokens.eoa), [span for turn in turns for span in turn.sounds]
    yield "video", tokens.video, (tokens.boi, tokens.eoi), [span for turn in turns for span in turn.videos]


def same_start(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two sequences have in common at their beginning."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return min(len(one), len(other))
