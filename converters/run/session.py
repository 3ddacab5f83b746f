"""A conversation with a bundle, from opening the folder to the streamed answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from converters.errors import RecipeError
from converters.mil.types import Array
from converters.run.encoders import Encoders
from converters.run.engine import Choice
from converters.run.folder import AnyEngine, Chosen, open_engine
from converters.run.prefill import image_spans
from converters.run.prompts import Prompt, Turn, make_prompt, same_start
from converters.run.runner import MilModels, OpenModel, Units
from converters.run.sidecars import Position, read_json
from converters.run.stateful import StatefulEngine
from converters.run.vocabulary import Vocabulary

Finish = Literal["stop", "length", "context"]
"""Why an answer ended: a stop token, `max_tokens`, or no position was left."""

Failure = RecipeError
"""What everything here raises where a bundle or a file is at fault."""

ENOUGH = 1024
"""Tokens of an answer if nobody says how many."""

BACKENDS = ("mil", "coreml")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are picked.

    Attributes:
        temperature: 0 takes the most likely one; else logits are divided by it.
        top_k: how many of the most likely ones may be picked; 0 for all.
        seed: of the random numbers.
    """

    temperature: float = 0.0
    top_k: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a turn gave.

    Attributes:
        text: without special tokens.
        tokens: ids, with the stop token if there was one.
        finish: why it ended.
        prompt_tokens: positions of the whole conversation before the answer.
        kept_tokens: those of them that the caches held already.
        prompt_seconds: until the first token was known.
        answer_seconds: from then on.
    """

    text: str
    tokens: tuple[int, ...]
    finish: Finish
    prompt_tokens: int
    kept_tokens: int
    prompt_seconds: float
    answer_seconds: float


class Session:
    """A bundle that is open.

    Attributes:
        engine: its chunks.
        encoders: its encoders.
        vocabulary: its tokenizer and template.
        can_sample: whether the last chunk gives logits, not just the most likely token.
    """

    def __init__(self, chosen: Chosen, open_model: OpenModel, *, like_app: bool = False) -> None:
        """Opens chunks and sidecars.

        Args:
            chosen: which.
            open_model: the backend.
            like_app: compute placeholders as the app's engines do, where transformers does otherwise: no per-layer
                embedding at positions of images and sound, and images that see themselves in prefill chunks.

        Raises:
            RecipeError: a file is missing, damaged, or does not fit the others.
        """
        self.engine: AnyEngine = open_engine(chosen, open_model, zero_placeholders=like_app)
        self.encoders = Encoders(chosen, open_model)
        eos = read_json(chosen.folder / "model_config.json").get("eos_token_id")
        tokens = self.engine.sidecars.tokens
        self.vocabulary = Vocabulary(chosen.folder, tokens, eos if type(eos) is int else None)
        *_, last = chosen.decoder.values()
        self.can_sample = "logits" in open_model(last, None, "cpu-ane").outputs
        self._like_app = like_app
        self._held: list[int] = []

    def prompt(self, turns: Sequence[Turn]) -> Prompt:
        """The conversation as the engine takes it. See `make_prompt`."""
        return make_prompt(turns, self.vocabulary)

    def answer(
        self,
        turns: Sequence[Turn],
        *,
        most: int = ENOUGH,
        sampling: Sampling | None = None,
        on_text: Callable[[str], None] = lambda _: None,
        on_prompt: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Answer:
        """Answers the last turn. What the caches hold of the conversation is not computed again.

        Args:
            turns: the whole conversation.
            most: tokens at most.
            sampling: how tokens are picked; the most likely ones if None.
            on_text: gets the answer piece by piece.
            on_prompt: told how many positions of the prompt are done, and of how many.

        Raises:
            RecipeError: the prompt does not fit, or sampling needs logits that the bundle does not give.
        """
        if sampling and sampling.temperature > 0 and not self.can_sample:
            raise RecipeError("the last chunk gives the most likely token only, no logits to pick from")
        prompt = self.prompt(turns)
        context = self.engine.sidecars.settings.context_length
        if len(prompt.ids) > context:
            raise RecipeError(f"the conversation has {len(prompt.ids)} positions, the bundle takes {context}")
        kept = self._rewind(prompt.ids)
        started = time.perf_counter()
        choice = self._take_in(prompt, kept, on_prompt)
        picker = Picker(sampling or Sampling())
        stream, tokens = self.vocabulary.stream(), list[int]()
        begun, streamed = time.perf_counter(), ""
        finish: Finish | None = None
        while finish is None:
            token = picker.pick(choice)
            tokens.append(token)
            if token in self.vocabulary.stops:
                finish = "stop"
            else:
                piece = stream(token)
                streamed += piece
                on_text(piece)
                finish = "length" if len(tokens) >= most else "context" if self.engine.position >= context else None
            if finish is None:
                choice = self._step(token)
        ended = time.perf_counter()
        words = self.vocabulary.decode(tokens)
        if words.startswith(streamed) and len(words) > len(streamed):  # bytes of a letter that was not finished
            on_text(words[len(streamed) :])
        return Answer(words, tuple(tokens), finish, len(prompt.ids), kept, begun - started, ended - begun)

    def _rewind(self, ids: Sequence[int]) -> int:
        """Keeps the caches if they hold a beginning of the conversation, else empties them; how many are kept.

        At least one position is left to compute: what follows the last one is not in the caches.
        """
        broken = self.engine.position != len(self._held)  # an earlier turn ended with an error
        if broken or same_start(self._held, ids) < len(self._held) or len(self._held) >= len(ids):
            self.engine.reset()
            self._held = []
        return len(self._held)

    def _take_in(self, prompt: Prompt, kept: int, on_prompt: Callable[[int, int], None]) -> Choice:
        self._held = []
        new = prompt.positions[kept:]
        tokens = self.engine.sidecars.tokens
        images = image_spans(prompt.ids, [token for token in (tokens.image, tokens.video) if token is not None])

        def progress(done: int) -> None:
            on_prompt(done, len(new))

        engine = self.engine
        if isinstance(engine, StatefulEngine):
            choice: Choice = engine.prompt(new, on_position=progress)
        elif engine.prefill is not None and engine.position == 0:
            choice = engine.prompt(new, images if self._like_app else (), on_position=progress)
        else:
            choice = _one_by_one(engine.step, new, progress)
        self._held = list(prompt.ids)
        return choice

    def _step(self, token: int) -> Choice:
        self._held.append(token)
        return self.engine.step([token]) if isinstance(self.engine, StatefulEngine) else self.engine.step(token)


def _one_by_one(
    step: Callable[[Position], Choice], positions: Sequence[Position], progress: Callable[[int], None]
) -> Choice:
    choice: Choice | None = None
    for done, position in enumerate(positions, start=1):
        choice = step(position)
        progress(done)
    assert choice is not None
    return choice


class Picker:
    """Picks tokens, the same ones for the same seed."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed)

    def pick(self, choice: Choice) -> int:
        """The next token."""
        if self._sampling.temperature <= 0 or choice.logits is None:
            return choice.token
        return int(self._random.choice(len(choice.logits), p=probabilities(choice.logits, self._sampling)))


def probabilities(logits: Array, sampling: Sampling) -> Array:
    """`(vocabulary,)` float64 after temperature and top-k."""
    scaled = logits.astype(np.float64) / sampling.temperature
    if 0 < sampling.top_k < len(scaled):
        least = np.partition(scaled, -sampling.top_k)[-sampling.top_k]
        scaled = np.where(scaled >= least, scaled, -np.inf)
    weights = np.exp(scaled - scaled.max())
    shares: Array = weights / weights.sum()
    return shares


def open_session(
    chosen: Chosen, backend: str = "mil", *, units: Units | None = None, like_app: bool = False
) -> Session:
    """Opens a bundle.

    Args:
        chosen: which models of it.
        backend: one of `BACKENDS`.
        units: of an Apple machine, instead of those the app uses; see `Units`.
        like_app: see `Session`.

    Raises:
        RecipeError: see `Session`, or Core ML is not here.
    """
    if backend == "coreml":
        from converters.run.coreml import CoreMLModels

        return Session(chosen, CoreMLModels(units), like_app=like_app)
    return Session(chosen, MilModels(), like_app=like_app)


__all__ = ["BACKENDS", "ENOUGH", "Answer", "Failure", "Sampling", "Session", "Turn", "open_session"]
