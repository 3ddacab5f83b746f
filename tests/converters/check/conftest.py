"""Good bundles, and a reader that does not parse unchanged packages again and again."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from converters.mil.program import Package, load_package
from tests.converters.check.bundles import WEIGHTS, Copy, copy_of
from zoo.run.routing import STATEFUL_FOLDER

MakeCopy = Callable[[str], Copy]

FRAMES = 40


@pytest.fixture(scope="session", autouse=True)
def _parse_once() -> Iterator[None]:
    """Links to packages of the session's bundles are parsed once."""
    from converters.check import gather, graph

    parse = cache(load_package)

    def load(path: Path) -> Package:
        if not path.is_symlink():
            return load_package(path)
        found = parse(path.resolve())
        return dataclasses.replace(found, path=path, root=path / found.root.relative_to(found.path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gather, "load_package", load)
        patch.setattr(gather, "make_graph", cache(graph.make_graph))
        yield


@pytest.fixture(scope="session")
def good(
    tiny_checkpoint: Path,
    tiny_e2b_checkpoint: Path,
    e4b_bundle: Path,
    e2b_bundle: Path,
    e4b_prefill_bundle: Path,
    e4b_stateful: Path,
    e2b_stateful: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Copy]:
    """Bundles as `zoo build` makes them, by name; `e4b-prefill` and `e4b-stateful` have a warning each."""
    from tests.converters.parity.conftest import build

    place = tmp_path_factory.mktemp("good")
    stateless = {"e4b": e4b_bundle, "e4b-prefill": e4b_prefill_bundle, "e2b": e2b_bundle}
    copies = {name: copy_of(bundle, place / name) for name, bundle in stateless.items()}
    copies |= {
        name: copy_of(folder, place / name, STATEFUL_FOLDER)
        for name, folder in (("e4b-stateful", e4b_stateful), ("e2b-stateful", e2b_stateful))
    }
    sidecars: dict[str, str | int] = {"frames": FRAMES, "quantization": "none"}
    for name in ("e4b", "e4b-prefill", "e4b-stateful"):
        build(tiny_checkpoint, copies[name].folder, "gemma4.audio-features", "", **sidecars)
    for name, copy in copies.items():
        checkpoint = tiny_e2b_checkpoint if name.startswith("e2b") else tiny_checkpoint
        build(checkpoint, copy.folder, "gemma4.per-layer-projection", "")
    for name in ("e4b", "e4b-prefill"):
        _share_weights(copies[name], "chunk4", "chunk3_3way")
    for number in range(1, 5):
        _share_weights(copies["e4b-prefill"], f"chunk{number}", f"prefill_chunk{number}")
    for number, name in enumerate(("chunk_1", "chunk_2_3way", "chunk_3"), start=1):
        _share_weights(copies["e4b-stateful"], f"chunk_{number}", f"prefill_T288/{name}_prefill_T288")
    return copies


def _share_weights(copy: Copy, first: str, second: str) -> None:
    """One file for the weights of two packages, which hold the same bytes."""
    path = copy.own_weights(second)
    original = copy.own(f"{first}.mlpackage") / WEIGHTS
    assert path.read_bytes() == original.read_bytes()
    path.unlink()
    os.link(original, path)


@pytest.fixture
def copied(good: dict[str, Copy], tmp_path: Path) -> MakeCopy:
    """Makes a copy of a good bundle that may be spoilt."""

    def make(name: str) -> Copy:
        source = good[name]
        inside = "" if source.folder == source.root else STATEFUL_FOLDER
        return copy_of(source.folder, tmp_path / name, inside)

    return make
