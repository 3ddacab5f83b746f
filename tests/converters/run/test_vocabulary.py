"""The bundle's tokenizer and template against transformers on the same files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from converters.errors import RecipeError
from converters.run.vocabulary import Vocabulary

pytestmark = pytest.mark.convert

TEXTS = (
    "The keeper walks the paths.",
    "naïve — 名前, \N{GRINNING FACE} and \ttabs\nand lines",
    "<|turn>user\nWho?<turn|>\n",
    "",
)

CONVERSATION: Sequence[Mapping[str, Any]] = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " What is it? "}]},
    {"role": "assistant", "content": "A bird."},
    {"role": "user", "content": "And behind it?"},
)

TEMPLATE = """\
{{ bos_token }}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- raise_exception('no tools') }}
    {%- endif %}
    {%- if loop.index > 3 %}
        {%- break %}
    {%- endif %}
<|turn>{{ message.role }}
{{ message.content | tojson }}{{ eos_token }}
{% endfor %}
{%- if add_generation_prompt %}
<|turn>model
{% endif %}"""


@pytest.fixture(scope="module")
def theirs(words: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(words / "hf_model")


def with_template(words: Path, folder: Path, template: str | None) -> Path:
    """A copy with another chat template, or none."""
    shutil.copytree(words, folder)
    settings = folder / "hf_model" / "tokenizer_config.json"
    kept = json.loads(settings.read_text())
    kept.pop("chat_template", None)
    settings.write_text(json.dumps(kept))
    path = folder / "hf_model" / "chat_template.jinja"
    path.unlink()
    if template is not None:
        path.write_text(template)
    return folder


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_transformers(vocabulary: Vocabulary, theirs: Any, text: str) -> None:
    ids = vocabulary.encode(text)
    assert ids == theirs(text, add_special_tokens=False)["input_ids"]
    assert vocabulary.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("text", TEXTS[:2])
def test_a_stream_gives_the_same_text(vocabulary: Vocabulary, text: str) -> None:
    stream = vocabulary.stream()
    pieces = [stream(token) for token in vocabulary.encode(text)]
    assert "".join(pieces) == text
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)


def test_the_template_is_applied_as_in_transformers(vocabulary: Vocabulary, theirs: Any) -> None:
    assert vocabulary.has_template
    expected = theirs.apply_chat_template(list(CONVERSATION), tokenize=False, add_generation_prompt=True)
    assert vocabulary.prompt(CONVERSATION) == expected
    ids = theirs.apply_chat_template(list(CONVERSATION), add_generation_prompt=True)["input_ids"]
    assert vocabulary.encode(expected) == ids


def test_what_templates_may_use(vocabulary: Vocabulary, words: Path, tmp_path: Path) -> None:
    """Loop controls, JSON, exceptions, trimmed blocks."""
    from transformers import AutoTokenizer

    folder = with_template(words, tmp_path / "other", TEMPLATE)
    ours = Vocabulary(folder, vocabulary.tokens, 1)
    theirs = AutoTokenizer.from_pretrained(folder / "hf_model")
    messages = [{"role": role, "content": 'é "x"'} for role in ("system", "user", "assistant", "user")]
    expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert ours.prompt(messages) == expected
    with pytest.raises(RecipeError, match="the chat template refuses these messages: no tools"):
        ours.prompt([{"role": "tool", "content": ""}])
    with pytest.raises(RecipeError, match="the chat template is not valid"):
        Vocabulary(with_template(words, tmp_path / "broken", "{% for %}"), vocabulary.tokens, 1)


def test_without_a_template_turns_are_the_app_s(vocabulary: Vocabulary, words: Path, tmp_path: Path) -> None:
    """As `buildGemmaPrompt` of the app writes them, which no published bundle's folder would tell."""
    bare = Vocabulary(with_template(words, tmp_path / "bare", None), vocabulary.tokens, 1)
    assert not bare.has_template
    assert bare.prompt(CONVERSATION[1:]) == (
        "<bos><|turn>user\n<|image|>\n What is it? <turn|>\n<|turn>model\nA bird.<turn|>\n"
        "<|turn>user\nAnd behind it?<turn|>\n<|turn>model\n"
    )


def test_stops(vocabulary: Vocabulary, words: Path, tmp_path: Path) -> None:
    assert vocabulary.stops == {1, 50, 106}, "eos, a tool's answer, the end of a turn"
    folder = with_template(words, tmp_path / "other", None)
    (folder / "hf_model" / "generation_config.json").write_text('{"eos_token_id": [1, 50]}')
    assert Vocabulary(folder, vocabulary.tokens, 7).stops == {1, 7, 50, 106}
    (folder / "hf_model" / "generation_config.json").unlink()
    assert Vocabulary(folder, vocabulary.tokens, None).stops == {1, 106}


def test_damaged_files(vocabulary: Vocabulary, words: Path, tmp_path: Path) -> None:
    folder = with_template(words, tmp_path / "other", None)
    (folder / "hf_model" / "tokenizer_config.json").write_text("[]")
    with pytest.raises(RecipeError, match=r"tokenizer_config.json does not hold a JSON object"):
        Vocabulary(folder, vocabulary.tokens, 1)
    (folder / "hf_model" / "tokenizer.json").write_text("{}")
    with pytest.raises(RecipeError, match="is not a tokenizer"):
        Vocabulary(folder, vocabulary.tokens, 1)
    (folder / "hf_model" / "tokenizer.json").unlink()
    with pytest.raises(RecipeError, match="no such file"):
        Vocabulary(folder, vocabulary.tokens, 1)
    with pytest.raises(RecipeError, match=r"no token 999999, which hf_model/config.json names"):
        vocabulary.name_of(999_999)
