"""What lies on this disk: installed folders and builds as holders of bytes (`zoo.plan.sharing`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.catalog import Catalog, Entry
from zoo.digests import DigestCache, hash_files
from zoo.errors import DiskError, InvalidDocument, UnsafePath
from zoo.events import Progress, Silent
from zoo.folder import list_folder
from zoo.lock import load_lock, lock_path
from zoo.paths import model_folder
from zoo.plan.published import kind_of
from zoo.plan.sharing import Held, Holder
from zoo.receipt import load_receipt, receipt_path

Claims = Mapping[str, tuple[int, str | None]]
"""What a receipt or lock says: bundle path -> size in bytes and sha256."""


@dataclass(frozen=True)
class Stored:
    """One folder on this disk.

    Attributes:
        name: how reports call it.
        family: of the entries in it.
        folder: where it lies.
        claims: what is said to be in it.
        entries: the entries it may hold files of, for component names.
    """

    name: str
    family: str
    folder: Path
    claims: Claims
    entries: tuple[Entry, ...]


def stored_folders(models: Path, builds: Path, catalog: Catalog) -> tuple[tuple[Stored, ...], tuple[str, ...]]:
    """Every installed folder and every build, in that order, and notes about what could not be read.

    Raises:
        DiskError: a directory cannot be listed.
    """
    found: list[Stored] = []
    notes: list[str] = []
    for folder in _subfolders(models):
        if not receipt_path(folder).is_file():
            continue
        try:
            receipt = load_receipt(folder)
        except (InvalidDocument, UnsafePath) as error:
            notes.append(error.message)
            continue
        claims = {
            file.path: (file.size, file.sha256) for installed in receipt.entries.values() for file in installed.files
        }
        entries = tuple(entry for entry in catalog.entries if entry.id in receipt.entries)
        family = entries[0].manifest.family if entries else folder.name
        found.append(Stored(folder.name, family, folder, claims, entries))
    for folder in _subfolders(builds):
        lock_file = next(
            (p for p in (lock_path(builds, folder.name), lock_path(folder, folder.name)) if p.is_file()), None
        )
        if lock_file is None:
            continue
        try:
            lock = load_lock(lock_file)
        except (InvalidDocument, UnsafePath) as error:
            notes.append(error.message)
            continue
        claims = {file.path: (file.size, file.sha256) for file in lock.files}
        entries = tuple(entry for entry in catalog.entries if entry.id == lock.entry)
        family = entries[0].manifest.family if entries else folder.name
        found.append(Stored(f"{builds.name or 'build'}/{folder.name}", family, folder, claims, entries))
    return tuple(found), tuple(notes)


def _subfolders(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.is_dir() and not path.is_symlink())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DiskError(f"{directory}: cannot be read: {error.strerror}") from None


def disk_holders(
    stored: Sequence[Stored], *, cache: DigestCache | None = None, full: bool = False, progress: Progress | None = None
) -> tuple[Holder, ...]:
    """Look into the folders.

    A digest is the remembered one of an unchanged file, else what the receipt or lock says if the size fits, else
    unknown.

    Args:
        stored: where to look.
        cache: remembered digests.
        full: read every file whose digest is not remembered, instead of believing receipts and locks.
        progress: told about bytes as they are read.

    Raises:
        DiskError: a folder or file cannot be read.
    """
    lists = [(place, _regular_files(place.folder)) for place in stored]
    proven: dict[Path, str] = {}
    paths = [place.folder / path for place, sizes in lists for path in sizes]
    if full:
        progress = progress or Silent()
        item = "on this disk"
        progress.start(item, sum(size for _, sizes in lists for size in sizes.values()))
        digests = hash_files(paths, cache=cache, on_bytes=lambda count: progress.advance(item, count))
        progress.finish(item)
        proven = {path: found.sha256 for path, found in digests.items()}
    elif cache is not None:
        proven = {path: known.sha256 for path in paths if (known := cache.get(path))}
    return tuple(
        Holder(place.name, place.family, tuple(_held(place, path, size, proven) for path, size in sizes.items()))
        for place, sizes in lists
    )


def _regular_files(folder: Path) -> dict[str, int]:
    files, _ = list_folder(folder)
    return {path: file.size for path, file in sorted(files.items()) if file.regular}


def _held(place: Stored, path: str, size: int, proven: Mapping[Path, str]) -> Held:
    full_path = place.folder / path
    claimed_size, claimed = place.claims.get(path, (-1, None))
    part = next((part for entry in place.entries if (part := entry.owner_of(path))), None)
    try:
        status = full_path.stat()
    except OSError as error:
        raise DiskError(f"{full_path}: cannot be read: {error.strerror}") from None
    return Held(
        path=path,
        size=size,
        sha256=proven.get(full_path) or (claimed if claimed_size == size else None),
        label=part.name if part else model_folder(path) or path,
        kind=kind_of(part) if part else "other",
        place=(status.st_dev, status.st_ino),
        region=str(status.st_dev),
    )
