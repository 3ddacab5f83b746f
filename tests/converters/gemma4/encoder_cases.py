"""What the encoder tests share: transformers' model of the tiny checkpoint, and recipe runs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from converters.checkpoint import Checkpoint
from converters.gemma4.recipes.encoders import ENCODER_RECIPES
from converters.recipe import Job, Parameters, Recipe

FLOAT16, FLOAT32 = 10, 11  # MILSpec.DataType


def reference(directory: Path) -> Any:
    """transformers' own model in float32."""
    from transformers import Gemma4ForConditionalGeneration
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        return Gemma4ForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
    finally:
        logging.enable_progress_bar()


def randomize(model: torch.nn.Module, seed: int = 0) -> None:
    """Values for a fresh model whose own initial ones (ones, zeros, infinite bounds) would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in sorted(model.state_dict().items()):
            drawn = torch.randn(tensor.shape, generator=generator)
            if name.endswith(("_min", "_max")):
                drawn = (2.5 + torch.rand((), generator=generator)) * (1 if name.endswith("_max") else -1)
            elif "norm" in name or name.endswith("std_scale"):
                drawn = 1.0 + 0.1 * drawn
            elif tensor.ndim > 1 and "table" not in name:
                drawn = drawn / tensor[0].numel() ** 0.5
            tensor.copy_(drawn)


def recipe(name: str) -> Recipe:
    """An encoder recipe by name."""
    return next(recipe for recipe in ENCODER_RECIPES if recipe.name == name)


def build(checkpoint: Path, output: Path, name: str, path: str, overrides: Parameters) -> Path:
    """Run a recipe as a worker does; returns the package."""
    chosen = recipe(name)
    module, _, function = chosen.run.partition(":")
    output.mkdir()
    job = Job(checkpoint, path, {**chosen.parameters, **overrides}, output)
    getattr(importlib.import_module(module), function)(job)
    (package,) = output.iterdir()
    return package


def files(package: Path) -> dict[str, bytes]:
    """Every file of a package by relative path."""
    return {str(p.relative_to(package)): p.read_bytes() for p in package.rglob("*") if p.is_file()}


def load_spec(package: Path) -> Any:
    """The package's specification, as coremltools reads it."""
    from coremltools.models.utils import load_spec as load

    return load(str(package))


def operations(spec: Any) -> list[Any]:
    """Operations of the only function."""
    (function,) = spec.mlProgram.functions.values()
    return list(function.block_specializations[function.opset].operations)


def features(items: Any) -> list[tuple[str, tuple[int, ...], int]]:
    """Name, shape and data type of a specification's inputs or outputs."""
    return [(i.name, tuple(i.type.multiArrayType.shape), i.type.multiArrayType.dataType) for i in items]


def recorded_reads(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """From now on collects the names of the tensors that are read from any checkpoint."""
    names: set[str] = set()
    original = Checkpoint.tensor

    def tensor(self: Checkpoint, name: str, shape: tuple[int, ...] | None = None) -> torch.Tensor:
        names.add(name)
        return original(self, name, shape)

    monkeypatch.setattr(Checkpoint, "tensor", tensor)
    return names
