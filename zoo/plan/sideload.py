"""What to copy to a phone so that an app's folder holds a bundle, and what is in the way. Pure: no input, no output.

`devicectl` lists sizes and times, never digests, so bytes on a phone cannot be proven. A file there is believed only
if zoo itself copied these very bytes and the phone still lists the size and time it listed right after that
(the ledger). Everything else of the right size is of unknown content and is copied again, unless somebody says
to believe sizes. Nothing is ever deleted, because nothing can be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from zoo.errors import Conflict
from zoo.paths import STATE_DIRECTORY, model_folder
from zoo.plan.absent import forbidden
from zoo.plan.actions import Keep
from zoo.plan.device_commands import Target, copy_command, list_command

PLACEHOLDER = ".placeholder"
"""What removal by hand leaves: a file of root's that the app can neither delete nor replace."""

_LITTER = frozenset({".DS_Store", ".localized"})
"""What file managers leave behind; no engine reads it."""


@dataclass(frozen=True, slots=True)
class DeviceFile:
    """One file that a device lists.

    Attributes:
        size: bytes; None if the listing does not say.
        modified: its time as the listing writes it; compared as text, never interpreted.
        regular: a real file, not a link.
    """

    size: int | None
    modified: str | None = None
    regular: bool = True


@dataclass(frozen=True)
class DeviceListing:
    """What lies in the target's folder: files by path relative to it, and the folders in it."""

    files: Mapping[str, DeviceFile] = field(default_factory=dict)
    folders: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class BundleFile:
    """One file that is wanted on the device; proven to have these bytes here. `sha256` is None if provisional."""

    path: str
    size: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Copied:
    """What the ledger remembers of a file: which bytes were copied, and what the device listed right after."""

    size: int
    sha256: str
    modified: str


@dataclass(frozen=True)
class SideloadRequest:
    """What somebody wants on the device.

    Attributes:
        target: where.
        source: absolute path of the folder here.
        entries: which entries the files are of.
        files: all files that belong there.
        whole_models: model folders that hold here exactly their wanted files, so that copying the folder copies
            nothing else.
        trust_size: believe that a file of the right size has the right bytes.
        everything: copy every file, whatever the device lists.
        absent: what must not lie there (`Manifest.absent` of the entries).
    """

    target: Target
    source: str
    entries: tuple[str, ...]
    files: tuple[BundleFile, ...]
    whole_models: frozenset[str] = frozenset()
    trust_size: bool = False
    everything: bool = False
    absent: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Copy:
    """One command: a file, or a model folder with all its files.

    Attributes:
        path: bundle path of the file or the folder.
        size: bytes that travel.
        files: bundle paths of the files it brings.
        reason: `missing`, `size differs`, `differs`, `contents unknown`, `asked for`; `several` for a folder with
            several.
    """

    kind: ClassVar[str] = "copy"
    path: str
    size: int
    files: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Orphan:
    """A file on the device that does not belong there and that `devicectl` cannot delete."""

    kind: ClassVar[str] = "orphan"
    path: str
    size: int | None
    reason: str


@dataclass(frozen=True)
class SideloadPlan:
    """What will be done.

    Attributes:
        request: what it is for.
        copies: in the order they are carried out, the largest first.
        keeps: files that stay, with the reason to believe in them.
        orphans: what should not be there.
        notes: what a person should know first.
    """

    request: SideloadRequest
    copies: tuple[Copy, ...]
    keeps: tuple[Keep, ...]
    orphans: tuple[Orphan, ...]
    notes: tuple[str, ...] = ()

    @property
    def bytes_to_copy(self) -> int:
        """Bytes that travel to the device."""
        return sum(copy.size for copy in self.copies)

    @property
    def commands(self) -> tuple[tuple[str, ...], ...]:
        """The command line of every copy."""
        request = self.request
        return tuple(
            copy_command(request.target, f"{request.source}/{copy.path}", copy.path, copy.size) for copy in self.copies
        )


KEPT_COPIED = "copied by zoo, unchanged since"
KEPT_SIZE = "same size; bytes not compared"
FORBIDDEN = "must be absent: the app would take it; remove it first"
FOREIGN_MODEL = "a model that is not of the bundle; the app picks models by which are there"


def plan_sideload(
    request: SideloadRequest, listing: DeviceListing, ledger: Mapping[str, Copied] | None = None
) -> SideloadPlan:
    """Decide what to copy.

    Args:
        request: what is wanted.
        listing: what the device lists.
        ledger: what zoo copied there before, by path.

    Raises:
        Conflict: a folder is where a file belongs, or the other way round; only removing the app resolves that.
    """
    _check_obstacles(request, listing)
    keeps: list[Keep] = []
    needed: dict[str, str] = {}
    for file in request.files:
        why_keep, why_copy = _decide(file, listing.files.get(file.path), (ledger or {}).get(file.path), request)
        if why_keep:
            keeps.append(Keep(file.path, file.size, why_keep))
        else:
            needed[file.path] = why_copy
    copies = _copies(request, needed, {keep.path for keep in keeps})
    orphans = _orphans(listing, {file.path for file in request.files}, request.absent)
    return SideloadPlan(
        request=request,
        copies=copies,
        keeps=tuple(sorted(keeps, key=lambda keep: keep.path)),
        orphans=orphans,
        notes=_notes(request, copies, orphans, needed),
    )


def _decide(
    file: BundleFile, found: DeviceFile | None, copied: Copied | None, request: SideloadRequest
) -> tuple[str, str]:
    """Why to keep, or else why to copy."""
    if request.everything:
        return "", "asked for"
    if found is None:
        return "", "missing"
    if found.size is not None and found.size != file.size:
        return "", "size differs"
    unchanged = copied is not None and (copied.size, copied.modified) == (found.size, found.modified)
    if copied is not None and unchanged and file.sha256 is not None:
        # What lies there is what zoo copied, so it is known whether these are the bytes, whatever sizes say.
        return (KEPT_COPIED, "") if copied.sha256 == file.sha256 else ("", "differs")
    if request.trust_size and found.size == file.size:
        return KEPT_SIZE, ""
    return "", "contents unknown"


def _copies(request: SideloadRequest, needed: Mapping[str, str], kept: set[str]) -> tuple[Copy, ...]:
    """One copy for each model folder of which nothing can stay, one for each other file; the largest first."""
    sizes = {file.path: file.size for file in request.files}
    partly_kept = {model_folder(path) for path in kept}
    units: dict[str, list[str]] = {}
    for path in sorted(needed):
        model = model_folder(path)
        whole = model is not None and model in request.whole_models and model not in partly_kept
        units.setdefault(model if whole and model is not None else path, []).append(path)
    copies = []
    for unit, paths in units.items():
        reasons = {needed[path] for path in paths}
        reason = reasons.pop() if len(reasons) == 1 else "several"
        copies.append(Copy(unit, sum(sizes[path] for path in paths), tuple(paths), reason))
    return tuple(sorted(copies, key=lambda copy: (-copy.size, copy.path)))


def _ignored(path: str) -> bool:
    """Not worth a warning: the app's own receipt, and litter."""
    name = path.rsplit("/", 1)[-1]
    return path.startswith(STATE_DIRECTORY + "/") or name in _LITTER or name.startswith("._")


def _orphans(listing: DeviceListing, wanted: set[str], absent: Sequence[str]) -> tuple[Orphan, ...]:
    """What is left over, what must not be there first."""
    models = {model for path in wanted if (model := model_folder(path)) is not None}
    unwanted = forbidden(absent, listing.files, listing.folders)
    found = [Orphan(path, size, FORBIDDEN) for path, size in unwanted.items() if path not in wanted]
    for path, file in sorted(listing.files.items()):
        if path not in wanted and path not in unwanted and not _ignored(path):
            found.append(Orphan(path, file.size, _orphan_reason(path, file, models)))
    return tuple(found)


def _orphan_reason(path: str, file: DeviceFile, models: set[str]) -> str:
    model = model_folder(path)
    if path.rsplit("/", 1)[-1] == PLACEHOLDER:
        return "left by a removal by hand; it belongs to root, so the app cannot delete it"
    if not file.regular:
        return "a link that is not of the bundle"
    if model is not None and path.startswith(f"{model}/{model.rsplit('/', 1)[-1]}/"):
        return "an earlier copy landed one level too deep"
    if model in models:
        return "in a model folder of the bundle, yet not of it"
    if model is not None:
        return FOREIGN_MODEL
    return "not of the bundle"


def _check_obstacles(request: SideloadRequest, listing: DeviceListing) -> None:
    root = request.target.root
    hint = "devicectl cannot delete: remove the app from the device and install it again (its documents go with it)"
    for file in request.files:
        found = listing.files.get(file.path)
        if file.path in listing.folders or (found is not None and not found.regular):
            what = "a folder" if file.path in listing.folders else "a link"
            raise Conflict(f"{root}/{file.path}: {what} is on the device where a file belongs", hint=hint)
        parts = file.path.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            if parent in listing.files and parent not in listing.folders:
                raise Conflict(f"{root}/{parent}: a file is on the device where a folder belongs", hint=hint)


def _notes(
    request: SideloadRequest, copies: tuple[Copy, ...], orphans: tuple[Orphan, ...], needed: Mapping[str, str]
) -> tuple[str, ...]:
    notes = []
    if any(reason == "contents unknown" for reason in needed.values()):
        notes.append(
            "devicectl lists sizes and times, no digests: files of the right size that zoo did not copy are copied"
            " again; --trust-size keeps them"
        )
    if any(file.sha256 is None for file in request.files):
        notes.append("the lock is provisional: even here the bytes could be checked by size alone")
    if any(orphan.reason == FORBIDDEN for orphan in orphans):
        notes.append(
            "the app routes by which files exist: with what must be absent on the device, the bundle does not run as"
            " itself"
        )
    if orphans:
        notes.append(
            "devicectl cannot delete: what is left over goes only with the app, or if the app deletes it itself"
        )
    if copies:
        notes.append(
            "quit the app first; copied files belong to root, so the app can read them but not delete or replace them"
        )
    return tuple(notes)


def plan_json(plan: SideloadPlan) -> dict[str, Any]:
    """The plan for programs; see docs/sideload.md."""
    request = plan.request
    return {
        "device": request.target.device,
        "app": request.target.app,
        "destination": request.target.root,
        "source": request.source,
        "entries": list(request.entries),
        "files": len(request.files),
        "bytes": sum(file.size for file in request.files),
        "bytes_to_copy": plan.bytes_to_copy,
        "copies": [
            {
                "path": copy.path,
                "size": copy.size,
                "files": list(copy.files),
                "reason": copy.reason,
                "command": list(command),
            }
            for copy, command in zip(plan.copies, plan.commands, strict=True)
        ],
        "keeps": [{"path": keep.path, "size": keep.size, "reason": keep.reason} for keep in plan.keeps],
        "orphans": [{"path": orphan.path, "size": orphan.size, "reason": orphan.reason} for orphan in plan.orphans],
        "list_command": list(list_command(request.target, request.target.root)),
        "notes": list(plan.notes),
    }


@dataclass(frozen=True, slots=True)
class Misfit:
    """A file that is not on the device as it should be after copying."""

    path: str
    problem: str


def check_arrived(files: Iterable[BundleFile], listing: DeviceListing) -> tuple[Misfit, ...]:
    """What is not there, or not with its size, after the copies. Sizes are all a device tells."""
    misfits = []
    for file in sorted(files, key=lambda file: file.path):
        found = listing.files.get(file.path)
        if found is None:
            elsewhere = _elsewhere(file.path, listing)
            where = f"missing; a file of that name is at {elsewhere}" if elsewhere else "missing"
            misfits.append(Misfit(file.path, where))
        elif found.size is None:
            misfits.append(Misfit(file.path, "the device does not say its size"))
        elif found.size != file.size:
            misfits.append(Misfit(file.path, f"expected {file.size:,} bytes, found {found.size:,}"))
    return tuple(misfits)


def _elsewhere(path: str, listing: DeviceListing) -> str | None:
    """Where a copy may have landed instead: one level too deep, or one too high."""
    model = model_folder(path)
    if model is None:
        return next((other for other in sorted(listing.files) if other.endswith("/" + path)), None)
    name = model.rsplit("/", 1)[-1]
    rest = path.removeprefix(model + "/")
    return next((other for other in (f"{model}/{name}/{rest}", rest) if other in listing.files), None)
