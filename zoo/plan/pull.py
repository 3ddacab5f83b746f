"""What to do so that a folder holds exactly the selected files of a lock. Pure: no input, no output.

Decided here: which bytes are there already, which can be had from this disk, which must travel (once each), what
may be deleted, and what must be refused because another entry of the same folder needs other bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from zoo.errors import Conflict, HubError
from zoo.folder import FolderFile, FolderState, orphans
from zoo.lock import Lock, LockedFile, lock_digest
from zoo.paths import matches_absent
from zoo.plan.absent import forbidden
from zoo.plan.actions import Action, Delete, Extract, Fetch, Keep, Link, actions_json, changes, travelling_bytes
from zoo.plan.archive import ArchivePlan, archive_partials, plan_archive
from zoo.receipt import Installed, Receipt, ReceiptFile
from zoo.report.sizes import human_bytes
from zoo.report.text import plural
from zoo.selection import Selection

FORBIDDEN = "must be absent: the app would take it"
FORBIDDEN_STRANGER = "must be absent: the app would take it; zoo did not install it"
"""Why a file goes that the entry's folder must not hold."""


@dataclass(frozen=True)
class PullRequest:
    """What somebody wants to have.

    Attributes:
        entry: the entry's id.
        lock: its lock.
        files: the files of the lock that the selection keeps.
        selection: recorded in the receipt.
        others: the current locks of other entries that may be installed in the same folder, by id.
        absent: what must not lie in the folder (`Manifest.absent`).
        absent_for: what must not lie there for other entries, by id.
        repairs: only put bytes back that should be there; nothing is deleted and the receipt stays as it is.
    """

    entry: str
    lock: Lock
    files: tuple[LockedFile, ...]
    selection: Selection = field(default_factory=Selection)
    others: Mapping[str, Lock] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    absent_for: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    repairs: bool = False


@dataclass(frozen=True)
class PullPlan:
    """What will be done.

    Attributes:
        request: what it is for.
        actions: in the order they are carried out; every wanted file has exactly one, deletions come last.
        notes: what a person should know before it is done.
        replaces: paths of files that zoo did not install and that will be replaced.
        unused_partials: names of interrupted fetches that no lock of this folder asks for any more.
        archive: what of the lock's archive travels; None if nothing is unpacked.
    """

    request: PullRequest
    actions: tuple[Action, ...]
    notes: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    unused_partials: tuple[str, ...] = ()
    archive: ArchivePlan | None = None

    @property
    def bytes_to_place(self) -> int:
        """Bytes of every file that is fetched, unpacked or linked, and of the archive: what progress counts up to."""
        placed: tuple[Action, ...] = (*self.links, *self.extracts)
        packed = 0 if self.archive is None else self.archive.bytes_to_bring(action.file for action in self.extracts)
        return sum(action.file.size for action in self.fetches) + sum(action.size for action in placed) + packed

    @property
    def bytes_to_move(self) -> int:
        """Bytes the network has to carry."""
        return travelling_bytes(self.actions) + (self.archive.size if self.archive is not None else 0)

    @property
    def extracts(self) -> tuple[Extract, ...]:
        """The files that are unpacked from the archive, the largest first."""
        return tuple(action for action in self.actions if isinstance(action, Extract))

    @property
    def fetches(self) -> tuple[Fetch, ...]:
        """The files that travel, largest remaining part first."""
        return tuple(action for action in self.actions if isinstance(action, Fetch))

    @property
    def links(self) -> tuple[Link, ...]:
        """The files whose bytes are on this disk, those from outside the folder first."""
        return tuple(action for action in self.actions if isinstance(action, Link))

    @property
    def deletes(self) -> tuple[Delete, ...]:
        """The files that go away."""
        return tuple(action for action in self.actions if isinstance(action, Delete))

    @property
    def changes(self) -> bool:
        """Whether anything but the receipt would change."""
        return changes(self.actions)

    @property
    def needs_consent(self) -> bool:
        """Whether something goes away that cannot be fetched again by the same command."""
        return bool(self.deletes or self.replaces)


def partial_name(file: LockedFile) -> str:
    """Under which name bytes of a file arrive: its sha256, or for a provisional lock a digest of its first source."""
    if file.sha256 is not None:
        return file.sha256
    where = "\n".join((source.repo + "\n" + source.commit + "\n" + source.path) for source in file.sources[:1])
    return "unverified-" + hashlib.sha256(f"{where}\n{file.path}".encode()).hexdigest()


def partial_names(lock: Lock) -> set[str]:
    """Every name under which bytes that a lock asks for may lie among the interrupted fetches."""
    return archive_partials(lock).union(partial_name(file) for file in lock.files)


def plan_pull(
    request: PullRequest, state: FolderState, candidates: Mapping[str, tuple[str, ...]] | None = None
) -> PullPlan:
    """Decide what to do.

    Args:
        request: what is wanted.
        state: what the folder holds; files whose size is that of a wanted file have proven digests.
        candidates: absolute paths elsewhere on this disk by sha256, proven to have it, best first.

    Raises:
        Conflict: another installed entry needs other bytes at the same path or has what must be absent, or
            something that is not a file is in the way.
        HubError: bytes are needed that are published nowhere.
    """
    wanted = {file.path: file for file in request.files}
    notes = _check_partners(request, state)
    _check_obstacles(wanted, state)
    _check_absent(request, state)
    actions: list[Action] = []
    for group in _by_content(request.files):
        actions.extend(_decide(group, state, candidates or {}))
    _check_published(request, actions)
    deletes = _deletes(request, state, wanted)
    owned = state.receipt.owners()
    replaces = tuple(
        action.path
        for action in actions
        if action.kind != "keep" and action.path in state.files and action.path not in owned
    )
    ordered = sorted(actions, key=_order)
    return PullPlan(
        request=request,
        actions=(*ordered, *deletes),
        notes=(*notes, *_notes(request, state, deletes, replaces)),
        replaces=replaces,
        unused_partials=_unused_partials(request, state),
        archive=plan_archive(
            request.lock.archive,
            [action for action in ordered if isinstance(action, Extract)],
            state.partials,
            candidates or {},
        ),
    )


def _by_content(files: Iterable[LockedFile]) -> list[list[LockedFile]]:
    """Files with the same bytes together; a file of unknown digest is alone, for a size proves nothing."""
    groups: dict[str, list[LockedFile]] = {}
    for file in sorted(files, key=lambda file: file.path):
        groups.setdefault(file.sha256 or f"path {file.path}", []).append(file)
    return list(groups.values())


def _has(found: FolderFile | None, file: LockedFile) -> bool:
    if found is None or not found.regular or found.size != file.size:
        return False
    return file.sha256 is None or found.sha256 == file.sha256


def _decide(group: list[LockedFile], state: FolderState, candidates: Mapping[str, tuple[str, ...]]) -> list[Action]:
    """Actions for all paths of one content: the bytes come from one place, the other paths are links to it."""
    sha256 = group[0].sha256
    kept = [file for file in group if _has(state.files.get(file.path), file)]
    missing = [file for file in group if file not in kept]
    reason = "already there" if sha256 is not None else "size matches; not verified"
    actions: list[Action] = [Keep(file.path, file.size, reason) for file in kept]
    if not missing:
        return actions
    origin = kept[0].path if kept else None
    if origin is None and sha256 is not None:
        size = group[0].size
        origin = min(
            (path for path, f in state.files.items() if f.regular and f.sha256 == sha256 and f.size == size),
            default=None,
        )
    if origin is None:
        first, *missing = missing
        elsewhere = candidates.get(sha256, ()) if sha256 is not None else ()
        if elsewhere and sha256 is not None:
            actions.append(Link(first.path, first.size, sha256, elsewhere[0], False, "already on this disk"))
        elif (packed := _packed(first, group)) is not None:
            actions.append(Extract(packed, _why(state.files.get(first.path), 0)))
        else:
            have = state.partials.get(partial_name(first), 0)
            have = have if have <= first.size else 0
            actions.append(Fetch(_with_sources(first, group), have, _why(state.files.get(first.path), have)))
        origin = first.path
    for file in missing:
        assert sha256 is not None
        actions.append(Link(file.path, file.size, sha256, origin, True, f"the same bytes as {origin}"))
    return actions


def _packed(file: LockedFile, group: list[LockedFile]) -> LockedFile | None:
    """`file` with its place in the archive, or that of a file with the same bytes; None if the Hub has it."""
    if any(other.sources for other in group):
        return None
    member = next((other.member for other in (file, *group) if other.member is not None), None)
    return None if member is None else msgspec.structs.replace(file, member=member)


def _with_sources(file: LockedFile, group: list[LockedFile]) -> LockedFile:
    """`file` with the sources of every path that has its bytes: any of them will do."""
    sources = tuple(dict.fromkeys(source for other in (file, *group) for source in other.sources))
    if sources == file.sources:
        return file
    return LockedFile(
        path=file.path, component=file.component, size=file.size, sha256=file.sha256, xxh3=file.xxh3, sources=sources
    )


def _why(found: FolderFile | None, have: int) -> str:
    if have:
        return "interrupted"
    return "missing" if found is None else "differs"


def _order(action: Action) -> tuple[int, int, str]:
    """Kept files, then what travels with the largest first, then links whose origin is elsewhere, then inside."""
    rank = {"keep": 0, "fetch": 1, "extract": 1}.get(action.kind, 2)
    if isinstance(action, Link) and action.inside:
        rank = 3
    return rank, 0 if rank == 0 else -action.size, action.path


def _check_partners(request: PullRequest, state: FolderState) -> list[str]:
    """Notes about partners that change too; a conflict if one needs its bytes as they are."""
    wanted = {file.path: file for file in request.files}
    notes = []
    for partner, installed in sorted(state.receipt.entries.items()):
        if partner == request.entry:
            continue
        lock = request.others.get(partner)
        current = lock.by_path() if lock is not None else {}
        disagree = [f.path for f in installed.files if f.path in wanted and not _same(f, wanted[f.path])]
        stuck = [path for path in disagree if path not in current or not _same(current[path], wanted[path])]
        if stuck:
            raise Conflict(
                f"{request.entry} and {partner}, which is installed in the same folder, need different bytes at"
                f" {stuck[0]}" + (f" and {plural(len(stuck) - 1, 'other path')}" if len(stuck) > 1 else ""),
                hint=f"publish both from the same build (`zoo push`), or install {request.entry} with --models DIR",
            )
        if disagree:
            notes.append(
                f"{plural(len(disagree), 'file')} shared with {partner} will be updated;"
                f" run `zoo pull {partner}` to update the rest of it"
            )
    return notes


def _same(one: LockedFile | ReceiptFile, other: LockedFile | ReceiptFile) -> bool:
    if one.sha256 is None or other.sha256 is None:
        return one.size == other.size
    return one.sha256 == other.sha256


def _check_obstacles(wanted: Mapping[str, LockedFile], state: FolderState) -> None:
    for path in wanted:
        if path in state.folders:
            raise Conflict(f"{path}: a folder is where this file belongs", hint="move the folder away")
        parent = path.rpartition("/")[0]
        while parent:
            if parent in state.files:
                kind = "a file" if state.files[parent].regular else "a symbolic link"
                raise Conflict(f"{parent}: {kind} is where a folder belongs ({path})", hint=f"move {parent} away")
            parent = parent.rpartition("/")[0]


def _check_absent(request: PullRequest, state: FolderState) -> None:
    """Refuse two installed entries of which one has what the other must not find."""
    owners = state.receipt.without_entry(request.entry).owners()
    for path in forbidden(request.absent, state.files):
        if path in owners:
            owner = owners[path][0]
            current = request.others.get(owner)
            dropped = current is not None and path not in current.by_path()
            way_out = f"`zoo pull {owner}` drops it" if dropped else f"`zoo remove {owner}` removes it"
            raise Conflict(
                f"{request.entry} must not find {path} in its folder, and {owner}, which is installed there, has it",
                hint=f"{way_out}; or install {request.entry} with --models DIR",
            )
    for partner in sorted(state.receipt.entries.keys() - {request.entry}):
        unwanted = [f.path for f in request.files if matches_absent(f.path, request.absent_for.get(partner, ()))]
        if unwanted:
            raise Conflict(
                f"{partner}, which is installed in the same folder, must not find {unwanted[0]} there,"
                f" and {request.entry} has it",
                hint=f"install {request.entry} with --models DIR, or `zoo remove {partner}` first",
            )


def _check_published(request: PullRequest, actions: Iterable[Action]) -> None:
    nowhere = [a.path for a in actions if isinstance(a, Fetch) and a.size > 0 and not a.file.sources]
    if nowhere:
        more = f" and {plural(len(nowhere) - 1, 'other file')}" if len(nowhere) > 1 else ""
        raise HubError(
            f"{request.entry}: {nowhere[0]}{more} cannot be fetched: the lock names no place that has it",
            hint=_where_else(request),
        )


def _where_else(request: PullRequest) -> str:
    if request.repairs:
        return "take it from this disk with --reuse or --from DIR, or update the entry with `zoo pull`"
    if request.lock.provisional and request.lock.archive is not None:
        return f"`zoo lock {request.entry} --from-hub` downloads its archive once and pins it"
    if request.lock.provisional:
        return f"`zoo lock {request.entry} --from-hub` takes digests and a commit from the Hub"
    return f"publish it with `zoo push {request.entry}`, or take it from a build with --reuse or --from DIR"


def _deletes(request: PullRequest, state: FolderState, wanted: Mapping[str, LockedFile]) -> list[Delete]:
    if request.repairs:
        return []
    others = state.receipt.without_entry(request.entry).owners()
    # A path that differs in letter case alone may be the same file on this file system.
    needed = {path.casefold() for path in (*wanted, *others)}
    unwanted = forbidden(request.absent, state.files, state.folders)
    in_lock = request.lock.by_path()
    reasons = dict.fromkeys(unwanted, FORBIDDEN_STRANGER)
    installed = state.receipt.entries.get(request.entry)
    for file in installed.files if installed is not None else ():
        if file.path in unwanted:
            reasons[file.path] = FORBIDDEN
        elif file.path in state.files:
            reasons[file.path] = "not selected" if file.path in in_lock else "no longer part of the entry"
    return [
        Delete(path, state.files[path].size if path in state.files else 0, reason)
        for path, reason in sorted(reasons.items())
        if path.casefold() not in needed
    ]


def _notes(
    request: PullRequest, state: FolderState, deletes: Iterable[Delete], replaces: tuple[str, ...]
) -> list[str]:
    notes = []
    unknown = sum(file.sha256 is None for file in request.files)
    if unknown:
        notes.append(
            f"NOT VERIFIABLE: the lock of {request.entry} is provisional; {plural(unknown, 'file')} without digest"
            " will be checked by size alone"
        )
    if replaces:
        notes.append(f"{plural(len(replaces), 'file')} that zoo did not install will be replaced: {_some(replaces)}")
    going = [delete.path for delete in deletes]
    foreign = tuple(delete.path for delete in deletes if delete.reason == FORBIDDEN_STRANGER)
    if foreign:
        notes.append(
            f"{plural(len(foreign), 'file')} that zoo did not install must not be there and will be deleted:"
            f" {_some(foreign)}"
        )
    strangers = orphans(state, (*(file.path for file in request.files), *going))
    if strangers:
        size = sum(file.size for file in strangers.values())
        notes.append(
            f"{plural(len(strangers), 'file')} ({human_bytes(size)}) in the folder belong to no entry and stay; the"
            f" app may react to them: {_some(tuple(strangers))}"
        )
    return notes


def _some(paths: tuple[str, ...]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def _unused_partials(request: PullRequest, state: FolderState) -> tuple[str, ...]:
    if request.repairs:
        return ()
    locks = (request.lock, *request.others.values())
    needed = {name for lock in locks for name in partial_names(lock)}
    return tuple(sorted(name for name in state.partials if name not in needed))


def receipt_after(plan: PullPlan, receipt: Receipt, xxh3: Mapping[str, str]) -> Receipt:
    """The receipt once the plan has been carried out.

    Args:
        plan: what was done.
        receipt: the folder's receipt before.
        xxh3: of files whose lock does not say, by path.
    """
    request = plan.request
    if request.repairs:
        return receipt
    files = tuple(
        ReceiptFile(path=file.path, size=file.size, sha256=file.sha256, xxh3=file.xxh3 or xxh3.get(file.path))
        for file in sorted(request.files, key=lambda file: file.path)
    )
    now = {file.path: file for file in files}
    partners = {
        partner: Installed(
            lock=installed.lock,
            only=installed.only,
            without=installed.without,
            # Shared files that were updated are the partner's too; it would look damaged otherwise.
            files=tuple(
                file if (new := now.get(file.path)) is None or _same(file, new) else new for file in installed.files
            ),
        )
        for partner, installed in receipt.entries.items()
        if partner != request.entry
    }
    mine = Installed(
        lock=lock_digest(request.lock), only=request.selection.only, without=request.selection.without, files=files
    )
    return Receipt(entries=partners).with_entry(request.entry, mine)


def plan_json(plan: PullPlan, folder: str) -> dict[str, Any]:
    """The plan for programs; see docs/pull.md."""
    return {
        "entry": plan.request.entry,
        "folder": folder,
        "only": list(plan.request.selection.only),
        "without": list(plan.request.selection.without),
        "verifiable": all(file.sha256 is not None for file in plan.request.files),
        "notes": list(plan.notes),
        "replaces": list(plan.replaces),
        **actions_json(plan.actions),
        "bytes_to_move": plan.bytes_to_move,
        **({"archive": plan.archive.as_json()} if plan.archive is not None else {}),
    }
