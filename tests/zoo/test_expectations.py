"""What is expected of entries without a list: sizes against the architecture, and data that does not fit."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from zoo import provisional
from zoo.catalog import Catalog, Entry, load_catalog
from zoo.errors import InvalidDocument, UnknownEntry
from zoo.expectations import Expectation, Expectations, LockOf, expected_parts, load_expectations
from zoo.lock import Lock

VOCABULARY = 262_144
"""Tokens of Gemma 4."""


@pytest.fixture(scope="module")
def zoo() -> Catalog:
    return load_catalog(provisional.ROOT / "manifests")


def sizes_of(zoo: Catalog, name: str) -> dict[str, int]:
    lock = zoo.get(name).lock
    assert lock is not None
    return {path: file.size for path, file in lock.by_path().items()}


@pytest.mark.parametrize(
    ("entry", "layers", "hidden"),
    [
        ("gemma4-e2b-stateful", 35, 1536),
        ("gemma4-e2b-stateful-multimodal", 35, 1536),
        ("gemma4-e2b-eagle3", 35, 1536),
        ("gemma4-e2b-fashion", 35, 1536),
        ("gemma4-e4b-stateful", 42, 2560),
        ("gemma4-e4b-stateful-linear", 42, 2560),
        ("gemma4-e4b-stateful-multimodal", 42, 2560),
    ],
)
def test_tables_have_the_size_that_follows_from_the_architecture(
    zoo: Catalog, entry: str, layers: int, hidden: int
) -> None:
    sizes = {path.rsplit("/", 1)[-1]: size for path, size in sizes_of(zoo, entry).items()}
    assert sizes["embed_tokens_q8.bin"] == VOCABULARY * hidden
    assert sizes["embed_tokens_per_layer_q8.bin"] == VOCABULARY * layers * 256
    assert sizes["per_layer_projection.bin"] == layers * 256 * hidden * 2


@pytest.mark.parametrize("size", ["e2b", "e4b"])
def test_prefill_packages_have_the_weights_of_their_chunks(zoo: Catalog, size: str) -> None:
    sizes = sizes_of(zoo, f"gemma4-{size}-stateful-multimodal")
    chunks = "gemma4_e2b_stateful_chunks"
    for chunk, prefill in ((1, "chunk_1"), (2, "chunk_2_3way"), (3, "chunk_3")):
        lender = sizes[f"{chunks}/chunk_{chunk}.mlmodelc/weights/weight.bin"]
        assert sizes[f"{chunks}/prefill_T288/{prefill}_prefill_T288.mlmodelc/weights/weight.bin"] == lender > 10**8


def test_four_chunks_weigh_what_three_weigh(zoo: Catalog) -> None:
    for size in ("e2b", "e4b"):
        weights = [
            sum(bytes_ for path, bytes_ in sizes_of(zoo, f"gemma4-{size}-{form}").items() if "/weight.bin" in path)
            for form in ("stateful", "stateful-linear")
        ]
        assert weights[0] == pytest.approx(weights[1], rel=1e-3)


def expectations_of(*expected: Expectation) -> Expectations:
    return Expectations(expected=expected)


def nothing_locked(zoo: Catalog) -> LockOf:
    def lock_of(name: str) -> tuple[Entry, Lock | None]:
        return zoo.get(name), None

    return lock_of


CHUNK = Expectation(
    entries=("gemma4-e2b-eagle3",), components=("chunk1",), reason="guess", model={"weights": 5, "program": 7}
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "chunk2: nothing is known of its size"),
        ({"model": {"weight": 5}}, "chunk1: a .mlmodelc has no weight"),
        ({"model": {"weights": 5, "manifest": 1, "metadata": 1}}, "chunk1: a .mlpackage has no metadata"),
        ({"model": None, "files": {"x.bin": 5}}, "chunk1: the sizes do not fit: x.bin"),
        ({"model": None, "like": "gemma4-e2b/*"}, "chunk1: like gemma4-e2b/\\*: that has no lock"),
        ({"components": ("chunk1", "chunk1")}, "nothing is known"),
    ],
)
def test_what_does_not_fit_is_one_line(zoo: Catalog, change: dict[str, object], message: str) -> None:
    one = msgspec.structs.replace(CHUNK, **change)
    with pytest.raises(InvalidDocument, match=f"^gemma4-e2b-eagle3: .*{message}"):
        expected_parts(zoo.get("gemma4-e2b-eagle3"), expectations_of(one), nothing_locked(zoo))


def test_two_expectations_of_one_component_are_one_too_many(zoo: Catalog) -> None:
    with pytest.raises(InvalidDocument, match="chunk1: 2 expectations"):
        expected_parts(zoo.get("gemma4-e2b-eagle3"), expectations_of(CHUNK, CHUNK), nothing_locked(zoo))


def test_a_component_that_is_not_there(zoo: Catalog) -> None:
    one = msgspec.structs.replace(CHUNK, components=("chunk9",))
    with pytest.raises(UnknownEntry, match="chunk9"):
        expected_parts(zoo.get("gemma4-e2b-eagle3"), expectations_of(one), nothing_locked(zoo))


@pytest.mark.parametrize(
    "text",
    [
        "[[expected]]\nentries = ['a']\ncomponents = ['b']\nreason = 'r'",
        "[[expected]]\nentries = ['a']\ncomponents = ['b']\nreason = 'r'\nlike = 'x/y'\nfiles = {}",
        "[[expected]]\nentries = []\ncomponents = ['b']\nreason = 'r'\nlike = 'x/y'",
        "[[expectd]]\n",
        "expected = = 1",
    ],
)
def test_malformed_data_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(InvalidDocument, match=r"x\.toml: .+"):
        load_expectations(tmp_path / "x.toml")
