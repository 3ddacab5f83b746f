"""What the tests of sidecar files share: running one recipe, the oracle, a checkpoint to damage."""

import hashlib
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from converters.checkpoint import Checkpoint
from converters.gemma4.recipes import sidecars as declared
from converters.recipe import Job, Needs, Recipe

RECIPES = {recipe.name: recipe for recipe in declared.SIDECAR_RECIPES}
NAMED = {"model_name": "gemma4-e4b", "tokenizer_repo": "google/gemma-4-E4B-it"}
EMBEDDING = "model.language_model.embed_tokens.weight"


def filled(recipe: Recipe, changes: dict[str, Any]) -> dict[str, Any]:
    return {**recipe.parameters, **{key: value for key, value in changes.items() if key in recipe.parameters}}


def run(name: str, checkpoint: Path, output: Path, **changes: Any) -> Path:
    recipe = RECIPES[name]
    module, _, function = recipe.run.partition(":")
    output.mkdir(exist_ok=True)
    job = Job(checkpoint, "somewhere", filled(recipe, {**NAMED, **changes}), output)
    getattr(importlib.import_module(module), function)(job)
    return output


def needs(name: str, checkpoint: Path, **changes: Any) -> Needs:
    recipe = RECIPES[name]
    return recipe.needs(Checkpoint.open(checkpoint), filled(recipe, {**NAMED, **changes}))


def files(directory: Path) -> dict[str, str]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Any:
    import torch
    from transformers import Gemma4ForConditionalGeneration

    return Gemma4ForConditionalGeneration.from_pretrained(tiny_checkpoint, dtype=torch.float32)


@pytest.fixture
def altered(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint to damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "altered"))


def edit(path: Path, **changes: Any) -> None:
    settings = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not ...}))
