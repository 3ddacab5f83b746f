"""Reads folders and has them judged: installed entries by receipt and lock, any folder by a lock file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.catalog import Catalog
from zoo.digests import DigestCache, Digests
from zoo.errors import CheckFailed, DiskError
from zoo.events import Progress
from zoo.folder import FolderState, read_state
from zoo.lock import Lock, LockedFile, load_lock, lock_digest
from zoo.plan.absent import forbidden
from zoo.plan.verify import Expected, Verdict, judge, orphan_warnings
from zoo.receipt import Installed, load_receipt, receipt_path
from zoo.selection import Selection, select


@dataclass(frozen=True)
class Reading:
    """How files are read.

    Attributes:
        cache: remembered digests; filled by what is read.
        full: read every byte, whatever is remembered.
        progress: told about bytes as they are read.
    """

    cache: DigestCache | None = None
    full: bool = False
    progress: Progress | None = None


def installed_entries(models: Path) -> dict[str, Path]:
    """Every installed entry and its folder.

    Raises:
        InvalidDocument: a damaged receipt.
    """
    try:
        folders = sorted(path for path in models.iterdir() if receipt_path(path).is_file()) if models.is_dir() else []
    except OSError as error:
        raise DiskError(f"{models}: cannot be read: {error.strerror}") from None
    return {entry: folder for folder in folders for entry in sorted(load_receipt(folder).entries)}


def verify_folder(folder: Path, entries: Sequence[str], catalog: Catalog | None, reading: Reading) -> list[Verdict]:
    """Check installed entries of one folder; their files are read once.

    Args:
        folder: an installed folder.
        entries: which of them; empty for all.
        catalog: for the current locks; None checks against the receipt alone.
        reading: how.

    Raises:
        CheckFailed: an entry is not installed there.
        InvalidDocument, UnsafePath, DiskError: the receipt is damaged, or something cannot be read.
    """
    receipt = load_receipt(folder)
    for entry in entries:
        if entry not in receipt.entries:
            raise CheckFailed(f"{entry} is not installed in {folder}", hint=f"zoo pull {entry}")
    chosen = entries or sorted(receipt.entries)
    expected = {entry: expected_files(entry, receipt.entries[entry], catalog) for entry in chosen}
    state = _read(folder, [file for files, _ in expected.values() for file in files], reading)
    absent = {entry: absent_patterns(entry, catalog) for entry in chosen}
    known = [file.path for files, _ in expected.values() for file in files]
    known += forbidden([pattern for patterns in absent.values() for pattern in patterns], state.files)
    strangers = orphan_warnings(state, known)
    verdicts = []
    for index, entry in enumerate(chosen):
        files, warnings = expected[entry]
        # A stranger in a shared folder is told of once.
        told = (*warnings, *(strangers if not index else ()))
        verdicts.append(judge(entry, str(folder), files, state, absent=absent[entry], warnings=told))
    return verdicts


def absent_patterns(entry: str, catalog: Catalog | None) -> tuple[str, ...]:
    """What must not lie beside an entry; nothing is known of an entry that is not in the catalog."""
    entries = catalog.entries if catalog is not None else ()
    return next((other.manifest.absent for other in entries if other.id == entry), ())


def verify_lock(folder: Path, lock_file: Path, reading: Reading, catalog: Catalog | None = None) -> Verdict:
    """Check any folder, e.g. a build or a sideloaded copy, against a lock file.

    Args:
        folder: the folder.
        lock_file: says which files it should have.
        reading: how they are read.
        catalog: says what must not lie beside them, if it has the lock's entry.

    Raises:
        InvalidDocument, UnsafePath: the lock is damaged or hostile.
        DiskError: something cannot be read.
    """
    lock = load_lock(lock_file)
    if not folder.is_dir():
        raise DiskError(f"{folder}: no such folder")
    state = _read(folder, lock.files, reading)
    absent = absent_patterns(lock.entry, catalog)
    known = [*(file.path for file in lock.files), *forbidden(absent, state.files)]
    known += [path for path in state.files if path.endswith(".lock.json") and "/" not in path]
    warnings = orphan_warnings(state, known)
    return judge(lock.entry, str(folder), lock.files, state, absent=absent, warnings=warnings)


def expected_files(
    entry: str, installed: Installed, catalog: Catalog | None
) -> tuple[tuple[Expected, ...], tuple[str, ...]]:
    """The files an installed entry should have, and warnings about where that is known from."""
    found = next((other for other in catalog.entries if other.id == entry), None) if catalog is not None else None
    lock = found.lock if found is not None else None
    if found is None or lock is None:
        return installed.files, ("the zoo has no lock for it; checked against its receipt",)
    if lock_digest(lock) != installed.lock:
        return installed.files, (
            f"its lock has changed since it was installed; checked as installed, `zoo pull {entry}` updates it",
        )
    selection = Selection(installed.only, installed.without)
    return _selected(lock, selection, [part.name for part in select(found, selection)]), ()


def _selected(lock: Lock, selection: Selection, parts: Iterable[str]) -> tuple[LockedFile, ...]:
    return lock.files if selection.everything else lock.of_components(parts)


def _read(folder: Path, files: Iterable[Expected], reading: Reading) -> FolderState:
    state = read_state(folder, files, cache=None if reading.full else reading.cache, progress=reading.progress)
    if reading.full and reading.cache is not None:
        # What was just read counts from now on, also for the pull that repairs it.
        for path, file in state.files.items():
            if file.sha256 is not None and file.xxh3 is not None:
                reading.cache.trust(folder / path, Digests(file.size, file.sha256, file.xxh3))
    return state
