from __future__ import annotations

from pathlib import Path

import msgspec

from tests.zoo.bundles import locked_zoo, package_files, text_files
from zoo.catalog import Catalog, load_catalog
from zoo.lock import lock_path, save_lock
from zoo.plan.published import Unpublished, hub_holders, unpublished
from zoo.plan.sharing import find_sharing

MULTIMODAL = {**text_files(), **package_files("vision.ane", b"v" * 700)}


def rewrite(catalog: Catalog, entry: str, **changes: object) -> Catalog:
    lock = catalog.get(entry).lock
    assert lock is not None
    files = tuple(msgspec.structs.replace(file, **changes) for file in lock.files)
    save_lock(lock_path(catalog.directory, entry), msgspec.structs.replace(lock, files=files))
    return load_catalog(catalog.directory)


def test_two_entries_with_repos_of_their_own_store_what_they_share_twice(tmp_path: Path) -> None:
    catalog = locked_zoo(tmp_path, {"tiny": text_files(), "tiny-multimodal": MULTIMODAL})
    sharing = find_sharing(hub_holders(catalog.entries))
    shared = sum(map(len, text_files().values()))
    assert sharing.stored == shared + sum(map(len, MULTIMODAL.values()))
    assert sharing.common("tiny", "tiny-multimodal") == shared
    assert [holder.name for holder in sharing.holders] == ["tiny-multimodal", "tiny"]
    assert {file.kind for file in sharing.holders[0].files} == {"decoder", "other", "image"}
    assert unpublished(catalog.entries) == ()


def test_what_is_not_published_is_not_on_the_hub(tmp_path: Path) -> None:
    catalog = locked_zoo(tmp_path, {"tiny": text_files(), "tiny-multimodal": MULTIMODAL})
    catalog = rewrite(catalog, "tiny-multimodal", sources=())
    assert [holder.name for holder in hub_holders(catalog.entries)] == ["tiny"]
    lock = catalog.get("tiny-multimodal").lock
    assert lock is not None
    distinct = sum({file.sha256: file.size for file in lock.files}.values())
    (waiting,) = unpublished(catalog.entries)
    text = {data: len(data) for data in text_files().values()}
    assert waiting == Unpublished("tiny-multimodal", len(lock.files), distinct, sum(text.values()))


def test_a_provisional_lock_is_on_the_hub_and_not_known(tmp_path: Path) -> None:
    catalog = locked_zoo(tmp_path, {"tiny": text_files(), "tiny-multimodal": MULTIMODAL})
    catalog = rewrite(catalog, "tiny-multimodal", sources=(), sha256=None, xxh3=None)
    sharing = find_sharing(hub_holders(catalog.entries))
    assert sharing.unknown == sum(map(len, MULTIMODAL.values()))
    assert sharing.duplicated == 0
    assert sharing.pairs == ()
    assert unpublished(catalog.entries) == ()


def test_a_file_that_two_entries_have_in_one_repo_is_stored_once(tmp_path: Path) -> None:
    catalog = locked_zoo(tmp_path, {"tiny": text_files(), "tiny-multimodal": MULTIMODAL})
    text, multimodal = (catalog.get(name).lock for name in ("tiny", "tiny-multimodal"))
    assert text is not None
    assert multimodal is not None
    places = {file.path: file.sources for file in text.files}
    files = tuple(
        msgspec.structs.replace(file, sources=places.get(file.path, file.sources)) for file in multimodal.files
    )
    save_lock(lock_path(catalog.directory, "tiny-multimodal"), msgspec.structs.replace(multimodal, files=files))
    sharing = find_sharing(hub_holders(load_catalog(catalog.directory).entries))
    assert sharing.stored == sum(map(len, MULTIMODAL.values()))
    assert sharing.common("tiny", "tiny-multimodal") == sum(map(len, text_files().values()))
