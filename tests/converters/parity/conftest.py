"""The oracles to compare bundles with, and what builds bundles by running the recipes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from converters.parity.compare import Reference
    from converters.parity.oracle import Oracle
    from converters.run.runner import Load

FOUR_CHUNKS = ("chunk1", "chunk2", "chunk3", "chunk4")
THREE_CHUNKS = ("chunk1", "chunk2_3way", "chunk3_3way")

CONTEXT = 40
DRAFTS = 3
IMAGE_TOKENS = 16
FRAMES = 40
STATEFUL_BATCH = 4
STATEFUL_PREFILL = 6
PREFILL_LENGTH = 28
"""More than three windows of eight; less than the prompts with image and sound."""

# 24 positions are three sliding windows of the tiny models
TEXT = (2, 617, 93, 854, 401, 230, 76, 555, 12, 790, 338, 149, 662, 27, 881, 504, 315, 98, 743, 206, 460, 59, 827, 371)


@pytest.fixture(scope="session")
def e4b_load(e4b_bundle: Path) -> Load:
    """Opened packages, shared by all tests: opening takes longer than running."""
    from converters.run.runner import load_with_mil

    return load_with_mil(e4b_bundle)


@pytest.fixture(scope="session")
def oracle(tiny_checkpoint: Path, e4b_bundle: Path) -> Oracle:
    """The checkpoint with the values the bundle's look-up tables and int8 rows stand for; so only rounding is left."""
    from converters.mil.runtime import Model
    from converters.parity.oracle import Oracle

    found = Oracle.load(tiny_checkpoint)
    use_tables(found, e4b_bundle)
    for index, name in enumerate(FOUR_CHUNKS):
        layers = range(3 * index, 3 * index + 3)
        model = Model(e4b_bundle / f"{name}.mlpackage")
        matrices = found.use_chunk(model, layers, first=index == 0, last=index == 3)
        assert all(0 < matrix.error < 0.15 for matrix in matrices)
    return found


@pytest.fixture(scope="session")
def text_reference(oracle: Oracle) -> Reference:
    """The oracle on `TEXT`."""
    return oracle.run(TEXT)


def use_tables(oracle: Oracle, bundle: Path) -> None:
    """The reference embeds with the bundle's int8 rows."""
    from converters.run.sidecars import read_sidecars

    sidecars = read_sidecars(bundle)
    for stem, table in (("embed_tokens", sidecars.embeddings), ("embed_tokens_per_layer", sidecars.per_layer)):
        assert 0 < oracle.use_table(stem, table).error < 0.02


def build(checkpoint: Path, output: Path, recipe: str, path: str, **parameters: str | int) -> None:
    """Runs a recipe as a worker would."""
    from converters.gemma4.recipes import RECIPES
    from converters.recipe import Job

    output.mkdir(exist_ok=True)
    chosen = RECIPES[recipe]
    module, _, function = chosen.run.partition(":")
    run: Callable[[Job], None] = getattr(importlib.import_module(module), function)
    run(Job(checkpoint, path, {**chosen.parameters, **parameters}, output))


def build_text(checkpoint: Path, output: Path, *, bits: int, verify: int, chunks: tuple[str, ...]) -> None:
    """Decode chunks and the text model's sidecars."""
    for name in chunks:
        parameters = {"chunk": int(name[5]), "context_length": CONTEXT, "bits": bits}
        if name in FOUR_CHUNKS:
            build(checkpoint, output, "gemma4.decode-chunk", name, verify=verify, **parameters)
        else:
            build(checkpoint, output, "gemma4.merged-chunk", name, **parameters)
    build_sidecars(checkpoint, output)


def build_sidecars(checkpoint: Path, output: Path, rope: str = "transformers") -> None:
    """What decoding needs besides packages."""
    build(checkpoint, output, "gemma4.embeddings", "embeddings")
    build(checkpoint, output, "gemma4.per-layer-embeddings", "per-layer-embeddings")
    build(checkpoint, output, "gemma4.rope", "rope", context_length=CONTEXT, variant=rope)
    names = {"model_name": "tiny", "tokenizer_repo": "tiny"}
    build(checkpoint, output, "gemma4.model-config", "model_config", context_length=CONTEXT, **names)
    build(checkpoint, output, "gemma4.tokenizer", "hf_model")
