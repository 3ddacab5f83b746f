"""Synthetic checkpoints shared by all converter tests; built once per session, never written to."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """E4B's shape in small (`e4b-tiny`): 12 layers, sliding, sliding, full; the last 6 share K/V; window 8."""
    return _make(tmp_path_factory, "e4b-tiny")


@pytest.fixture(scope="session")
def tiny_e2b_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """E2B's shape in small (`e2b-tiny`): 20 layers, every fifth full, 1 K/V head, double-wide MLPs."""
    return _make(tmp_path_factory, "e2b-tiny")


def _make(tmp_path_factory: pytest.TempPathFactory, size: str) -> Path:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from converters.gemma4.synthetic import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / size, size=size)
