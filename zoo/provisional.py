"""Provisional locks of entries that were made before this zoo: names and expected sizes, no digests.

    python -m zoo.provisional            write manifests/<entry>.lock.json and docs/provisional-locks.md
    python -m zoo.provisional --check    exit with 1 if they are stale

For nine entries the Swift app has a hand-written file list. The lists, as they were when this zoo took over, and what
is known to be wrong in them are data: `tests/data/app_lists.json` and `tests/data/app_lists_corrections.toml`. What is
expected of the other entries is in `tests/data/expected_sizes.toml`, see `zoo.expectations`. An entry whose lock has
digests is left alone: the real lock replaces the provisional one, never the other way round.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from zoo.catalog import Catalog, Entry, load_catalog
from zoo.documents import parse_json, read_bytes, write_atomically
from zoo.errors import InvalidDocument, ZooError
from zoo.expectations import Expectations, ExpectedPart, expected_files, expected_parts, load_expectations
from zoo.lock import Lock, LockedArchive, LockedFile, dump_lock, make_lock
from zoo.manifest import manifest_digest
from zoo.paths import path_pattern
from zoo.plan.lock import assign, borrowed_weights

ROOT = Path(__file__).parent.parent
"""A source checkout; an installed zoo carries neither the lists nor the page."""

LISTS = "tests/data/app_lists.json"
CORRECTIONS = "tests/data/app_lists_corrections.toml"
EXPECTED = "tests/data/expected_sizes.toml"
PAGE = "docs/provisional-locks.md"

NOT_LISTED = "the app links it, after its download, from"
"""Why a provisional lock has weights that the app's list lacks."""


class Correction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that is known to be wrong in the lists.

    Attributes:
        entries: in the lists of which entries.
        path: of the file in the bundle; `*` stands for anything but `/`.
        size: what it should be, bytes.
        drop: or: the file should not be listed at all.
        reason: how it is known.
    """

    entries: tuple[str, ...]
    path: str
    reason: str
    size: int | None = None
    drop: bool = False


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One line of the app's list: path in the repo, path in the bundle, estimated bytes."""

    remote: str
    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between the app's list and the provisional lock.

    Attributes:
        path: in the bundle.
        listed: bytes in the list; None for a file that it lacks.
        locked: bytes in the lock; None for a file that is not in the lock.
        reason: why.
    """

    path: str
    listed: int | None
    locked: int | None
    reason: str


def load_lists(path: Path) -> dict[str, tuple[ListedFile, ...]]:
    """The app's lists by entry, in download order.

    Raises:
        InvalidDocument: not a table of lists of [remote path, path, bytes].
    """
    try:
        rows = msgspec.convert(parse_json(read_bytes(path), where=str(path)), dict[str, list[tuple[str, str, int]]])
    except msgspec.ValidationError as error:
        raise InvalidDocument(f"{path}: {error}") from None
    return {entry: tuple(ListedFile(*row) for row in listed) for entry, listed in rows.items()}


def load_corrections(path: Path) -> tuple[Correction, ...]:
    """What is known to be wrong in the lists.

    Raises:
        InvalidDocument: malformed TOML or content.
    """
    try:
        data: dict[str, Any] = tomllib.loads(read_bytes(path).decode("utf-8"))
        corrections = msgspec.convert(data.get("correction", []), tuple[Correction, ...])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise InvalidDocument(f"{path}: {error}") from None
    for correction in corrections:
        if (correction.size is None) != correction.drop:
            raise InvalidDocument(f"{path}: {correction.path}: give `size` or `drop = true`")
    return corrections


def provisional_lock(
    entry: Entry, listed: Iterable[ListedFile], corrections: Iterable[Correction]
) -> tuple[Lock, tuple[Change, ...]]:
    """The provisional lock of an entry, and every way in which it is not the app's list.

    Args:
        entry: the entry; its manifest must say of every listed file whose it is and where the repo keeps it.
        listed: the app's list.
        corrections: what is known to be wrong in it; those of other entries are passed over.

    Raises:
        InvalidDocument: the list and the manifest disagree, or a correction corrects nothing.
    """
    files: dict[str, LockedFile] = {}
    for line in listed:
        part = entry.owner_of(line.path)
        if part is None:
            raise InvalidDocument(f"{entry.id}: {line.path}: listed by the app, but no component owns it")
        if part.remote_path(line.path) != line.remote:
            raise InvalidDocument(
                f"{entry.id}: {line.path}: the app fetches {line.remote}, the manifest says"
                f" {part.remote_path(line.path)}"
            )
        files[line.path] = LockedFile(path=line.path, component=part.name, size=line.size)
    changes: list[Change] = []
    for correction in corrections:
        if entry.id in correction.entries:
            changes += _correct(entry, files, correction)
    for file in borrowed_weights(entry, files.values()):
        files[file.path] = file
        lender = entry.part(file.component).weights
        changes.append(Change(file.path, None, file.size, f"{NOT_LISTED} {lender}"))
    assignment = assign(entry, files)
    if assignment.missing:
        raise InvalidDocument(f"{entry.id}: the app's list lacks {', '.join(assignment.missing)}")
    return make_lock(entry.id, manifest_digest(entry.manifest), files.values()), tuple(changes)


def _correct(entry: Entry, files: dict[str, LockedFile], correction: Correction) -> list[Change]:
    """Apply a correction to `files`, and say what it changed."""
    pattern = path_pattern(correction.path)
    changes = []
    for path in sorted(path for path in files if pattern.fullmatch(path)):
        listed = files[path].size
        if correction.size is None:
            del files[path]
        elif correction.size != listed:
            files[path] = msgspec.structs.replace(files[path], size=correction.size)
        else:
            continue
        changes.append(Change(path, listed, correction.size, correction.reason))
    if not changes:
        raise InvalidDocument(f"{entry.id}: the correction of {correction.path} corrects nothing; delete it")
    return changes


def documents(catalog: Catalog, root: Path) -> dict[Path, bytes]:
    """The generated files and their bytes: provisional locks where there is no real one, and the page about them.

    Args:
        catalog: the zoo in `root`.
        root: a source checkout.

    Raises:
        InvalidDocument: the data is wrong; see `provisional_lock`.
    """
    corrections = load_corrections(root / CORRECTIONS)
    found: dict[Path, bytes] = {}
    locks: dict[str, Lock] = {}
    sections = []
    lists = load_lists(root / LISTS)
    for entry in sorted((catalog.get(name) for name in lists), key=lambda entry: entry.manifest.order):
        locks[entry.id], changes = provisional_lock(entry, lists[entry.id], corrections)
        sections.append(_section(entry, len(lists[entry.id]), locks[entry.id], changes))
    expectations = load_expectations(root / EXPECTED)
    sections.append(_OTHERS)
    others = sorted(map(catalog.get, expectations.entries()), key=lambda entry: (entry.manifest.order, entry.id))
    for entry in others:
        lock, parts = _expected_lock(catalog, entry.id, expectations, locks)
        sections.append(_expected_section(entry, lock, parts, expectations))
    for name, lock in locks.items():
        if not _has_real_lock(entry := catalog.get(name)):
            found[entry.lock_file] = dump_lock(lock)
    found[root / PAGE] = "\n\n".join([_INTRODUCTION, *sections]).encode() + b"\n"
    return found


def _expected_lock(
    catalog: Catalog, name: str, expectations: Expectations, locks: dict[str, Lock]
) -> tuple[Lock, tuple[ExpectedPart, ...]]:
    """The provisional lock of an entry without a list; `locks` gets it and those that it rests on."""

    def lock_of(other: str) -> tuple[Entry, Lock | None]:
        if other not in locks and other in expectations.entries():
            _expected_lock(catalog, other, expectations, locks)
        return catalog.get(other), locks.get(other)

    entry = catalog.get(name)
    parts = expected_parts(entry, expectations, lock_of)
    files = list(expected_files(parts))
    files += borrowed_weights(entry, files)
    assignment = assign(entry, [file.path for file in files])
    if assignment.missing:
        raise InvalidDocument(f"{entry.id}: nothing is known of {', '.join(assignment.missing)}")
    archive = expectations.archive_of(name)
    url = entry.manifest.archive.url if entry.manifest.archive is not None else None
    if (archive is None) != (url is None):
        raise InvalidDocument(f"{entry.id}: only an entry that is one zip file has the size of one")
    locked = LockedArchive(url=url, size=archive.size) if archive is not None and url is not None else None
    locks[name] = make_lock(entry.id, manifest_digest(entry.manifest), files, archive=locked)
    return locks[name], parts


def _has_real_lock(entry: Entry) -> bool:
    try:
        return entry.lock is not None and not entry.lock.provisional
    except InvalidDocument:  # written by hand or merged badly; it is made again
        return False


_INTRODUCTION = """# Provisional locks

<!-- Written by `python -m zoo.provisional`; a test checks that it is current. -->

All entries were made before this zoo existed, and their digests can only come from the Hub, or from a folder that has
them. Until somebody runs `zoo lock ENTRY --from-hub` or `--from DIR`, or `zoo push ENTRY`, their locks are
*provisional*: which files there are, with the sizes they are expected to have. Such a lock can be shown, compared and
planned with; it names no place to fetch from, because a branch is not a place.

For nine entries the Swift app has hand-written lists. They are in `tests/data/app_lists.json` as they were. What is
known to be wrong in them is below and in `tests/data/app_lists_corrections.toml`. All other sizes are the app's; many
are rounded."""

_OTHERS = """# Entries without a list

Their files are those that the manifests name; optional components of which nothing is known are left out. Sizes are
those of components with the same bytes or the same shapes, and a few that are written down in
`tests/data/expected_sizes.toml`."""


def _section(entry: Entry, listed: int, lock: Lock, changes: Iterable[Change]) -> str:
    lines = [
        f"## {entry.id}",
        "",
        f"{listed} files in the app's list, {len(lock.files)} in the lock, {lock.size:,} bytes.",
    ]
    rows = [
        f"| `{change.path}` | {_bytes(change.listed)} | {_bytes(change.locked)} | {change.reason} |"
        for change in changes
    ]
    if rows:
        lines += ["", "| file | app's list | lock | why |", "|---|--:|--:|---|", *rows]
    return "\n".join(lines)


def _expected_section(entry: Entry, lock: Lock, parts: Iterable[ExpectedPart], expectations: Expectations) -> str:
    lines = [f"## {entry.id}", "", f"{len(lock.files)} files in the lock, {lock.size:,} bytes."]
    if (archive := expectations.archive_of(entry.id)) is not None:
        lines += ["", f"The zip file has {archive.size:,} bytes: {archive.reason}."]
    rows = [f"| {part.component} | {len(part.sizes)} | {part.size:,} | {part.reason} |" for part in parts]
    return "\n".join([*lines, "", "| component | files | bytes | how that is known |", "|---|--:|--:|---|", *rows])


def _bytes(size: int | None) -> str:
    return "-" if size is None else f"{size:,}"


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Write the files, or check them; returns the exit code."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        generated = documents(load_catalog(root / "manifests"), root)
    except ZooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    stale = [path for path, data in generated.items() if not path.is_file() or path.read_bytes() != data]
    for path in stale:
        if arguments:
            print(f"{path}: stale; run `python -m zoo.provisional`", file=sys.stderr)
        else:
            write_atomically(path, generated[path])
            print(f"written: {path}")
    return 1 if arguments and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
