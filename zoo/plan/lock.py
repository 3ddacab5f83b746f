"""Making locks: from a folder's digests, from a repo's listing, from a build that was published; comparing them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from zoo.catalog import Entry, Part
from zoo.digests import Digests
from zoo.errors import CheckFailed, InvalidDocument
from zoo.lock import Lock, LockedFile, Source, make_lock
from zoo.manifest import manifest_digest
from zoo.paths import MODEL_SUFFIXES, STATE_DIRECTORY, model_folder
from zoo.plan.remote import Listing, RemoteFile

LISTED_NAMES = 8
"""How many names an error spells out before it says how many more there are."""

REPO_FILES = frozenset(
    {"README.md", "zoo.json", "NOTICE", "LICENSE", "LICENSE.txt", "LICENSE.md", ".gitattributes", ".gitignore"}
)
"""Files that belong to a repo and its page, not to a bundle. A folder that `hf download` made has them too."""

_NOT_OURS = (f"{STATE_DIRECTORY}/", ".cache/", ".git/")
_NOT_OURS_NAMES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which component each path of a folder or repo belongs to.

    Attributes:
        owners: component by bundle path.
        unknown: paths that no component owns, sorted.
        missing: what required components lack: files, or model folders without suffix.
        twice: model folders that are there both as .mlpackage and as .mlmodelc, without suffix.
    """

    owners: dict[str, str]
    unknown: tuple[str, ...]
    missing: tuple[str, ...]
    twice: tuple[str, ...]


def assign(entry: Entry, paths: Iterable[str]) -> Assignment:
    """Assign bundle paths to the components of an entry. Files of the repo's page and of tools are passed over."""
    owners: dict[str, str] = {}
    unknown: list[str] = []
    for path in sorted(paths):
        part = entry.owner_of(path)
        if part is not None:
            owners[path] = part.name
        elif not is_by_the_way(path):
            unknown.append(path)
    forms: dict[str, set[str]] = {}
    for path in owners:
        folder = model_folder(path)
        if folder is not None:
            stem, _, suffix = folder.rpartition(".")
            forms.setdefault(stem, set()).add(suffix)
    missing = [lack for part in entry.parts for lack in _lacks(part, owners)]
    twice = tuple(stem for stem, suffixes in sorted(forms.items()) if len(suffixes) > 1)
    return Assignment(owners, tuple(unknown), tuple(missing), twice)


def is_by_the_way(path: str) -> bool:
    """Whether a file lies in bundle folders and repos without being part of a bundle."""
    return path in REPO_FILES or path.startswith(_NOT_OURS) or path.rsplit("/", 1)[-1] in _NOT_OURS_NAMES


def _lacks(part: Part, owners: Mapping[str, str]) -> Iterable[str]:
    """What a component lacks. An optional one may lack everything, but not a part."""
    if part.model is not None:
        if part.required and part.name not in owners.values():
            yield part.model
        return
    lacking = [path for path in part.files if path not in owners]
    if part.required or len(lacking) < len(part.files):
        yield from (path for path in lacking if path not in part.optional)


def lock_from_folder(
    entry: Entry,
    found: Mapping[str, Digests],
    *,
    provenance: dict[str, str] | None = None,
    ignore_extra: bool = False,
    where: str,
) -> Lock:
    """The lock of a bundle that lies in a folder.

    Args:
        entry: what it should be.
        found: digests by bundle path.
        provenance: how the bytes came to be.
        ignore_extra: leave files out that no component owns, instead of refusing.
        where: the folder, for messages.

    Raises:
        InvalidDocument: files that no component owns, or something that is missing.
        UnsafePath: file names that are not portable.
    """
    assignment = assign(entry, found)
    refuse(assignment, entry, where, ignore_extra=ignore_extra)
    chosen = one_form(assignment)
    files = [
        LockedFile(path=path, component=name, size=found[path].size, sha256=found[path].sha256, xxh3=found[path].xxh3)
        for path, name in chosen.items()
    ]
    return make_lock(entry.id, manifest_digest(entry.manifest), files, provenance)


def one_form(assignment: Assignment) -> dict[str, str]:
    """Owners without the `.mlpackage` of models that are there compiled as well."""
    left_out = tuple(f"{stem}.mlpackage/" for stem in assignment.twice)
    return {path: name for path, name in assignment.owners.items() if not path.startswith(left_out or ("\0",))}


def refuse(assignment: Assignment, entry: Entry, where: str, *, ignore_extra: bool) -> None:
    """Refuse a folder, repo or archive that is not the entry.

    Raises:
        InvalidDocument: something is missing; unless `ignore_extra`, also files of no component and models twice.
    """
    if assignment.missing:
        raise InvalidDocument(
            f"{where}: {entry.id} is not complete: {_some(assignment.missing)} missing",
            hint="build it again, or give the component `required = false` in the manifest",
        )
    if assignment.unknown and not ignore_extra:
        raise InvalidDocument(
            f"{where}: no component of {entry.id} owns {_some(assignment.unknown)}",
            hint="name them in the manifest, delete them, or leave them out with --ignore-extra",
        )
    if assignment.twice and not ignore_extra:
        raise InvalidDocument(
            f"{where}: {_some(assignment.twice)} there both as .mlpackage and as .mlmodelc",
            hint="delete one of them, or take the .mlmodelc with --ignore-extra",
        )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:LISTED_NAMES])
    more = len(names) - LISTED_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


def bundle_path(entry: Entry, remote: str) -> str | None:
    """The bundle path that a path in the repo stands for, or None: the inverse of `Part.remote_path`."""
    for part in entry.parts:
        if part.model is None:
            for path in part.files:
                if part.remote_path(path) == remote:
                    return path
            continue
        stem = part.remote or part.model
        for suffix in MODEL_SUFFIXES:
            if remote.startswith(f"{stem}{suffix}/"):
                return part.model + remote.removeprefix(stem)
    return None


def remote_paths(entry: Entry, lock: Lock) -> dict[str, str]:
    """Where the repo keeps each file of a lock, by bundle path.

    Raises:
        InvalidDocument: a component of the lock is not in the manifest (any more).
    """
    parts = {part.name: part for part in entry.parts}
    found: dict[str, str] = {}
    for file in lock.files:
        part = parts.get(file.component)
        if part is None:
            raise InvalidDocument(
                f"{entry.id}: {file.path} is locked for component {file.component!r}, which the manifest lacks",
                hint=f"run `zoo build {entry.id}` again",
            )
        found[file.path] = part.remote_path(file.path)
    return found


def bundle_listing(entry: Entry, listing: Listing) -> dict[str, RemoteFile]:
    """The files of a repo that are part of the bundle, by bundle path; one form of each model (.mlmodelc first)."""
    found = {path: file for file in listing.files if (path := bundle_path(entry, file.path)) is not None}
    chosen = one_form(assign(entry, found))
    return {path: found[path] for path in chosen}


def lock_from_hub(
    entry: Entry,
    listing: Listing,
    read: Mapping[str, Digests],
    *,
    known: Lock | None = None,
) -> Lock:
    """The lock of a bundle as a repo has it at a commit.

    Args:
        entry: what it should be.
        listing: the repo at the commit.
        read: digests of the files that git itself keeps, by path in the repo; the Hub tells only a sha1 of those.
        known: an earlier lock; XXH3 and provenance are taken from it where sha256 is the same.

    Raises:
        InvalidDocument: something required is missing.
        UnsafePath: the repo has paths that could leave a folder.
    """
    assert listing.commit is not None
    found = bundle_listing(entry, listing)
    where = f"{listing.repo}@{listing.commit[:7]}"
    refuse(assign(entry, found), entry, where, ignore_extra=True)
    files = []
    for path, file in found.items():
        digests = read.get(file.path)
        part = entry.owner_of(path)
        assert part is not None
        files.append(
            LockedFile(
                path=path,
                component=part.name,
                size=file.size if digests is None else digests.size,
                sha256=file.sha256 if digests is None else digests.sha256,
                xxh3=None if digests is None else digests.xxh3,
                sources=(Source(repo=listing.repo, commit=listing.commit, path=file.path),),
            )
        )
    files += borrowed_weights(entry, files)
    lock = make_lock(entry.id, manifest_digest(entry.manifest), files)
    return lock if known is None else with_known(lock, known, sources=False)


def borrowed_weights(entry: Entry, files: Iterable[LockedFile]) -> list[LockedFile]:
    """The weights of models that are there without: the same bytes as those of the component that `weights` names.

    Args:
        entry: whose components they are.
        files: what there is.
    """
    paths: dict[str, list[LockedFile]] = {}
    for file in files:
        paths.setdefault(file.component, []).append(file)
    borrowed = []
    for part in entry.parts:
        here = {file.path for file in paths.get(part.name, ())}
        if part.weights is None or part.model is None or not here or any(map(is_weights, here)):
            continue
        lender = entry.part(part.weights)
        assert lender.model is not None
        for file in paths.get(lender.name, ()):
            path = part.model + file.path.removeprefix(lender.model)
            if is_weights(file.path) and model_folder(path) in {model_folder(name) for name in here}:
                borrowed.append(msgspec.structs.replace(file, path=path, component=part.name))
    return borrowed


def lender_path(entry: Entry, file: LockedFile, paths: Container[str]) -> str | None:
    """The file of the same entry that lends this one its bytes, or None.

    Args:
        entry: whose file it is.
        file: of a locked component.
        paths: what else there is.
    """
    part = entry.part(file.component)
    if part.weights is None or part.model is None or not is_weights(file.path):
        return None
    lender = entry.part(part.weights)
    assert lender.model is not None
    path = lender.model + file.path.removeprefix(part.model)
    return path if path in paths else None


def is_weights(path: str) -> bool:
    """Whether the file is a model's weights, which another model may lend."""
    return path.endswith("/weights/weight.bin")


def with_known(lock: Lock, known: Lock, *, sources: bool = True) -> Lock:
    """Add what an earlier lock knows about the same bytes: sources, XXH3, and provenance if all bytes are the same.

    Args:
        lock: the new lock.
        known: the earlier one.
        sources: also take over where the bytes can be had.
    """
    archive = lock.archive or (known.archive if sources else None)
    by_digest = {file.sha256: file for file in known.files if file.sha256 is not None}
    files = []
    for file in lock.files:
        old = None if file.sha256 is None else by_digest.get(file.sha256)
        if old is not None:
            added = [source for source in old.sources if source not in file.sources] if sources else []
            member = file.member or (old.member if sources and archive == known.archive else None)
            file = msgspec.structs.replace(
                file, xxh3=file.xxh3 or old.xxh3, sources=(*file.sources, *added), member=member
            )
        files.append(file)
    same = not difference(known, lock)
    provenance = lock.provenance or (known.provenance if same else {})
    archive = archive if any(file.member is not None for file in files) else lock.archive
    return make_lock(lock.entry, lock.manifest, files, dict(provenance), archive)


def pinned(lock: Lock, repo: str, commit: str, paths: Mapping[str, str], others: Iterable[Listing]) -> Lock:
    """The lock of a published build: each file with where it was published, and where else its bytes are.

    Args:
        lock: the build's lock.
        repo: where it was published.
        commit: at which commit.
        paths: path in the repo by bundle path.
        others: other repos that were looked at; the first file of each with the same sha256 is a further source.
    """
    further: dict[str, list[Source]] = {}
    for listing in others:
        if listing.commit is None or listing.repo == repo:
            continue
        first: dict[str, str] = {}
        for remote in sorted(listing.files, key=lambda remote: remote.path):
            if remote.sha256 is not None:
                first.setdefault(remote.sha256, remote.path)
        for digest, path in first.items():
            further.setdefault(digest, []).append(Source(repo=listing.repo, commit=listing.commit, path=path))
    files = []
    for file in lock.files:
        here = Source(repo=repo, commit=commit, path=paths[file.path])
        elsewhere = {source.repo: source for source in reversed(further.get(file.sha256 or "", []))}
        more = tuple(elsewhere[name] for name in sorted(elsewhere))
        files.append(msgspec.structs.replace(file, sources=(here, *more)))
    return make_lock(lock.entry, lock.manifest, files, dict(lock.provenance), lock.archive)


@dataclass(frozen=True, slots=True)
class Difference:
    """How one lock's bundle differs from another's: paths, and for changed ones what changed."""

    added: tuple[LockedFile, ...] = ()
    removed: tuple[LockedFile, ...] = ()
    changed: tuple[tuple[LockedFile, LockedFile], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


def difference(old: Lock | None, new: Lock) -> Difference:
    """What differs in files, components, sizes and sha256. Where the bytes can be had, and XXH3, do not count."""
    before = {} if old is None else old.by_path()
    after = new.by_path()

    def essence(file: LockedFile) -> tuple[Any, ...]:
        return (file.component, file.size, file.sha256)

    return Difference(
        added=tuple(file for path, file in after.items() if path not in before),
        removed=tuple(file for path, file in before.items() if path not in after),
        changed=tuple(
            (before[path], file)
            for path, file in after.items()
            if path in before and essence(before[path]) != essence(file)
        ),
    )


def check_lock(entry: Entry, lock: Lock | None, fresh: Lock | None = None) -> None:
    """Refuse a lock that is not about the entry's manifest, or not about the bytes that `fresh` was made from.

    Raises:
        CheckFailed: naming what differs.
    """
    again = f"run `zoo lock {entry.id}` with --from DIR or --from-hub, or publish a build with `zoo push {entry.id}`"
    if lock is None:
        raise CheckFailed(f"{entry.lock_file}: there is no lock", hint=again)
    if lock.manifest != manifest_digest(entry.manifest):
        raise CheckFailed(f"{entry.lock_file}: stale: the manifest changed since it was made", hint=again)
    assignment = assign(entry, [file.path for file in lock.files])
    if assignment.missing or assignment.unknown:
        wrong = [*assignment.missing, *assignment.unknown]
        raise CheckFailed(f"{entry.lock_file}: stale: does not fit the manifest: {_some(wrong)}", hint=again)
    if fresh is None:
        return
    if fresh.archive is not None and fresh.archive != lock.archive:
        was = lock.archive.sha256 if lock.archive is not None else None
        raise CheckFailed(
            f"{entry.lock_file}: stale: the archive is another one: sha256 {fresh.archive.sha256}, locked {was}",
            hint=again,
        )
    found = difference(lock, fresh)
    if found:
        parts = [
            *(f"{file.path} (new)" for file in found.added),
            *(f"{file.path} (gone)" for file in found.removed),
            *(f"{new.path} (changed)" for _, new in found.changed),
        ]
        raise CheckFailed(f"{entry.lock_file}: stale: {_some(parts)}", hint=again)
