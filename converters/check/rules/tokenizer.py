"""Tokenizer, chat template and stop tokens agree with each other and with the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from converters.check.facts import Bundle
from converters.check.rule import Hit, Rule

TOKENIZER = "hf_model/tokenizer.json"
SETTINGS = "hf_model/tokenizer_config.json"
GENERATION = "hf_model/generation_config.json"
TEMPLATE = "hf_model/chat_template.jinja"
CHECKPOINT_CONFIG = "hf_model/config.json"

ENDS_OF_TURN = ("<turn|>", "<end_of_turn>")
"""What ends a turn in Gemma 4, and in older Gemmas."""


def added_tokens(bundle: Bundle) -> Mapping[str, int]:
    """Ids of the tokenizer's added tokens, which special ones always are; empty if it has none."""
    document = bundle.documents.get(TOKENIZER)
    listed = document.get("added_tokens") if isinstance(document, dict) else None
    return {
        item["content"]: item["id"]
        for item in (listed if isinstance(listed, list) else [])
        if isinstance(item, dict) and isinstance(item.get("content"), str) and type(item.get("id")) is int
    }


def _settings(bundle: Bundle) -> Mapping[str, Any] | None:
    found = bundle.documents.get(SETTINGS)
    return found if isinstance(found, dict) else None


def _content(value: Any) -> str | None:
    """A token's text; some files write an object."""
    found = value.get("content") if isinstance(value, dict) else value
    return found if isinstance(found, str) else None


def _template(bundle: Bundle) -> Iterator[Hit]:
    settings = _settings(bundle)
    if settings is None:
        return
    inside = settings.get("chat_template")
    if not inside and not (bundle.template or "").strip():
        yield Hit(
            bundle.path(SETTINGS),
            "there is no chat template, neither here nor in chat_template.jinja",
            "the app falls back to one that is written into it",
        )
    elif isinstance(inside, str) and bundle.template is not None and inside.strip() != bundle.template.strip():
        yield Hit(
            bundle.path(TEMPLATE),
            "is another chat template than the one in tokenizer_config.json",
            "readers look in one or the other",
        )


def end_of_turn(bundle: Bundle) -> tuple[str, int] | None:
    """The token that ends a turn, and its id."""
    tokens = added_tokens(bundle)
    return next(((name, tokens[name]) for name in ENDS_OF_TURN if name in tokens), None)


def _stop_token(bundle: Bundle) -> Iterator[Hit]:
    settings, end = _settings(bundle), end_of_turn(bundle)
    if settings is None or end is None:
        return
    stated = _content(settings.get("eos_token"))
    if stated != end[0]:
        yield Hit(
            bundle.path(SETTINGS),
            f"says eos_token {stated}, a turn ends with {end[0]}",
            f"{end[0]} is token {end[1]} of tokenizer.json",
        )


def _stop_ids(bundle: Bundle) -> Iterator[Hit]:
    document, end = bundle.documents.get(GENERATION), end_of_turn(bundle)
    if not isinstance(document, dict) or end is None:
        return
    stated = document.get("eos_token_id")
    ids = stated if isinstance(stated, list) else [] if stated is None else [stated]
    if end[1] not in ids:
        yield Hit(bundle.path(GENERATION), f"eos_token_id is {stated}, without {end[1]} ({end[0]}), which ends a turn")


def _ids(bundle: Bundle) -> Iterator[Hit]:
    """Ids in the configuration against the tokenizer."""
    tokens, config, settings = added_tokens(bundle), bundle.config, _settings(bundle)
    if not tokens or config is None:
        return
    known, vocab = set(tokens.values()), config.text.vocab_size
    beyond = sorted(number for number in known if not 0 <= number < vocab)
    if beyond:
        name = next(name for name, number in tokens.items() if number == beyond[0])
        yield Hit(bundle.path(TOKENIZER), f"token {name} has id {beyond[0]}, the model has {vocab} tokens")
        return
    for item in fields(config.tokens):
        value = getattr(config.tokens, item.name)
        for number in value if isinstance(value, tuple) else () if value is None else (value,):
            if number not in known:
                yield Hit(
                    bundle.path(CHECKPOINT_CONFIG),
                    f"{item.name}_token_id is {number}, which is no special token of tokenizer.json",
                )
                return
    bos = _content(settings.get("bos_token")) if settings is not None else None
    if bos is not None and tokens.get(bos) != config.tokens.bos:
        yield Hit(
            bundle.path(SETTINGS),
            f"bos_token {bos} is token {tokens.get(bos)}, config.json says {config.tokens.bos}",
        )


_BUILD = "build hf_model again: recipe gemma4.tokenizer puts it right"

RULES: tuple[Rule, ...] = (
    Rule(
        id="tokenizer.chat-template",
        severity="warning",
        title="There is a chat template, and only one",
        why="Without the model's own template a conversation is framed by whatever the reader has built in.",
        remedy=_BUILD,
        check=_template,
        evidence="the file lists of all public Gemma 4 bundles lack it; it was added to four repositories later",
    ),
    Rule(
        id="tokenizer.stop-token",
        severity="warning",
        title="eos_token ends a turn",
        why="Readers that stop at eos_token go on after the answer, and the model talks to itself.",
        remedy=_BUILD,
        check=_stop_token,
        evidence="the public bundles have <eos>; the app stops at token 106 anyway, other readers do not",
    ),
    Rule(
        id="tokenizer.stop-ids",
        severity="warning",
        title="generation_config.json stops where a turn ends",
        why="Readers that stop at these ids go on after the answer.",
        remedy=_BUILD,
        check=_stop_ids,
    ),
    Rule(
        id="tokenizer.ids",
        severity="error",
        title="Special tokens have the ids that the model was trained with",
        why="A tokenizer of another model gives other ids, and features of images and sound go to the wrong places.",
        remedy="take tokenizer.json and config.json from one checkpoint",
        check=_ids,
    ),
)
