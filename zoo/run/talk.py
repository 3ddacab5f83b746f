"""A conversation with a bundle: opens what the app would load, encodes files, answers turn by turn.

What it has to say while it works goes to the callables that it is given; it prints nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from zoo.errors import UsageError
from zoo.events import Progress
from zoo.run.decision import Decision, chosen
from zoo.tools import load_tool


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer and what it took.

    Attributes:
        text: the answer.
        tokens: its ids, with the stop token.
        finish: a key of `FINISHES`.
        prompt_tokens: positions before the answer.
        kept_tokens: those that an earlier turn had left in the caches.
        load_seconds: opening the folder.
        prompt_seconds: until the first token.
        answer_seconds: from then on.
        notes: what else a person should know.
    """

    text: str
    tokens: tuple[int, ...]
    finish: str
    prompt_tokens: int
    kept_tokens: int
    load_seconds: float
    prompt_seconds: float
    answer_seconds: float
    notes: tuple[str, ...] = ()


class Display(Protocol):
    """Makes a display of progress, for as long as its context lasts."""

    def __call__(self, title: str, *, total: int | None = None) -> AbstractContextManager[Progress]:
        """A display of `total` steps; None for as many as are announced."""


class Talk:
    """A conversation; the bundle is loaded when it is made."""

    def __init__(
        self,
        decision: Decision,
        backend: str,
        units: str | None,
        *,
        like_app: bool,
        on_note: Callable[[str], None],
        display: Display,
    ) -> None:
        """Load the bundle.

        Args:
            decision: what `require_driven` accepted.
            backend: `mil` or `coreml`.
            units: of an Apple machine, for `coreml`; None for the app's choice.
            like_app: treat image and sound positions as the app does, not as transformers does.
            on_note: told what is worth knowing of an answer.
            display: shows progress.

        Raises:
            RecipeError: of the converters: the bundle cannot be run.
        """
        begun = time.perf_counter()
        self._tool = load_tool("run")
        picked = chosen(decision, load_tool("folder").Chosen)
        self._session = self._tool.open_session(picked, backend, units=units, like_app=like_app)
        self._on_note, self._display = on_note, display
        self._sampling = self._tool.Sampling()
        self._notes: list[str] = []
        self._load_seconds = time.perf_counter() - begun
        if not self._session.vocabulary.has_template:
            self._note("there is no chat template in the bundle; turns are written as the app writes them")

    def _note(self, text: str) -> None:
        self._notes.append(text)
        self._on_note(text)

    def sampling(self, temperature: float, top_k: int, seed: int) -> None:
        """How tokens are picked.

        Raises:
            UsageError: the bundle gives the most likely token alone.
        """
        if temperature and not self._session.can_sample:
            raise UsageError(
                "--temperature needs logits, and this bundle's last chunk gives the most likely token alone",
                hint='build the last chunk with head = "logits", or leave --temperature out',
            )
        self._sampling = self._tool.Sampling(temperature, top_k, seed)

    def media(self, images: list[Path], videos: list[Path], sounds: list[Path], frames: int) -> dict[str, Any]:
        """Features of all files, for the first turn; a sound that is heard in part is noted."""
        encoders = self._session.encoders
        with self._display("Encoding", total=len(images) + len(videos) + len(sounds)) as progress:

            def each(paths: list[Path], encode: Callable[[Path], Any]) -> tuple[Any, ...]:
                found = []
                for path in paths:
                    progress.start(path.name, 1)
                    found.append(encode(path))
                    progress.advance(path.name, 1)
                    progress.finish(path.name)
                return tuple(found)

            media = {"images": each(images, encoders.see)}
            media["videos"] = each(videos, lambda path: encoders.watch(path, frames))
            heard = each(sounds, encoders.hear)
        media["sounds"] = tuple(clip.span for clip in heard)
        for path, clip in zip(sounds, heard, strict=True):
            if clip.heard < clip.seconds:
                self._note(f"{path.name}: the encoder hears the first {clip.heard:.1f} s of {clip.seconds:.1f} s")
        return media

    def go(
        self,
        lines: Iterable[str],
        system: str | None,
        media: dict[str, Any],
        most: int,
        *,
        on_text: Callable[[str], None],
        on_reply: Callable[[Reply], None],
    ) -> list[Reply]:
        """Answers each line, with all that was said before.

        Args:
            lines: what the person says, turn by turn.
            system: the system message.
            media: what `media` gave, for the first turn.
            most: tokens of an answer.
            on_text: told each piece of an answer as it comes.
            on_reply: told each answer when it is complete.
        """
        turn = self._tool.Turn
        turns = [turn("system", system)] if system else []
        replies: list[Reply] = []
        for line in lines:
            turns.append(turn("user", line, **(media if not replies else {})))
            reply = self._answer(turns, most, on_text)
            turns.append(turn("assistant", reply.text))
            replies.append(reply)
            on_reply(reply)
        return replies

    def _answer(self, turns: list[Any], most: int, on_text: Callable[[str], None]) -> Reply:
        with ExitStack() as stack:
            progress = stack.enter_context(self._display("Reading the prompt"))
            known = 0

            def on_prompt(done: int, total: int) -> None:
                nonlocal known
                if not known:
                    progress.start("prompt", total)
                progress.advance("prompt", done - known)
                known = done
                if done == total:  # before the answer is written
                    progress.finish("prompt")
                    stack.close()

            found = self._session.answer(
                turns, most=most, sampling=self._sampling, on_text=on_text, on_prompt=on_prompt
            )
        return Reply(
            found.text,
            found.tokens,
            found.finish,
            found.prompt_tokens,
            found.kept_tokens,
            self._load_seconds,
            found.prompt_seconds,
            found.answer_seconds,
            tuple(self._notes),
        )
