"""The typed actions every plan is made of, and what a plan adds up to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from zoo.lock import LockedFile, Source

ActionKind = Literal["keep", "link", "fetch", "extract", "upload", "copy", "delete"]


@dataclass(frozen=True, slots=True)
class Keep:
    """The target has the bytes already: on this disk for a pull, in the repo for a push."""

    kind: ClassVar[ActionKind] = "keep"
    path: str
    size: int
    reason: str = "already there"


@dataclass(frozen=True, slots=True)
class Link:
    """The bytes are elsewhere on this disk, or will be once another file of this plan is there.

    Attributes:
        path: where they are wanted, a bundle path.
        size: bytes.
        sha256: what they must be.
        origin: an absolute path outside the folder, or (with `inside`) a bundle path in the same folder.
        inside: the origin is a file of the same folder: there now, even if this plan replaces or deletes it, or
            fetched by this plan.
    """

    kind: ClassVar[ActionKind] = "link"
    path: str
    size: int
    sha256: str
    origin: str
    inside: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Fetch:
    """The bytes must travel here.

    Attributes:
        file: the locked file; `file.sources` says from where, best first.
        have: bytes of it that lie on this disk from an interrupted fetch.
        reason: why it is needed: `missing`, `differs`, ...
    """

    kind: ClassVar[ActionKind] = "fetch"
    file: LockedFile
    have: int = 0
    reason: str = "missing"

    @property
    def path(self) -> str:
        """Where the bytes are wanted."""
        return self.file.path

    @property
    def size(self) -> int:
        """Bytes that travel."""
        return self.file.size - self.have


@dataclass(frozen=True, slots=True)
class Extract:
    """The bytes are unpacked from the lock's archive; what of it travels is said once, for all files together.

    Attributes:
        file: the locked file; `file.member` says where in the archive.
        reason: why it is needed: `missing`, `differs`, ...
    """

    kind: ClassVar[ActionKind] = "extract"
    file: LockedFile
    reason: str = "missing"

    @property
    def path(self) -> str:
        """Where the bytes are wanted."""
        return self.file.path

    @property
    def size(self) -> int:
        """Bytes when unpacked."""
        return self.file.size


@dataclass(frozen=True, slots=True)
class Upload:
    """The bytes must travel to the repo.

    Attributes:
        path: in the repo.
        local: absolute path of the file on this disk, or None for generated content.
        size: bytes that travel; 0 when the Hub holds the content for another path of the same commit.
    """

    kind: ClassVar[ActionKind] = "upload"
    path: str
    size: int
    sha256: str
    local: str | None
    reason: str = "new"


@dataclass(frozen=True, slots=True)
class ServerCopy:
    """The Hub has the bytes in another repo or path and copies them itself."""

    kind: ClassVar[ActionKind] = "copy"
    path: str
    size: int
    sha256: str
    source: Source
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Delete:
    """A file that nothing needs goes away."""

    kind: ClassVar[ActionKind] = "delete"
    path: str
    size: int
    reason: str


Action = Keep | Link | Fetch | Extract | Upload | ServerCopy | Delete

MOVES_BYTES: frozenset[ActionKind] = frozenset({"fetch", "upload"})
"""Kinds whose size is bytes on the network."""


@dataclass(frozen=True, slots=True)
class Total:
    """How many actions of a kind, and their bytes."""

    count: int
    size: int


def totals(actions: Iterable[Action]) -> dict[ActionKind, Total]:
    """Counts and bytes by kind, kinds in a fixed order, absent kinds left out."""
    order: tuple[ActionKind, ...] = ("keep", "link", "copy", "fetch", "extract", "upload", "delete")
    listed = list(actions)
    return {
        kind: Total(len(of_kind), sum(action.size for action in of_kind))
        for kind in order
        if (of_kind := [action for action in listed if action.kind == kind])
    }


def travelling_bytes(actions: Iterable[Action]) -> int:
    """Bytes the network has to carry."""
    return sum(action.size for action in actions if action.kind in MOVES_BYTES)


def changes(actions: Iterable[Action]) -> bool:
    """Whether carrying the plan out would change anything."""
    return any(action.kind != "keep" for action in actions)


def action_json(action: Action) -> dict[str, Any]:
    """One action for programs; new keys may be added, none is removed within a schema version."""
    data: dict[str, Any] = {"action": action.kind, "path": action.path, "size": action.size, "reason": action.reason}
    match action:
        case Fetch(file=file, have=have):
            data |= {"sha256": file.sha256, "have": have}
            data["sources"] = [{"repo": s.repo, "commit": s.commit, "path": s.path} for s in file.sources]
        case Extract(file=file):
            data |= {"sha256": file.sha256, "member": file.member.name if file.member else None}
        case Link(sha256=sha256, origin=origin, inside=inside):
            data |= {"sha256": sha256, "origin": origin, "inside": inside}
        case Upload(sha256=sha256):
            data |= {"sha256": sha256}
        case ServerCopy(sha256=sha256, source=source):
            data |= {"sha256": sha256}
            data["source"] = {"repo": source.repo, "commit": source.commit, "path": source.path}
        case Keep() | Delete():
            pass
    return data


def actions_json(actions: Iterable[Action]) -> dict[str, Any]:
    """The part of every plan's JSON that lists actions and adds them up."""
    listed = list(actions)
    return {
        "actions": [action_json(action) for action in listed],
        "totals": {kind: {"count": total.count, "bytes": total.size} for kind, total in totals(listed).items()},
        "bytes_to_move": travelling_bytes(listed),
    }
