"""Which files of a catalog are the same bytes, and how that is known."""

from __future__ import annotations

from collections.abc import Iterable

from zoo.catalog import Entry, Part
from zoo.lock import LockedFile
from zoo.plan.lock import is_weights

Declared = tuple[str, ...]
"""Whose bytes the manifests say a file has: entry, component, name in it."""


def identical_groups(entries: Iterable[Entry]) -> dict[tuple[str, str], str]:
    """Name every set of files that are the same bytes.

    Equal sha256 is what makes files equal. A file without one (its lock is provisional) counts as what its manifest
    says it is: a `share` of another entry's component, or `weights` that another component lends; where even the
    expected sizes disagree, it counts as a file of its own.

    Args:
        entries: in picker order; those without a lock have no files.

    Returns:
        By (entry, path): `entry/path` of the first file, in picker order, that has the same bytes. Files that are
        like no other are not in it.
    """
    files = [(entry, file) for entry in entries if entry.lock is not None for file in entry.lock.files]
    declared = {(entry.id, file.path): _declared(entry, file) for entry, file in files}
    digests = {
        declared[entry.id, file.path]: (file.sha256, file.size)
        for entry, file in files
        if (entry.id, file.component) == declared[entry.id, file.path][:2]
    }
    members: dict[Declared, list[tuple[str, str]]] = {}
    for entry, file in files:
        place = (entry.id, file.path)
        sha256, size = digests.get(declared[place], (None, 0))
        digest = file.sha256 or (sha256 if size == file.size else None)
        key = (*declared[place], str(file.size)) if digest is None else (digest,)
        members.setdefault(key, []).append(place)
    return {place: "/".join(places[0]) for places in members.values() if len(places) > 1 for place in places}


def _declared(entry: Entry, file: LockedFile) -> Declared:
    part = entry.owner_of(file.path)
    if part is None:
        return entry.id, "", file.path
    if part.model is None:
        return part.origin_entry, part.origin_name, _name_of_sidecar(part, file.path)
    name = file.path.removeprefix(part.model)
    if part.weights is not None and is_weights(file.path):
        part = entry.part(part.weights)
    return part.origin_entry, part.origin_name, name


def _name_of_sidecar(part: Part, path: str) -> str:
    """A share may keep a file in another folder, so the last name counts; the whole path where that is ambiguous."""
    names = [other.rsplit("/", 1)[-1] for other in part.files]
    name = path.rsplit("/", 1)[-1]
    return name if names.count(name) == 1 else path
