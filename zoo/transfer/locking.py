"""Looking at a folder or a repo and making the lock of what is there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from zoo.catalog import Entry
from zoo.digests import DigestCache, Digests, Hasher, hash_files
from zoo.errors import DiskError, InvalidDocument, UsageError
from zoo.events import Progress, Silent
from zoo.lock import Lock
from zoo.paths import check_bundle_path, check_no_clashes
from zoo.plan.lock import bundle_listing, bundle_path, is_by_the_way, lock_from_folder, lock_from_hub, with_known
from zoo.transfer.hub import HubClient
from zoo.transfer.listing import checked_content


@dataclass(frozen=True, slots=True)
class Locked:
    """A lock that was made and not written.

    Attributes:
        lock: it.
        left_out: what the folder or repo has besides, sorted.
        origin: the folder, or `repo@commit`.
    """

    lock: Lock
    left_out: tuple[str, ...]
    origin: str


def lock_folder(
    entry: Entry,
    folder: Path,
    *,
    cache: DigestCache | None = None,
    progress: Progress | None = None,
    ignore_extra: bool = False,
) -> Locked:
    """Lock the bundle that lies in a folder. What the entry's present lock knows about the same bytes is kept.

    Args:
        entry: what the folder should hold.
        folder: the bundle.
        cache: remembered digests.
        progress: receives progress in bytes.
        ignore_extra: leave out files that no component owns.

    Raises:
        InvalidDocument: no such folder; files that no component owns; something is missing.
        UnsafePath: a file name that is not portable.
        DiskError: a file cannot be read.
    """
    progress = progress or Silent()
    paths = _files(folder)
    # Files nobody asked about are named, not read.
    read = {path: folder / path for path in paths if entry.owner_of(path) is not None}
    where = str(folder)
    for path in read:
        check_bundle_path(path, where=where)
    check_no_clashes(read, where=where)
    try:
        total = sum(place.stat().st_size for place in read.values())
    except OSError as error:
        raise DiskError(f"{error.filename}: cannot be read: {error.strerror}") from None
    progress.start(where, total)
    digests = hash_files(read.values(), cache=cache, on_bytes=lambda count: progress.advance(where, count))
    progress.finish(where)
    unread = Digests(0, "0" * 64, "0" * 32)
    found = {path: digests[read[path]] if path in read else unread for path in paths}
    lock = lock_from_folder(entry, found, ignore_extra=ignore_extra, where=where)
    if entry.lock is not None:
        lock = with_known(lock, entry.lock)
    locked = {file.path for file in lock.files}
    return Locked(lock, tuple(path for path in paths if path not in locked and not is_by_the_way(path)), where)


def _files(folder: Path) -> list[str]:
    """Every file in a folder, sorted; links to files count, links to folders are named and not followed."""
    if not folder.is_dir():
        raise InvalidDocument(f"{folder}: no such folder")
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]  # noqa: PTH114, PTH118
        found.extend((Path(place) / name).relative_to(folder).as_posix() for name in (*files, *links))
    return sorted(found)


def lock_repo(client: HubClient, entry: Entry, revision: str | None = None) -> Locked:
    """Lock what the entry's repo has. Files that git itself keeps are downloaded, because the Hub tells no sha256 of
    those; for the others its listing is believed.

    Args:
        client: the Hub.
        entry: what the repo should hold.
        revision: branch, tag or commit; the manifest's branch by default.

    Raises:
        UsageError: the entry is not published anywhere.
        HubError: no such repo or revision, no right to read it, no answer.
        InvalidDocument: something is missing there.
        DigestMismatch: a small file did not arrive as the listing says.
    """  # noqa: D205
    hub = entry.manifest.hub
    if hub is None:
        raise UsageError(f"{entry.id} has no repo", hint="give it a [hub] table in the manifest, or use --from DIR")
    commit = client.resolve(hub.repo, revision or hub.revision)
    listing = client.listing(hub.repo, commit)
    read: dict[str, Digests] = {}
    for file in bundle_listing(entry, listing).values():
        if file.sha256 is not None:
            continue
        check_bundle_path(file.path, where=f"{hub.repo}@{commit[:7]}")
        content = checked_content(client.read(hub.repo, commit, file.path), file, hub.repo, commit)
        hasher = Hasher()
        hasher.update(content)
        read[file.path] = hasher.digests()
    lock = lock_from_hub(entry, listing, read, known=entry.lock)
    locked = {file.sources[0].path for file in lock.files}
    left_out = [file.path for file in listing.files if file.path not in locked]
    other = tuple(sorted(path for path in left_out if not is_by_the_way(path) or bundle_path(entry, path) is not None))
    return Locked(lock, other, f"{hub.repo}@{commit}")
