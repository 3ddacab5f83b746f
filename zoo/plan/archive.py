"""Bundles that are published as one zip file: which members are wanted, and what of the archive must travel. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from zoo.archive import ArchiveMember, common_top
from zoo.catalog import Entry
from zoo.digests import Digests
from zoo.lock import Lock, LockedArchive, LockedFile, Member, make_lock
from zoo.manifest import manifest_digest
from zoo.plan.actions import Extract
from zoo.plan.lock import assign, borrowed_weights, bundle_path, is_by_the_way, one_form, refuse, with_known

PACKED_PREFIX = "packed-"
"""Names of interrupted fetches of single members, before the sha256 of the file they unpack to."""

MEMBERS_SHARE = 0.9
"""Members are fetched one by one if they are less than this share of the archive: each costs a request of its own."""

How = Literal["here", "whole", "members"]
"""The archive is on this disk, or travels whole, or only the wanted members travel."""


@dataclass(frozen=True, slots=True)
class ArchivePlan:
    """What of an archive travels, so that files can be unpacked from it.

    Attributes:
        archive: which one.
        how: what travels.
        have: bytes that lie on this disk from an interrupted fetch.
        size: bytes that travel.
        local: absolute path of a proven copy outside the folder.
    """

    archive: LockedArchive
    how: How
    have: int = 0
    size: int = 0
    local: str | None = None

    def bytes_to_bring(self, files: Iterable[LockedFile]) -> int:
        """Packed bytes of the archive, or of those `files` that are fetched packed: what progress counts up to."""
        if self.how != "members":
            return self.have + self.size
        members = [file.member for file in files if file.member is not None]
        return sum(member.packed for member in members if member.method == "deflated")

    def as_json(self) -> dict[str, Any]:
        """For programs; see docs/pull.md."""
        return {
            "url": self.archive.url,
            "size": self.archive.size,
            "sha256": self.archive.sha256,
            "how": self.how,
            "have": self.have,
            "bytes_to_move": self.size,
            "local": self.local,
        }


def packed_name(file: LockedFile) -> str:
    """Under which name the packed bytes of a single member arrive."""
    return f"{PACKED_PREFIX}{file.sha256}"


def archive_partials(lock: Lock) -> set[str]:
    """The names under which bytes of a lock's archive may lie among the interrupted fetches."""
    if lock.archive is None or lock.archive.sha256 is None:
        return set()
    return {lock.archive.sha256, *(packed_name(file) for file in lock.files if file.member is not None)}


def plan_archive(
    archive: LockedArchive | None,
    extracts: Sequence[Extract],
    partials: Mapping[str, int],
    candidates: Mapping[str, tuple[str, ...]],
) -> ArchivePlan | None:
    """Decide what of an archive travels; None if nothing is unpacked from it.

    Args:
        archive: the lock's.
        extracts: the files that are unpacked from it.
        partials: bytes of interrupted fetches by name.
        candidates: absolute paths elsewhere on this disk by sha256, proven to have it, best first.
    """
    if archive is None or archive.sha256 is None or not extracts:
        return None
    needed = [extract for extract in extracts if partials.get(extract.file.sha256 or "") != extract.file.size]
    have = partials.get(archive.sha256, 0)
    have = have if have <= archive.size else 0
    if not needed or have == archive.size:
        return ArchivePlan(archive, "here", have)
    if elsewhere := candidates.get(archive.sha256, ()):
        return ArchivePlan(archive, "here", 0, 0, elsewhere[0])
    packed = had = 0
    for extract in needed:
        assert extract.file.member is not None
        packed += extract.file.member.packed
        had += min(partials.get(packed_name(extract.file), 0), extract.file.member.packed)
    if packed - had < (archive.size - have) * MEMBERS_SHARE:
        return ArchivePlan(archive, "members", had, packed - had)
    return ArchivePlan(archive, "whole", have, archive.size - have)


@dataclass(frozen=True, slots=True)
class ArchiveContents:
    """Which members of an archive are an entry's files.

    Attributes:
        top: the folder of the archive that everything lies in, with a slash at its end; empty if there is none.
        members: by bundle path.
        left_out: names of other members, sorted.
    """

    top: str
    members: Mapping[str, ArchiveMember]
    left_out: tuple[str, ...]


def archive_contents(entry: Entry, members: Sequence[ArchiveMember], *, where: str) -> ArchiveContents:
    """Find the files of an entry among the members of an archive.

    If everything lies in one folder that is no part of the bundle, the bundle is what lies in that folder.

    Raises:
        InvalidDocument: something required is missing.
    """
    names = {member.name: member for member in members}
    top = common_top(names)
    if any(bundle_path(entry, name) is not None for name in names):
        top = ""
    found = {
        path: member
        for name, member in names.items()
        if (path := bundle_path(entry, name.removeprefix(top))) is not None
    }
    assignment = assign(entry, found)
    refuse(assignment, entry, where, ignore_extra=True)
    chosen = {path: found[path] for path in one_form(assignment)}
    used = {member.name for member in chosen.values()}
    left_out = (name for name in names if name not in used and not is_by_the_way(name.removeprefix(top)))
    return ArchiveContents(top, chosen, tuple(sorted(left_out)))


def lock_from_archive(
    entry: Entry,
    archive: LockedArchive | None,
    contents: ArchiveContents,
    digests: Mapping[str, Digests],
    *,
    known: Lock | None = None,
) -> Lock:
    """The lock of a bundle as an archive has it.

    Args:
        entry: what it should be.
        archive: the archive, or None for one that is published nowhere: then the files have no place.
        contents: which members are its files.
        digests: of the unpacked bytes, by bundle path.
        known: an earlier lock; places of the same bytes and provenance are taken over.

    Raises:
        UnsafePath: paths that are one on some file system.
    """
    files = []
    for path, member in contents.members.items():
        part = entry.owner_of(path)
        assert part is not None
        found = digests[path]
        place = Member(name=member.name, offset=member.offset, packed=member.packed, method=member.method)
        files.append(
            LockedFile(
                path=path,
                component=part.name,
                size=found.size,
                sha256=found.sha256,
                xxh3=found.xxh3,
                member=place if archive is not None else None,
            )
        )
    files += borrowed_weights(entry, files)
    lock = make_lock(entry.id, manifest_digest(entry.manifest), files, archive=archive)
    return lock if known is None else with_known(lock, known)


def find_members(
    locks: Iterable[Lock], wanted: Iterable[str | None]
) -> tuple[LockedArchive | None, dict[str, Member]]:
    """The archive that has most of the wanted bytes, and where in it they lie, by sha256.

    Args:
        locks: what is known.
        wanted: sha256 of the bytes that are looked for.
    """
    looked_for = set(wanted)
    best: tuple[LockedArchive | None, dict[str, Member]] = (None, {})
    for lock in locks:
        found = {
            file.sha256: file.member
            for file in lock.files
            if file.member is not None and file.sha256 is not None and file.sha256 in looked_for
        }
        if lock.archive is not None and len(found) > len(best[1]):
            best = (lock.archive, found)
    return best
