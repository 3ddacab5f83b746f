from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.zoo.bundles import write_zoo
from tests.zoo.transfer.push_support import TinyZoo, bundle, sha256, tiny_zoo
from zoo.catalog import Entry
from zoo.digests import Digests, Hasher
from zoo.errors import CheckFailed, InvalidDocument, UnsafePath
from zoo.lock import Lock, Source, dump_lock
from zoo.plan.lock import assign, check_lock, difference, lock_from_folder, lock_from_hub, pinned, with_known
from zoo.plan.remote import Listing, RemoteFile, git_object_id

COMMIT = "1" * 40
OTHER = "2" * 40


@pytest.fixture
def zoo(tmp_path: Path) -> TinyZoo:
    return tiny_zoo(tmp_path)


@pytest.fixture
def tiny(zoo: TinyZoo) -> Entry:
    return zoo.catalog.get("tiny")


def digests(data: bytes) -> Digests:
    hasher = Hasher()
    hasher.update(data)
    return hasher.digests()


FOUND = {path: digests(data) for path, data in bundle("tiny").items()}


def from_folder(entry: Entry, found: dict[str, Digests], *, ignore_extra: bool = False) -> Lock:
    return lock_from_folder(entry, found, ignore_extra=ignore_extra, where="here")


def test_git_s_own_id_of_an_empty_and_a_short_file() -> None:
    # `git hash-object` of nothing and of "hello\n"
    assert git_object_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert git_object_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_the_order_of_files_does_not_matter(tiny: Entry) -> None:
    backwards = dict(reversed(FOUND.items()))
    assert dump_lock(from_folder(tiny, FOUND)) == dump_lock(from_folder(tiny, backwards))


def test_what_belongs_to_nobody_and_what_lacks(tiny: Entry) -> None:
    found = assign(tiny, ["chunk1.mlmodelc/model.mil", "a.txt", "README.md", ".cache/x", "sub/.DS_Store", "zoo.json"])
    assert found.owners == {"chunk1.mlmodelc/model.mil": "chunk1"}
    assert found.unknown == ("a.txt",)
    assert found.missing == (
        "chunk4",
        "cos_full.npy",
        "sin_full.npy",
        "model_config.json",
        "hf_model/tokenizer_config.json",
    )


def test_a_model_in_both_forms_is_refused_or_taken_compiled(tiny: Entry) -> None:
    both = FOUND | {"chunk1.mlpackage/Manifest.json": digests(b"{}")}
    with pytest.raises(InvalidDocument, match=r"chunk1 there both"):
        from_folder(tiny, both)
    lock = from_folder(tiny, both, ignore_extra=True)
    assert lock.model_format == "mlmodelc"
    assert lock == from_folder(tiny, FOUND)


def test_an_earlier_lock_gives_places_and_provenance_for_the_same_bytes(tiny: Entry) -> None:
    source = Source(repo="me/repo", commit=COMMIT, path="cos_full.npy")
    fresh = from_folder(tiny, FOUND)
    files = [
        msgspec.structs.replace(file, sources=(source,)) if file.path == "cos_full.npy" else file
        for file in fresh.files
    ]
    known = msgspec.structs.replace(fresh, files=tuple(files), provenance={"coremltools": "9.0"})
    kept = with_known(fresh, known)
    assert kept.by_path()["cos_full.npy"].sources == (source,)
    assert kept.provenance == {"coremltools": "9.0"}
    changed = from_folder(tiny, FOUND | {"cos_full.npy": digests(b"new")})
    kept = with_known(changed, known)
    assert kept.by_path()["cos_full.npy"].sources == ()
    assert kept.provenance == {}


def test_difference_names_files(tiny: Entry) -> None:
    old = from_folder(tiny, FOUND)
    extra = "chunk1.mlmodelc/metadata.json"
    new = from_folder(tiny, FOUND | {"cos_full.npy": digests(b"new"), extra: digests(b"{}")})
    found = difference(old, new)
    assert [file.path for file in found.added] == [extra]
    assert [file.path for file in difference(new, old).removed] == [extra]
    assert [after.path for _, after in found.changed] == ["cos_full.npy"]
    assert not difference(old, old)
    assert len(difference(None, old).added) == len(old.files)
    with pytest.raises(CheckFailed, match=r"metadata\.json \(new\), cos_full\.npy \(changed\)"):
        check_lock(tiny, old, new)


def test_where_bytes_can_be_had_is_no_difference(tiny: Entry) -> None:
    lock = from_folder(tiny, FOUND)
    paths = {file.path: file.path for file in lock.files}
    assert not difference(lock, pinned(lock, "me/repo", COMMIT, paths, []))


def test_further_sources_are_sorted_and_one_a_repo(tiny: Entry) -> None:
    lock = from_folder(tiny, FOUND)
    paths = {file.path: file.path for file in lock.files}
    digest = lock.by_path()["cos_full.npy"].sha256

    def listing(repo: str, commit: str, *places: str) -> Listing:
        return Listing(repo, commit, tuple(RemoteFile(place, 4096, digest, "0" * 40) for place in places))

    others = [listing("z/z", COMMIT, "b", "a"), listing("a/a", COMMIT, "c"), listing("z/z", OTHER, "d")]
    others.append(listing("me/repo", OTHER, "e"))
    file = pinned(lock, "me/repo", COMMIT, paths, others).by_path()["cos_full.npy"]
    assert [(source.repo, source.commit, source.path) for source in file.sources] == [
        ("me/repo", COMMIT, "cos_full.npy"),
        ("a/a", COMMIT, "c"),
        ("z/z", COMMIT, "a"),
    ]


def hub_listing(entry: Entry, *more: RemoteFile) -> tuple[Listing, dict[str, Digests]]:
    files, read = list(more), {}
    for path, data in bundle("tiny").items():
        part = entry.owner_of(path)
        assert part is not None
        place = part.remote_path(path)
        is_large = path.endswith((".bin", ".npy"))
        files.append(RemoteFile(place, len(data), sha256(data) if is_large else None, git_object_id(data)))
        if not is_large:
            read[place] = digests(data)
    return Listing("me/repo", COMMIT, tuple(files)), read


def test_a_listing_and_a_folder_give_the_same_bundle(tiny: Entry) -> None:
    stray = RemoteFile("sdpa/old.bin", 5, "3" * 64, "0" * 40)
    lock = lock_from_hub(tiny, *hub_listing(tiny, stray))
    assert not difference(from_folder(tiny, FOUND), lock)
    assert lock.by_path()["cos_full.npy"].sources[0].path == "swa/cos_full.npy"
    assert lock.by_path()["cos_full.npy"].xxh3 is None
    known = lock_from_hub(tiny, *hub_listing(tiny), known=from_folder(tiny, FOUND))
    assert known.by_path()["cos_full.npy"].xxh3 == FOUND["cos_full.npy"].xxh3


def test_a_hostile_listing_is_refused(tiny: Entry) -> None:
    hostile = RemoteFile("chunk1.mlmodelc/../../../etc/passwd", 5, "3" * 64, "0" * 40)
    with pytest.raises(UnsafePath):
        lock_from_hub(tiny, *hub_listing(tiny, hostile))


def test_a_repo_that_lacks_a_file_cannot_be_locked(tiny: Entry) -> None:
    listing, read = hub_listing(tiny)
    less = tuple(file for file in listing.files if file.path != "swa/sin_full.npy")
    with pytest.raises(InvalidDocument, match=r"sin_full\.npy missing"):
        lock_from_hub(tiny, Listing("me/repo", COMMIT, less), read)


TWINS_MANIFEST = """
schema = 1
id = "twins"
name = "Twins"
family = "twins"
folder = "twins"
order = 1
description = "Two graphs over the same weights, and a file that some bundles lack."
license = "apache-2.0"
[hub]
repo = "zoo/twins"
[[component]]
name = "chunk1"
model = "chunk1"
remote = "swa/chunk1"
prebuilt = true
role = "decoder"
modality = "text"
[[component]]
name = "prefill_chunk1"
model = "prefill_chunk1"
remote = "prefill/chunk1"
weights = "chunk1"
prebuilt = true
role = "prefill"
modality = "text"
[[component]]
name = "tokenizer"
files = ["hf_model/chat_template.jinja", "hf_model/tokenizer.json"]
optional = ["hf_model/chat_template.jinja"]
prebuilt = true
role = "tokenizer"
modality = "text"
"""


def twins_listing(*, own_weights: bool = False, tokenizer: bool = True) -> Listing:
    places = {"swa/chunk1.mlmodelc/model.mil": "1", "swa/chunk1.mlmodelc/weights/weight.bin": "2"}
    places["prefill/chunk1.mlmodelc/model.mil"] = "3"
    if own_weights:
        places["prefill/chunk1.mlmodelc/weights/weight.bin"] = "4"
    if tokenizer:
        places["hf_model/tokenizer.json"] = "5"
    files = tuple(RemoteFile(path, 9, digit * 64, digit * 40) for path, digit in places.items())
    return Listing("zoo/twins", COMMIT, files)


def test_weights_that_the_repo_leaves_out_are_those_of_the_other_model(tmp_path: Path) -> None:
    entry = write_zoo(tmp_path, TWINS_MANIFEST).get("twins")
    files = lock_from_hub(entry, twins_listing(), {}).by_path()
    lent, borrowed = (files[f"{name}.mlmodelc/weights/weight.bin"] for name in ("chunk1", "prefill_chunk1"))
    assert borrowed.component == "prefill_chunk1"
    assert (borrowed.size, borrowed.sha256, borrowed.sources) == (lent.size, lent.sha256, lent.sources)
    assert borrowed.sources[0].path == "swa/chunk1.mlmodelc/weights/weight.bin"


def test_weights_that_the_repo_has_are_its_own(tmp_path: Path) -> None:
    entry = write_zoo(tmp_path, TWINS_MANIFEST).get("twins")
    files = lock_from_hub(entry, twins_listing(own_weights=True), {}).by_path()
    assert files["prefill_chunk1.mlmodelc/weights/weight.bin"].sha256 == "4" * 64


def test_an_optional_file_may_be_missing_and_the_others_may_not(tmp_path: Path) -> None:
    entry = write_zoo(tmp_path, TWINS_MANIFEST).get("twins")
    lock = lock_from_hub(entry, twins_listing(), {})
    assert "hf_model/chat_template.jinja" not in lock.by_path()
    check_lock(entry, lock)
    with pytest.raises(InvalidDocument, match=r"tokenizer\.json missing"):
        lock_from_hub(entry, twins_listing(tokenizer=False), {})
