"""The tokenizer and templates of a tiny bundle; no models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from converters.run.vocabulary import Vocabulary


@pytest.fixture(scope="session")
def words(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `hf_model/`."""
    from tests.converters.parity.conftest import build

    folder = tmp_path_factory.mktemp("words") / "bundle"
    build(tiny_checkpoint, folder, "gemma4.tokenizer", "hf_model")
    return folder


@pytest.fixture(scope="session")
def vocabulary(words: Path) -> Vocabulary:
    from converters.gemma4.config import parse_config
    from converters.run.vocabulary import Vocabulary

    config = json.loads((words / "hf_model" / "config.json").read_text())
    return Vocabulary(words, parse_config(config).text.tokens, 1)
