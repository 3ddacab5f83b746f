"""The two sides of `zoo diff`: an entry's lock, a lock file, or a folder."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from zoo.catalog import Catalog, unknown
from zoo.digests import DigestCache, hash_files
from zoo.errors import InvalidDocument, UsageError
from zoo.events import Progress, Silent
from zoo.folder import list_folder
from zoo.lock import Lock, LockedFile, load_lock, lock_path
from zoo.plan.diff import Compared
from zoo.receipt import load_receipt
from zoo.selection import Selection, select

SideKind = Literal["entry", "lock", "folder"]


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: as given.
        kind: what it is.
        files: each path once; those of a folder have no digests before `read_sides`.
        folder: where a folder lies; None for locks.
    """

    name: str
    kind: SideKind
    files: tuple[Compared, ...]
    folder: Path | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def find_side(name: str, catalog: Catalog) -> Side:
    """What `name` means: a lock file, a folder (if it has a slash, or no entry has that id), or an entry.

    Raises:
        UnknownEntry: it is none of these.
        InvalidDocument, UnsafePath, DiskError: a damaged lock, an entry without one, an unreadable folder.
    """
    path = Path(name)
    mode = _mode(path)
    if stat.S_ISREG(mode):
        return _lock_side(name, "lock", load_lock(path).files)
    ids = [entry.id for entry in catalog.entries]
    if stat.S_ISDIR(mode) and ("/" in name or name not in ids):
        return folder_side(name)
    if name not in ids:
        raise unknown("entry, lock file or folder", name, ids)
    lock = catalog.get(name).lock
    if lock is None:
        raise InvalidDocument(f"{name}: has no lock yet", hint=f"zoo lock {name} --from-hub, or --from DIR")
    return _lock_side(name, "entry", lock.files)


def _mode(path: Path) -> int:
    """What kind of file lies at `path`; 0 if there is none, or no such name is possible."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def folder_side(name: str) -> Side:
    """A folder, not read yet.

    Raises:
        DiskError: it cannot be listed.
    """
    folder = Path(name)
    files, _ = list_folder(folder)
    listed = tuple(
        Compared(path, file.size, None, exact=True)
        for path, file in sorted(files.items())
        # A lock beside the files of a build describes them and is none of them; links and devices have no bytes.
        if file.regular and not ("/" not in path and path.endswith(".lock.json"))
    )
    return Side(name, "folder", listed, folder)


def own_lock(side: Side, catalog: Catalog) -> Side:
    """The lock that a folder should fit: of the entries installed in it, else the one that its build wrote.

    Where entries were installed in part, only those parts count.

    Raises:
        UsageError: nothing says what the folder is.
        InvalidDocument: an installed entry has no lock, or two want different bytes at one path.
    """
    if side.folder is None:
        raise UsageError(f"{side.name}: what should it be compared with?", hint="give a second entry, lock or folder")
    folder = side.folder
    receipt = load_receipt(folder)
    if receipt.entries:
        files: dict[str, LockedFile] = {}
        for name, installed in sorted(receipt.entries.items()):
            lock = catalog.get(name).lock
            if lock is None:
                raise InvalidDocument(
                    f"{name}: has no lock in {catalog.directory}", hint=f"zoo lock {name} --from-hub"
                )
            for file in _selected(lock, catalog, installed.only, installed.without):
                known = files.setdefault(file.path, file)
                if known.sha256 != file.sha256:
                    raise InvalidDocument(f"{folder}: {file.path}: its entries' locks want different bytes there")
        return _lock_side(" + ".join(sorted(receipt.entries)), "entry", sorted(files.values(), key=lambda f: f.path))
    resolved = folder.resolve()
    for path in (lock_path(resolved.parent, resolved.name), lock_path(resolved, resolved.name)):
        if path.is_file():
            return _lock_side(str(path), "lock", load_lock(path).files)
    raise UsageError(
        f"{side.name}: no entry is installed there and no lock lies beside it",
        hint="say what to compare it with: zoo diff FOLDER ENTRY",
    )


def _selected(lock: Lock, catalog: Catalog, only: tuple[str, ...], without: tuple[str, ...]) -> Sequence[LockedFile]:
    selection = Selection(only, without)
    if selection.everything:
        return lock.files
    return lock.of_components(part.name for part in select(catalog.get(lock.entry), selection))


def _lock_side(name: str, kind: SideKind, files: Iterable[LockedFile]) -> Side:
    return Side(
        name,
        kind,
        tuple(Compared(f.path, f.size, f.sha256, exact=f.sha256 is not None, component=f.component) for f in files),
    )


def read_sides(
    one: Side, other: Side, *, cache: DigestCache | None = None, progress: Progress | None = None
) -> tuple[Side, Side]:
    """Read those files of folders that could have the bytes of another file.

    Args:
        one: a side.
        other: the other side.
        cache: remembered digests; None reads every byte.
        progress: told about bytes as they are read.

    Raises:
        DiskError: a file cannot be read.
    """
    progress = progress or Silent()
    sizes = Counter(file.size for side in (one, other) for file in side.files if file.exact)
    chosen = {
        side.folder / file.path: file.size
        for side in (one, other)
        if side.folder is not None
        for file in side.files
        if sizes[file.size] > 1
    }
    if not chosen:
        return one, other
    item = "on this disk"
    progress.start(item, sum(chosen.values()))
    digests = hash_files(chosen, cache=cache, on_bytes=lambda count: progress.advance(item, count))
    progress.finish(item)

    def with_digests(side: Side) -> Side:
        folder = side.folder
        if folder is None:
            return side
        files = [
            replace(file, sha256=found.sha256, size=found.size) if (found := digests.get(folder / file.path)) else file
            for file in side.files
        ]
        return replace(side, files=tuple(files))

    return with_digests(one), with_digests(other)
