"""Synthetic checkpoints shared by all converter tests; built once per session, never written to."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

# before torch is imported: on tiny tensors its threads only wait for each other, for minutes on a busy machine
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """E4B's shape in small (`e4b-tiny`): 12 layers, sliding, sliding, full; the last 6 share K/V; window 8."""
    return _make(tmp_path_factory, "e4b-tiny")


@pytest.fixture(scope="session")
def tiny_e2b_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """E2B's shape in small (`e2b-tiny`): 20 layers, every fifth full, 1 K/V head, double-wide MLPs."""
    return _make(tmp_path_factory, "e2b-tiny")


@pytest.fixture(scope="session")
def odd_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """E4B's pattern with widths that are no powers of two: 6 heads on 2 K/V heads, window 10."""
    return _make(tmp_path_factory, "odd-e4b")


@pytest.fixture(scope="session")
def odd_e2b_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """E2B's pattern with odd widths: 3 heads on one K/V head, double-wide MLPs, window 10."""
    return _make(tmp_path_factory, "odd-e2b")


@pytest.fixture(scope="session")
def untied_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`e4b-tiny` with an LM head of its own."""
    return _make(tmp_path_factory, "untied")


def _make(tmp_path_factory: pytest.TempPathFactory, size: str) -> Path:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from converters.gemma4.synthetic import SIZES, Size, make_checkpoint

    others = {
        "untied": replace(SIZES["e4b-tiny"], tied=False),
        "odd-e4b": Size(12, 3, 6, 2, 14, 152, False, 1000, 10, 1, 1, "1500KB", hidden=104, per_layer=20, heads=6),
        "odd-e2b": Size(20, 5, 10, 1, 18, 88, True, 1000, 10, 1, 1, "2MB", hidden=72, per_layer=12, heads=3),
    }
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / size, size=others.get(size, size))
