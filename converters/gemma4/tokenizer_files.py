"""`hf_model/`: the files that swift-transformers needs to tokenise and to apply the chat template.

Mostly copies. Three things are put right on the way, since getting them wrong makes a bundle that loads and then
talks nonsense or never stops: the chat template is always there, both as a file and inside
`tokenizer_config.json` (readers look in one or the other); `eos_token` is the end-of-turn marker; and
`generation_config.json` stops at it. The set of files is always the same; `special_tokens_map.json` is left out
because everything in it is in `tokenizer_config.json`, and a copy could only contradict it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from converters.checkpoint import Checkpoint
from converters.errors import RecipeError
from converters.gemma4.config import TokenIds, parse_config
from converters.gemma4.fields import Fields

REQUIRED = ("config.json", "tokenizer.json", "tokenizer_config.json")
OPTIONAL = ("generation_config.json", "chat_template.jinja", "chat_template.json")


def source_files(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The checkpoint's files that `tokenizer_files` reads.

    Raises:
        RecipeError: a required one is missing, or there is no chat template anywhere.
    """
    for relative in REQUIRED:
        if not checkpoint.has_file(relative):
            raise RecipeError(f"{checkpoint.directory} has no {relative}, which the app needs")
    find_chat_template(checkpoint)
    return REQUIRED + tuple(relative for relative in OPTIONAL if checkpoint.has_file(relative))


def find_chat_template(checkpoint: Checkpoint) -> str:
    """The checkpoint's chat template, from its own file or from `tokenizer_config.json`.

    Raises:
        RecipeError: there is none.
    """
    if checkpoint.has_file("chat_template.jinja"):
        try:
            return checkpoint.read_bytes("chat_template.jinja").decode("utf-8")
        except UnicodeDecodeError as error:
            raise RecipeError(f"{checkpoint.directory}/chat_template.jinja is not UTF-8") from error
    for relative in ("chat_template.json", "tokenizer_config.json"):
        if not checkpoint.has_file(relative):
            continue
        found = checkpoint.read_json(relative).get("chat_template")
        if isinstance(found, list):  # several named ones
            named = {item.get("name"): item.get("template") for item in found if isinstance(item, dict)}
            found = named.get("default")
        if isinstance(found, str) and found:
            return found
    raise RecipeError(
        f"{checkpoint.directory} has no chat template: neither chat_template.jinja nor chat_template in"
        " tokenizer_config.json; take the file from the instruction-tuned model"
    )


def tokenizer_files(checkpoint: Checkpoint, end_of_turn: str) -> dict[str, bytes]:
    """File names and contents of `hf_model/`.

    Args:
        checkpoint: the source.
        end_of_turn: the token that ends a turn, `<turn|>` in Gemma 4.

    Raises:
        RecipeError: a file is missing or malformed, the tokenizer does not know `end_of_turn`, or ids disagree.
    """
    source_files(checkpoint)
    text = parse_config(checkpoint.config).text
    tokenizer = checkpoint.read_bytes("tokenizer.json")
    ids = _token_ids(checkpoint, text.vocab_size)
    if end_of_turn not in ids:
        raise RecipeError(f"{checkpoint.directory}/tokenizer.json has no token {end_of_turn}, which ends a turn")
    template = find_chat_template(checkpoint)
    files = {
        "config.json": checkpoint.read_bytes("config.json"),
        "tokenizer.json": tokenizer,
        "chat_template.jinja": template.encode("utf-8"),
    }
    settings = checkpoint.read_json("tokenizer_config.json")
    wanted = {"chat_template": template, "eos_token": end_of_turn}
    files["tokenizer_config.json"] = _edited(checkpoint, "tokenizer_config.json", settings, wanted)
    stops = (text.tokens, ids[end_of_turn], text.vocab_size)
    files["generation_config.json"] = _generation_config(checkpoint, *stops)
    return files


def _generation_config(checkpoint: Checkpoint, tokens: TokenIds, end_of_turn: int, vocab_size: int) -> bytes:
    """The checkpoint's own file when it stops at the end of a turn, else one that does."""
    name = "generation_config.json"
    if not checkpoint.has_file(name):
        eos = list(dict.fromkeys((*tokens.eos, end_of_turn)))
        made = {"bos_token_id": tokens.bos, "eos_token_id": eos, "pad_token_id": tokens.pad}
        return _to_json({key: value for key, value in made.items() if value is not None})
    settings = checkpoint.read_json(name)
    stated = settings.get("eos_token_id")
    eos = [] if stated is None else list(Fields(settings, name).indices("eos_token_id", vocab_size))
    complete = list(dict.fromkeys((*(eos or tokens.eos), end_of_turn)))
    return _edited(checkpoint, name, settings, {} if complete == eos else {"eos_token_id": complete})


def _edited(checkpoint: Checkpoint, name: str, settings: Mapping[str, Any], wanted: Mapping[str, Any]) -> bytes:
    """The file with these keys set; its own bytes when they already are."""
    if all(settings.get(key) == value for key, value in wanted.items()):
        return checkpoint.read_bytes(name)
    return _to_json({**settings, **wanted})


def _to_json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def _token_ids(checkpoint: Checkpoint, vocab_size: int) -> dict[str, int]:
    """Ids of the tokenizer's added tokens, which special tokens always are.

    Raises:
        RecipeError: malformed, or an id lies outside the model's vocabulary.
    """
    added = checkpoint.read_json("tokenizer.json").get("added_tokens")
    where = f"{checkpoint.directory}/tokenizer.json"
    if not isinstance(added, list):
        raise RecipeError(f"{where} has no added_tokens; is it the tokenizers library's format?")
    ids: dict[str, int] = {}
    for item in added:
        content, number = (item.get("content"), item.get("id")) if isinstance(item, dict) else (None, None)
        if not isinstance(content, str) or type(number) is not int:
            raise RecipeError(f"{where}: added_tokens has a malformed entry")
        if not 0 <= number < vocab_size:
            raise RecipeError(f"{where}: token {content!r} has id {number}, the model has {vocab_size} tokens")
        ids[content] = number
    return ids
