"""Fine-tuned and merged checkpoints as tools save them: the same weights under other names give the same bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from converters.checkpoint import Checkpoint
from converters.errors import RecipeError
from converters.gemma4.family import known_unused
from converters.gemma4.recipes import RECIPES
from tests.converters.parity.conftest import build

pytestmark = pytest.mark.convert

Save = Callable[[Path, Path], None]

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
CHUNK: dict[str, str | int] = {"chunk": 4, "context_length": 32, "verify": 0}
STEPS: dict[str, dict[str, str | int]] = {
    "gemma4.decode-chunk": CHUNK,  # reads the embedding, the final norm and layers
    "gemma4.embeddings": {},
    "gemma4.per-layer-embeddings": {},
    "gemma4.per-layer-projection": {},
}
"""Together they read a tensor of every kind that the text model has."""


def save_base_model(source: Path, target: Path) -> None:
    """transformers' `Gemma4Model`, which has no LM head."""
    _loaded("Gemma4Model", source).save_pretrained(target)


def save_causal_model(source: Path, target: Path) -> None:
    """transformers' `Gemma4ForCausalLM`: the language model alone, with a configuration of its own."""
    from transformers import Gemma4ForCausalLM

    whole = _loaded("Gemma4ForConditionalGeneration", source)
    alone = Gemma4ForCausalLM(whole.config.get_text_config()).to(whole.dtype)
    alone.model.load_state_dict(whole.model.language_model.state_dict())
    alone.tie_weights()
    alone.save_pretrained(target)


def save_text_model(source: Path, target: Path) -> None:
    """transformers' `Gemma4TextModel`."""
    _loaded("Gemma4Model", source).language_model.save_pretrained(target)


def save_as_mlx(source: Path, target: Path) -> None:
    """As `mlx_lm.fuse` spells names, all in one file."""
    _rename(source, target, {"model.language_model.": "language_model.model.", "model.": ""})


def _loaded(name: str, source: Path) -> Any:
    import torch
    import transformers

    loaded = getattr(transformers, name).from_pretrained(source, dtype=torch.bfloat16)
    return loaded.eval()


def _rename(source: Path, target: Path, prefixes: dict[str, str]) -> None:
    from safetensors.torch import load_file, save_file

    def renamed(name: str) -> str:
        old = next(prefix for prefix in [*prefixes, ""] if name.startswith(prefix))
        return prefixes.get(old, "") + name.removeprefix(old)

    tensors = {
        renamed(name): value for shard in source.glob("*.safetensors") for name, value in load_file(shard).items()
    }
    save_file(tensors, target / "model.safetensors")
    shutil.copy(source / "config.json", target)


def outputs(checkpoint: Path, output: Path) -> dict[str, bytes]:
    for recipe, parameters in STEPS.items():
        build(checkpoint, output, recipe, "chunk4", **parameters)
    files = (path for path in output.rglob("*") if path.is_file())
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def expected(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return outputs(tiny_checkpoint, tmp_path_factory.mktemp("expected") / "out")


@pytest.mark.parametrize(
    ("save", "scheme"),
    [
        (save_base_model, "language_model.*"),
        (save_causal_model, "model.*"),
        (save_text_model, "layers.*"),
        (save_as_mlx, "language_model.model.*"),
    ],
)
def test_other_names_same_bytes(
    tiny_checkpoint: Path, tmp_path: Path, expected: dict[str, bytes], save: Save, scheme: str
) -> None:
    target = tmp_path / "saved"
    target.mkdir()
    save(tiny_checkpoint, target)
    for name in TOKENIZER:
        shutil.copy(tiny_checkpoint / name, target)
    saved = Checkpoint.open(target)
    assert saved.scheme == scheme
    assert outputs(target, tmp_path / "out") == expected
    assert _everything_used(saved)


def _everything_used(checkpoint: Checkpoint) -> bool:
    """Whether the text entries' recipes read all of it, or it is said to be left out."""
    text = ("chunk", "embeddings", "per-layer", "rope", "tokenizer")
    used: set[str] = set()
    for recipe in RECIPES.values():
        if recipe.name.startswith("gemma4.decode-chunk"):
            for chunk in (1, 2, 3, 4):
                used.update(recipe.needs(checkpoint, {**recipe.parameters, **CHUNK, "chunk": chunk}).tensors)
        elif recipe.name.removeprefix("gemma4.").startswith(text):
            used.update(recipe.needs(checkpoint, recipe.parameters).tensors)
    return not checkpoint.unused(used, known_unused(checkpoint, frozenset({"text"})))


def test_a_text_model_cannot_see(tiny_checkpoint: Path, tmp_path: Path) -> None:
    save_text_model(tiny_checkpoint, tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    for recipe, missing in (("vision-encoder", "vision_config"), ("audio-encoder", "audio_config")):
        chosen = RECIPES[f"gemma4.{recipe}"]
        with pytest.raises(RecipeError, match=f"config.json: {missing} is missing"):
            chosen.needs(checkpoint, chosen.parameters)


@pytest.mark.parametrize(
    ("prefixes", "message"),
    [
        ({"": "base_model.model."}, "a LoRA adapter or a model with one that is not merged"),
        ({"model.": "module.model."}, "tensor names follow no known scheme"),
    ],
)
def test_what_cannot_be_told_is_an_error(
    tiny_checkpoint: Path, tmp_path: Path, prefixes: dict[str, str], message: str
) -> None:
    _rename(tiny_checkpoint, tmp_path, prefixes)
    with pytest.raises(RecipeError, match=message):
        Checkpoint.open(tmp_path)


def test_an_adapter_is_not_a_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_checkpoint / "config.json", tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(RecipeError, match=r"adapter_model\.safetensors .*merge it"):
        Checkpoint.open(tmp_path)
