"""Entries that were published before this zoo: manifests and provisional locks against the app's own lists."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from zoo import provisional
from zoo.catalog import Catalog, load_catalog
from zoo.errors import InvalidDocument
from zoo.lock import load_lock, lock_path, make_lock, save_lock
from zoo.manifest import manifest_digest
from zoo.plan.lock import bundle_path, check_lock, remote_paths
from zoo.provisional import Correction, ListedFile, provisional_lock

LISTS = provisional.load_lists(provisional.ROOT / provisional.LISTS)

DROPPED = {"gemma4-e4b": {f"chunk{number}.mlmodelc/metadata.json" for number in (1, 2, 3, 4)}}
"""Listed by the app, and known not to be in the repo."""

ADDED = {
    "gemma4-e2b": {f"prefill_chunk{number}.mlmodelc/weights/weight.bin" for number in (1, 2, 3, 4)},
    "gemma4-e2b-3way": {f"prefill_chunk{number}.mlmodelc/weights/weight.bin" for number in (1, 4)},
}
"""Not listed by the app, which links them once the rest is there."""

EXACT = {
    ("gemma4-e2b", "chunk1.mlmodelc/weights/weight.bin"): 155_436_864,
    ("gemma4-e2b", "prefill_chunk4.mlmodelc/weights/weight.bin"): 526_874_880,
    ("gemma4-e2b-3way", "chunk3_3way.mlmodelc/weights/weight.bin"): 526_874_880,
    ("gemma4-e2b-stateful-linear", "gemma4_e2b_stateful_chunks/chunk_3.mlmodelc/weights/weight.bin"): 527_440_000,
    ("gemma4-e4b", "chunk4.mlmodelc/weights/weight.bin"): 753_797_440,
    ("gemma4-e4b", "embed_tokens_per_layer_q8.bin"): 262_144 * 42 * 256,
    ("gemma4-e4b-multimodal", "chunk2_3way.mlmodelc/weights/weight.bin"): 984_936_000,
    ("lfm2.5-350m", "model.mlmodelc/weights/weight.bin"): 844_243_968,
}
"""Sizes that were measured."""


@pytest.fixture(scope="module")
def zoo() -> Catalog:
    return load_catalog(provisional.ROOT / "manifests")


def test_there_are_nine_lists_and_what_is_generated_from_them_is_current() -> None:
    assert len(LISTS) == 9
    assert provisional.main(["--check"]) == 0, "run `python -m zoo.provisional`"


@pytest.mark.parametrize("name", LISTS)
def test_an_entry_has_the_files_of_the_app_s_list_at_the_same_places(zoo: Catalog, name: str) -> None:
    entry = zoo.get(name)
    lock, changes = provisional_lock(
        entry, LISTS[name], provisional.load_corrections(provisional.ROOT / provisional.CORRECTIONS)
    )
    listed = {line.path: line.remote for line in LISTS[name]}
    dropped, added = DROPPED.get(name, set()), ADDED.get(name, set())
    assert lock.by_path().keys() == (listed.keys() - dropped) | added
    places = remote_paths(entry, lock)
    assert {path: places[path] for path in listed.keys() - dropped} == {
        path: remote for path, remote in listed.items() if path not in dropped
    }
    assert {change.path for change in changes if change.locked is None} == dropped
    assert {change.path for change in changes if change.listed is None} == added
    sizes = {line.path: line.size for line in LISTS[name]}
    assert {path for path, file in lock.by_path().items() if sizes.get(path) != file.size} == {
        change.path for change in changes if change.locked is not None
    }, "every other size is the app's"
    assert all(change.reason for change in changes)
    check_lock(entry, lock)


@pytest.mark.parametrize("name", LISTS)
def test_every_listed_file_belongs_to_one_component_and_its_place_leads_back(zoo: Catalog, name: str) -> None:
    entry = zoo.get(name)
    for line in LISTS[name]:
        owners = [part.name for part in entry.parts if part.owns(line.path)]
        assert len(owners) == 1, line.path
        assert bundle_path(entry, line.remote) == line.path
        assert not entry.must_be_absent(line.path)


def test_measured_sizes_are_in_the_locks(zoo: Catalog) -> None:
    for (name, path), size in EXACT.items():
        lock = load_lock(lock_path(zoo.directory, name))
        if lock.provisional:
            assert lock.by_path()[path].size == size, (name, path)


def test_a_shared_component_has_one_size_in_both_locks(zoo: Catalog) -> None:
    text, multimodal = (load_lock(lock_path(zoo.directory, name)) for name in ("gemma4-e4b", "gemma4-e4b-multimodal"))
    sizes = {path: file.size for path, file in multimodal.by_path().items()}
    assert {path: file.size for path, file in text.by_path().items()}.items() <= sizes.items()


def test_provisional_locks_say_that_they_are(zoo: Catalog) -> None:
    for name in LISTS:
        lock = load_lock(lock_path(zoo.directory, name))
        if lock.provisional:
            assert all(file.sha256 is None and file.xxh3 is None and not file.sources for file in lock.files)


def test_every_entry_has_a_lock_that_fits_its_manifest(zoo: Catalog) -> None:
    for entry in zoo.entries:
        assert entry.lock is not None, entry.id
        check_lock(entry, entry.lock)


def test_the_zip_file_of_qwen_is_expected_to_be_as_large_as_the_picker_says(zoo: Catalog) -> None:
    lock = zoo.get("qwen2.5-0.5b").lock
    assert lock is not None
    assert lock.archive is not None
    if lock.provisional:
        assert lock.archive.size == 309_000_000
        assert lock.size <= lock.archive.size


@pytest.mark.parametrize(
    ("listed", "corrections", "message"),
    [
        ([ListedFile("x.bin", "x.bin", 1)], [], "no component owns it"),
        ([ListedFile("model_config.json", "model_config.json", 1)], [], "list lacks"),
        ([ListedFile("a/model_config.json", "model_config.json", 1)], [], "the manifest says model_config.json"),
        (
            [ListedFile("model_config.json", "model_config.json", 1)],
            [Correction(entries=("gemma4-e4b",), path="model_config.json", size=1, reason="why not")],
            "corrects nothing",
        ),
    ],
)
def test_a_list_that_does_not_fit_is_refused(
    zoo: Catalog, listed: list[ListedFile], corrections: list[Correction], message: str
) -> None:
    with pytest.raises(InvalidDocument, match=message):
        provisional_lock(zoo.get("gemma4-e4b"), listed, corrections)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the generator reads and writes."""
    for name in ("manifests", "tests/data"):
        shutil.copytree(provisional.ROOT / name, tmp_path / name)
    (tmp_path / "docs").mkdir()
    return tmp_path


def test_generating_writes_what_is_stale_and_nothing_else(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, lock = checkout / provisional.PAGE, checkout / "manifests" / "qwen3.5-2b.lock.json"
    before = {path.name: path.read_bytes() for path in (checkout / "manifests").iterdir()}
    lock.write_text("{}")
    assert provisional.main(["--check"], checkout) == 1
    assert not page.exists()
    assert provisional.main([], checkout) == 0
    assert Counter(capsys.readouterr().out.split()[1::2]) == Counter([str(lock), str(page)])
    assert {path.name: path.read_bytes() for path in (checkout / "manifests").iterdir()} == before
    assert provisional.main(["--check"], checkout) == 0


def test_a_lock_with_digests_is_never_replaced(checkout: Path) -> None:
    assert provisional.main([], checkout) == 0
    entry = load_catalog(checkout / "manifests").get("lfm2.5-350m")
    real = make_lock(entry.id, manifest_digest(entry.manifest), ())
    save_lock(entry.lock_file, real)
    assert provisional.main([], checkout) == 0
    assert load_lock(entry.lock_file) == real


@pytest.mark.parametrize(
    "text",
    ["[[correction]]\npath = 3", "correction = = 1", "[[correction]]\nentries = ['x']\npath = 'x'\nreason = 'r'"],
)
def test_a_malformed_correction_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(InvalidDocument, match=r"x\.toml: .+"):
        provisional.load_corrections(tmp_path / "x.toml")


def test_malformed_lists_and_arguments(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": [["x", 1, "y"]]}')
    with pytest.raises(InvalidDocument, match=r"x\.json: "):
        provisional.load_lists(tmp_path / "x.json")
    assert provisional.main(["--chek"]) == 2
