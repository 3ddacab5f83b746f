"""The folder hf_model: chat template, stop tokens, the right tokenizer."""

import json
from pathlib import Path

import pytest

from converters.errors import RecipeError
from tests.converters.gemma4.sidecar_cases import altered, edit, files, needs, run

__all__ = ["altered"]

pytestmark = pytest.mark.convert


def test_tokenizer_folder(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    run("gemma4.tokenizer", tiny_checkpoint, tmp_path)
    folder = tmp_path / "hf_model"
    assert set(files(folder)) == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (folder / name).read_bytes() == (tiny_checkpoint / name).read_bytes()
    ours, theirs = (AutoTokenizer.from_pretrained(path) for path in (folder, tiny_checkpoint))
    assert ours.eos_token_id == 106
    assert 106 in GenerationConfig.from_pretrained(folder).eos_token_id
    turns = [{"role": "user", "content": "Who are you?"}]
    for tokenize in (True, False):
        assert ours.apply_chat_template(turns, tokenize=tokenize) == theirs.apply_chat_template(
            turns, tokenize=tokenize
        )
    (folder / "chat_template.jinja").unlink()  # a reader that only looks into tokenizer_config.json
    assert AutoTokenizer.from_pretrained(folder).apply_chat_template(turns, tokenize=False).startswith("<bos><|turn>")


@pytest.mark.parametrize("place", ["file", "json", "inside", "named"])
def test_chat_template_is_found_wherever_it_is(
    tiny_checkpoint: Path, altered: Path, tmp_path: Path, place: str
) -> None:
    template = (tiny_checkpoint / "chat_template.jinja").read_text()
    if place != "file":
        (altered / "chat_template.jinja").unlink()
    if place == "json":
        (altered / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    if place == "inside":
        edit(altered / "tokenizer_config.json", chat_template=template)
    if place == "named":
        named = [{"name": "tools", "template": "x"}, {"name": "default", "template": template}]
        edit(altered / "tokenizer_config.json", chat_template=named)
    run("gemma4.tokenizer", altered, tmp_path / "out")
    assert (tmp_path / "out/hf_model/chat_template.jinja").read_text() == template
    settings = json.loads((tmp_path / "out/hf_model/tokenizer_config.json").read_text())
    assert settings["chat_template"] == template


def test_no_chat_template_is_an_error_before_anything_runs(altered: Path) -> None:
    (altered / "chat_template.jinja").unlink()
    with pytest.raises(RecipeError, match="has no chat template"):
        needs("gemma4.tokenizer", altered)


def test_generation_config_always_stops_at_the_end_of_a_turn(altered: Path, tmp_path: Path) -> None:
    path = altered / "generation_config.json"
    edit(path, eos_token_id=1)
    run("gemma4.tokenizer", altered, tmp_path / "one")
    written = json.loads((tmp_path / "one/hf_model/generation_config.json").read_text())
    assert written["eos_token_id"] == [1, 106]
    assert written["top_k"] == 64
    path.unlink()
    run("gemma4.tokenizer", altered, tmp_path / "two")
    written = json.loads((tmp_path / "two/hf_model/generation_config.json").read_text())
    assert written == {"bos_token_id": 2, "eos_token_id": [1, 106], "pad_token_id": 0}


def test_tokenizer_of_another_model(altered: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="has no token <end_of_turn>"):
        run("gemma4.tokenizer", altered, tmp_path / "out", end_of_turn="<end_of_turn>")
    tokenizer = json.loads((altered / "tokenizer.json").read_text())
    tokenizer["added_tokens"][0]["id"] = 5000
    (altered / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(RecipeError, match="has id 5000, the model has 1024 tokens"):
        run("gemma4.tokenizer", altered, tmp_path / "other")
    (altered / "tokenizer.json").unlink()
    with pytest.raises(RecipeError, match=r"has no tokenizer\.json"):
        needs("gemma4.tokenizer", altered)
