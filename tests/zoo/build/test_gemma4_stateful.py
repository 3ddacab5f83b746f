"""Stateful entries of the zoo, from a small checkpoint in the real architecture, by the real recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.zoo.build import fake
from zoo.build.graph import make_graph
from zoo.build.run import BuildResult, carry_out, make_plan, open_caches
from zoo.catalog import load_catalog
from zoo.locations import packaged_manifests

pytestmark = pytest.mark.convert

INSIDE = "gemma4_e2b_stateful_chunks"
WEIGHT = "Data/com.apple.CoreML/weights/weight.bin"

TINY = {
    "num_hidden_layers = 35": "num_hidden_layers = 20",
    "num_kv_shared_layers = 20": "num_kv_shared_layers = 10",
    "context_length = 2048": "context_length = 32",
    '\nprefill = "8"': '\nprefill = "4"',
    "\nlength = 288": "\nlength = 6",
}
"""What distinguishes the tiny checkpoint, whose window is 8, from an E2B."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from converters.gemma4.synthetic import make_checkpoint

    root = tmp_path_factory.mktemp("stateful")
    make_checkpoint(root / "checkpoint", size="e2b-tiny")
    fake.settle(root / "checkpoint")
    (root / "zoo").mkdir()
    for entry in ("gemma4-e2b", "gemma4-e2b-stateful", "gemma4-e2b-stateful-linear", "gemma4-e2b-stateful-multimodal"):
        text = (packaged_manifests() / f"{entry}.toml").read_text()
        for old, new in TINY.items():
            text = text.replace(old, new)
        (root / "zoo" / f"{entry}.toml").write_text(text)
    return root


def build(place: Path, entry: str, where: str = "build", only: tuple[str, ...] = ()) -> BuildResult:
    """Builds into the folder `where`, with a cache of its own."""
    graph = make_graph(load_catalog(place / "zoo"), entry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(place / f"cache-{where}"))
        with open_caches() as caches:
            return carry_out(make_plan(graph, place / "checkpoint", caches, only=only), place / where, caches)


def outputs(place: Path, where: str) -> dict[str, bytes]:
    """Every file of every package in a cache."""
    root = place / f"cache-{where}"
    files = (path for path in root.rglob("*") if path.is_file() and ".mlpackage/" in path.as_posix())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def test_a_whole_stateful_bundle(place: Path) -> None:
    entry = load_catalog(place / "zoo").get("gemma4-e2b-stateful")
    result = build(place, entry.id)
    assert {item.component for item in result.components} == {part.name for part in entry.parts}
    assert result.packages == tuple(f"{INSIDE}/chunk_{number}.mlpackage" for number in (1, 2, 3, 4))
    assert not build(place, entry.id).changed


def test_prefill_packages_have_the_weights_of_their_chunks_and_the_same_bytes_again(place: Path) -> None:
    entry, steps = "gemma4-e2b-stateful-multimodal", ("chunk_1", "prefill_chunk_1")
    build(place, entry, "one", steps)
    build(place, entry, "two", steps)
    found = outputs(place, "one")
    assert found == outputs(place, "two")
    chunk, prefill = (data for path, data in sorted(found.items()) if path.endswith(WEIGHT))
    assert chunk == prefill


def test_the_multimodal_entry_shares_its_text(place: Path) -> None:
    zoo = load_catalog(place / "zoo")
    multimodal, text = zoo.get("gemma4-e2b-stateful-multimodal"), zoo.get("gemma4-e2b-stateful-linear")
    for part in text.parts:
        other = multimodal.part(part.name)
        assert (other.origin_entry, other.origin_name) == (part.origin_entry, part.origin_name)
        assert (other.files, other.model) == (part.files, part.model)
    lenders = {part.name: part.weights for part in multimodal.parts if part.weights}
    assert lenders == {f"prefill_chunk_{number}": f"chunk_{number}" for number in (1, 2, 3)}
