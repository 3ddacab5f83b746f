"""Bytes that need not travel because they are on this disk already.

A *provider* knows a kind of place and claims: this file may have these bytes. A claim proves nothing; the file is
read (or its digest remembered from an earlier reading) before anything is linked to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.digests import DigestCache, hash_files
from zoo.errors import DiskError, InvalidDocument, UnsafePath, UsageError
from zoo.events import Progress, Silent
from zoo.folder import list_folder
from zoo.lock import LockedFile, load_lock
from zoo.receipt import load_receipt, receipt_path


@dataclass(frozen=True, slots=True)
class Claim:
    """A file that may have wanted bytes.

    Attributes:
        path: where it lies.
        sha256: what it is said to be; None if only its size fits.
        origin: who says so, for notes: `gemma4-e2b`, `build/gemma4-e4b`, a folder.
    """

    path: Path
    sha256: str | None
    origin: str


Wanted = Mapping[str, int]
"""sha256 of the bytes that are looked for -> their size."""

Provider = Callable[[Wanted], Iterable[Claim]]


def wanted_contents(files: Iterable[LockedFile]) -> dict[str, int]:
    """What to look for, so that `files` need not be fetched."""
    return {file.sha256: file.size for file in files if file.sha256 is not None and file.size > 0}


def installed_folders(models: Path, *, but: Path) -> Provider:
    """Claims of the receipts of all folders under `models`, except the folder `but`."""

    def claims(wanted: Wanted) -> Iterable[Claim]:
        for folder in _subfolders(models):
            if not receipt_path(folder).is_file() or folder.resolve() == but.resolve():
                continue
            try:
                receipt = load_receipt(folder)
            except (InvalidDocument, UnsafePath, DiskError):
                # Somebody else's damaged folder must not stop this pull; `zoo verify` reports it.
                continue
            for installed in receipt.entries.values():
                for file in installed.files:
                    if file.sha256 in wanted:
                        yield Claim(folder / file.path, file.sha256, folder.name)

    return claims


def local_builds(directory: Path) -> Provider:
    """Claims of the locks of builds: `<directory>/<id>.lock.json` beside or inside `<directory>/<id>/`."""

    def claims(wanted: Wanted) -> Iterable[Claim]:
        for path in sorted([*directory.glob("*.lock.json"), *directory.glob("*/*.lock.json")]):
            try:
                lock = load_lock(path)
            except (InvalidDocument, UnsafePath, DiskError):
                continue
            folder = path.parent if path.parent.name == lock.entry else path.parent / lock.entry
            for file in lock.files:
                if file.sha256 in wanted:
                    yield Claim(folder / file.path, file.sha256, str(folder))

    return claims


def any_folder(directory: Path) -> Provider:
    """Every file under `directory` whose size is that of a wanted one; all of them are read. Or one file, an archive.

    Raises:
        UsageError: there is no such folder.
    """
    if directory.is_file():
        return lambda _: [Claim(directory, None, str(directory))]
    if not directory.is_dir():
        raise UsageError(f"--from {directory}: no such folder")

    def claims(wanted: Wanted) -> Iterable[Claim]:
        sizes = set(wanted.values())
        files, _ = list_folder(directory)
        for path, file in sorted(files.items()):
            place = directory / path
            if not file.regular:
                # Model caches are full of links; what counts is the file behind one.
                place = Path(os.path.realpath(place))
            if place.is_file() and place.stat().st_size in sizes:
                yield Claim(place, None, str(directory))

    return claims


def cached_archives(directory: Path) -> Provider:
    """Claims of the archives that `zoo lock` has downloaded: `<sha256>.zip`."""

    def claims(wanted: Wanted) -> Iterable[Claim]:
        for sha256 in wanted:
            yield Claim(directory / f"{sha256}.zip", sha256, str(directory))

    return claims


def _subfolders(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.is_dir())
    except OSError:
        return []


@dataclass(frozen=True)
class Findings:
    """Which wanted bytes are where, proven; and claims that turned out wrong."""

    found: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()


def find_candidates(
    wanted: Wanted,
    providers: Sequence[Provider],
    *,
    cache: DigestCache | None = None,
    progress: Progress | None = None,
) -> Findings:
    """Ask all providers and prove what they claim.

    Claims with a digest are read one per content until one holds; claims by size alone are all read, but only if
    something is still missing.

    Args:
        wanted: what is looked for.
        providers: in order of preference.
        cache: remembered digests.
        progress: told about bytes as they are read.
    """
    claims = [claim for provider in providers for claim in provider(wanted) if _fits(claim, wanted)]
    named: dict[str, list[Claim]] = {}
    for claim in claims:
        if claim.sha256 is not None:
            named.setdefault(claim.sha256, []).append(claim)
    found: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    while named:
        first = {sha256: queue.pop(0) for sha256, queue in named.items()}
        proven = _digests([claim.path for claim in first.values()], cache, progress)
        for sha256, claim in first.items():
            place = claim.path.resolve()
            if proven.get(claim.path) == sha256:
                found[sha256] = (str(place),)
            else:
                notes.append(f"{place} is not what {claim.origin} says it is; not used")
        named = {sha256: queue for sha256, queue in named.items() if queue and sha256 not in found}
    missing_sizes = {size for sha256, size in wanted.items() if sha256 not in found}
    unnamed = [c.path for c in claims if c.sha256 is None and c.path.stat().st_size in missing_sizes]
    for path, sha256 in _digests(unnamed, cache, progress).items():
        if sha256 in wanted:
            found.setdefault(sha256, (str(path.resolve()),))
    return Findings(found, tuple(notes))


def _fits(claim: Claim, wanted: Wanted) -> bool:
    try:
        size = claim.path.stat().st_size
    except OSError:
        return False
    if not claim.path.is_file():
        return False
    return size == wanted.get(claim.sha256, -1) if claim.sha256 is not None else size in wanted.values()


def _digests(paths: Iterable[Path], cache: DigestCache | None, progress: Progress | None) -> dict[Path, str]:
    readable = sorted({path for path in paths if os.access(path, os.R_OK)})
    if not readable:
        return {}
    progress = progress or Silent()
    item = "elsewhere on this disk"
    progress.start(item, sum(path.stat().st_size for path in readable))
    try:
        digests = hash_files(readable, cache=cache, on_bytes=lambda count: progress.advance(item, count))
    finally:
        progress.finish(item)
    return {path: found.sha256 for path, found in digests.items()}
