"""What lies around that nobody needs: orphans, stale partial fetches, leftovers of dead processes. Pure.

Whatever an installed entry owns, and whatever an interrupted pull can still use, stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from zoo.folder import PARTIAL_DIRECTORY, PARTIAL_SUFFIXES, STAGING_DIRECTORY, FolderFile, FolderState, orphans
from zoo.lock import Lock
from zoo.paths import STATE_DIRECTORY
from zoo.plan.actions import Delete, Keep, actions_json
from zoo.plan.pull import partial_names

_TEMPORARY = re.compile(r"\.(?:.+)\.(\d+)\.new")
"""Names of `zoo.links.place` for a file in the making, with the process that makes it."""


@dataclass(frozen=True)
class PruneRequest:
    """What may go.

    Attributes:
        locks: of the entries that an interrupted fetch in this folder may be for; None if they are not known, which
            keeps every interrupted fetch.
        keep: patterns of paths that stay, as shells match names (`*` also matches `/`).
        partials: interrupted fetches go too, even if they could be continued.
        alive: numbers of running processes among those that files in the making are named after.
    """

    locks: tuple[Lock, ...] | None
    keep: Sequence[str] = ()
    partials: bool = False
    alive: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Leftovers:
    """What zoo's own folder (`.zoo`) holds besides the receipt; nobody else is working in the folder.

    Attributes:
        partials: bytes of interrupted fetches by name, their `.etag` files included.
        staged: bytes of files that a killed pull had verified, by bundle path.
        temporary: bytes of files that only a dead process could still need, by path in the folder.
        installed: the folder has a receipt: zoo decides what belongs there. Without one, its files are not touched.
    """

    partials: Mapping[str, int] = field(default_factory=dict)
    staged: Mapping[str, int] = field(default_factory=dict)
    temporary: Mapping[str, int] = field(default_factory=dict)
    installed: bool = True


@dataclass(frozen=True)
class PrunePlan:
    """What will be done in one place.

    Attributes:
        actions: deletions of what goes, and a keep for everything unneeded that stays all the same.
    """

    actions: tuple[Keep | Delete, ...]

    @property
    def deletes(self) -> tuple[Delete, ...]:
        """What goes away."""
        return tuple(action for action in self.actions if isinstance(action, Delete))

    @property
    def size(self) -> int:
        """Bytes that go away; files under several names are counted each time."""
        return sum(action.size for action in self.deletes)


def plan_prune(state: FolderState, leftovers: Leftovers, request: PruneRequest) -> PrunePlan:
    """Decide what goes.

    Args:
        state: what the folder holds; no digest is needed.
        leftovers: what zoo's own folder holds.
        request: what may go.
    """
    found = [
        *(_orphans(state, request) if leftovers.installed else ()),
        *_partials(leftovers, request),
        *_staged(leftovers, request),
        *(Delete(path, size, "left by a dead process") for path, size in sorted(leftovers.temporary.items())),
    ]
    return PrunePlan(tuple(_declined(action, request.keep) for action in found))


def _declined(action: Keep | Delete, keep: Sequence[str]) -> Keep | Delete:
    if isinstance(action, Delete) and any(fnmatchcase(action.path, pattern) for pattern in keep):
        return Keep(action.path, action.size, "--keep")
    return action


def _orphans(state: FolderState, request: PruneRequest) -> Iterable[Keep | Delete]:
    owned = state.receipt.owners()
    folded = {path.casefold(): path for path in owned}
    for path, file in orphans(state).items():
        twin = folded.get(path.casefold())
        process = _TEMPORARY.fullmatch(path.rpartition("/")[2])
        if twin is not None and twin not in state.files:
            # On a file system that ignores letter case this may be the owned file itself.
            yield Keep(path, file.size, f"differs from {twin} in letter case only")
        elif process is not None and int(process[1]) in request.alive:
            yield Keep(path, file.size, f"process {process[1]} may be writing it")
        else:
            yield Delete(path, file.size, _orphan_reason(file))


def _orphan_reason(file: FolderFile) -> str:
    return "no entry owns it" if file.regular else "no entry owns it; not a regular file"


def _partials(leftovers: Leftovers, request: PruneRequest) -> Iterable[Keep | Delete]:
    needed = {name for lock in request.locks or () for name in partial_names(lock)}
    for name, size in sorted(leftovers.partials.items()):
        path = f"{STATE_DIRECTORY}/{PARTIAL_DIRECTORY}/{name}"
        fetch = name.removesuffix(next(filter(name.endswith, PARTIAL_SUFFIXES), ""))
        if name != fetch and fetch not in leftovers.partials:
            yield Delete(path, size, "left by a dead process")
        elif request.partials:
            yield Delete(path, size, "interrupted fetch")
        elif request.locks is None:
            yield Keep(path, size, "interrupted fetch; no lock says whether it is needed")
        elif fetch in needed:
            yield Keep(path, size, "interrupted fetch that a pull continues")
        else:
            yield Delete(path, size, "interrupted fetch of bytes that no lock wants")


def _staged(leftovers: Leftovers, request: PruneRequest) -> Iterable[Keep | Delete]:
    """A pull was killed while it moved files into place: the next one takes what it needs of them."""
    needed = {(file.path, file.size) for lock in request.locks or () for file in lock.files}
    for path, size in sorted(leftovers.staged.items()):
        where = f"{STATE_DIRECTORY}/{STAGING_DIRECTORY}/{path}"
        if not request.partials and (request.locks is None or (path, size) in needed):
            yield Keep(where, size, "fetched by a pull that was killed; a pull continues it")
        else:
            yield Delete(where, size, "fetched by a pull that was killed")


def prune_plan_json(plan: PrunePlan, place: str) -> dict[str, Any]:
    """The plan for programs; see docs/remove.md."""
    return {"folder": place, **actions_json(plan.actions)}


def processes_named(paths: Iterable[str]) -> frozenset[int]:
    """The processes that files in the making among `paths` are named after."""
    names = (path.rpartition("/")[2] for path in paths)
    return frozenset(int(match[1]) for name in names if (match := _TEMPORARY.fullmatch(name)))
