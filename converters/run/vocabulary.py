"""A bundle's tokenizer and chat template, without transformers: the folder `hf_model/` says everything."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from converters.errors import RecipeError
from converters.gemma4.config import TokenIds

TURN_END = "<turn|>"
"""Ends a turn of Gemma 4."""

APP_STOPS = (1, 106)
"""At these ids the app stops whatever a bundle says; they are `<eos>` and `<turn|>` in Gemma's vocabulary."""

Message = Mapping[str, Any]
"""`role` and `content`, as chat templates take them: a text, or parts with a `type` each."""


class Vocabulary:
    """Text to ids and back.

    Attributes:
        tokens: ids with a meaning.
        stops: ids that end an answer.
        has_template: whether the bundle has a chat template; if not, turns are written as the app writes them.
    """

    def __init__(self, folder: Path, tokens: TokenIds, eos: int | None) -> None:
        """Reads `hf_model/`.

        Args:
            folder: a bundle's folder with the sidecars.
            tokens: from its `hf_model/config.json`.
            eos: `eos_token_id` of its `model_config.json`.

        Raises:
            RecipeError: a file is missing or damaged.
        """
        place = folder / "hf_model"
        self._tokenizer = _load(place / "tokenizer.json")
        self._settings = _json(place / "tokenizer_config.json")
        self.tokens = tokens
        self.stops = self._find_stops(place, eos)
        template = _find_template(place, self._settings)
        self.has_template = template is not None
        self._render = _compile(template, self._settings) if template is not None else self._as_the_app

    def id_of(self, token: str) -> int | None:
        """The id of a token, None if there is none."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def name_of(self, token: int | None) -> str:
        """The text of a special token.

        Raises:
            RecipeError: there is no such token.
        """
        found = None if token is None else self._tokenizer.id_to_token(token)
        if found is None:
            raise RecipeError(f"hf_model/tokenizer.json has no token {token}, which hf_model/config.json names")
        return str(found)

    def prompt(self, messages: Sequence[Message]) -> str:
        """A conversation as text, up to where the model's answer begins.

        Raises:
            RecipeError: the template does not take these messages.
        """
        return self._render(messages)

    def encode(self, text: str) -> list[int]:
        """Ids of a text. Special tokens are recognised in it; none are added."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def stream(self) -> Callable[[int], str]:
        """What takes ids one by one and gives the text that is complete by then; letters may take several ids."""
        stream = DecodeStream(skip_special_tokens=True)
        return lambda token: stream.step(self._tokenizer, token) or ""

    def _find_stops(self, place: Path, eos: int | None) -> frozenset[int]:
        stated = _json(place / "generation_config.json").get("eos_token_id") if _there(place) else None
        listed = stated if isinstance(stated, list) else [stated]
        named = (TURN_END, self._settings.get("eos_token"))
        found = [self.id_of(name) for name in named if isinstance(name, str)]
        ids = (*listed, *found, *self.tokens.eos, eos, *APP_STOPS)
        return frozenset(token for token in ids if type(token) is int)

    def _as_the_app(self, messages: Sequence[Message]) -> str:
        """The app writes turns itself and never looks at a template. It leaves system messages out; here they stay."""
        lines = [self.name_of(self.tokens.bos)]
        for message in messages:
            role = {"assistant": "model"}.get(message["role"], message["role"])
            content = message["content"]
            if not isinstance(content, str):
                content = "\n".join(part.get("text", f"<|{part['type']}|>") for part in content)
            lines.append(f"<|turn>{role}\n{content}{TURN_END}\n")
        return "".join([*lines, "<|turn>model\n"])


def _there(place: Path) -> bool:
    return (place / "generation_config.json").is_file()


def _load(path: Path) -> Tokenizer:
    if not path.is_file():
        raise RecipeError(f"{path}: no such file")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more special
        raise RecipeError(f"{path} is not a tokenizer: {error}") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise RecipeError(f"{path} does not hold a JSON object")
    return found


def _find_template(place: Path, settings: Mapping[str, Any]) -> str | None:
    """The file first, as in transformers; None if the bundle has none, like all that were published by hand."""
    path = place / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path} cannot be read: {error}") from error
    found = settings.get("chat_template")
    return found if isinstance(found, str) and found else None


def _compile(template: str, settings: Mapping[str, Any]) -> Callable[[Sequence[Message]], str]:
    """The environment is that of `transformers.utils.chat_template_utils`: templates are written for it."""
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    special = {key: value for key, value in settings.items() if key.endswith("_token") and isinstance(value, str)}
    try:
        compiled = environment.from_string(template)
    except TemplateError as error:
        raise RecipeError(f"the chat template is not valid: {error}") from error

    def render(messages: Sequence[Message]) -> str:
        try:
            return str(compiled.render(messages=list(messages), add_generation_prompt=True, **special))
        except TemplateError as error:
            raise RecipeError(f"the chat template refuses these messages: {error}") from error

    return render
