"""One zygote for all tests, and one published zoo that every test gets a copy of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.zoo.faults.place import Place, make_place
from tests.zoo.faults.zygote import Zygote, zygote
from tests.zoo.transfer.push_support import TinyZoo
from zoo.hub_server.process import running_hub


@pytest.fixture(scope="session")
def forker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with zygote(tmp_path_factory.mktemp("zygote")) as process:
        yield process


@pytest.fixture
def fresh(tmp_path: Path, forker: Zygote) -> Iterator[Place]:
    """Nothing is published yet."""
    with running_hub(tmp_path / "hub") as hub:
        yield make_place(tmp_path / "place", hub, forker)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, forker: Zygote) -> Place:
    """Two versions are published, the first is the current one; the Hub is not running any more."""
    directory = tmp_path_factory.mktemp("published")
    with running_hub(directory / "hub") as hub:
        place = make_place(directory / "place", hub, forker)
        place.publish(1, 2)
        place.release(1)
    return place


@pytest.fixture
def place(published: Place, tmp_path: Path, forker: Zygote) -> Iterator[Place]:
    """A copy of `published`, with a Hub of its own."""
    shutil.copytree(published.root.parent, tmp_path, dirs_exist_ok=True)
    root = tmp_path / "place"
    with running_hub(tmp_path / "hub") as hub:
        yield Place(root, hub, forker, TinyZoo(root / "manifests", root / "build"), published.releases)
