"""The app's catalog as data: what `catalog.json` holds and what `ZooCatalog.swift` is rendered from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from zoo.catalog import Entry, Part
from zoo.documents import canonical_json
from zoo.errors import UnknownEntry
from zoo.lock import Lock, LockedFile, Member, Method, lock_digest
from zoo.manifest import Modality, Role, Visibility
from zoo.plan.lock import lender_path, remote_paths
from zoo.report.sizes import human_bytes
from zoo.swift.groups import identical_groups

CATALOG_SCHEMA = 1
"""Raised when an app built against an older `ZooCatalog.swift` would misread the JSON; keys are only ever added."""


class CatalogModel(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of the catalog's tables: Swift spells keys in camel case."""


class CatalogHub(CatalogModel, frozen=True, kw_only=True):
    """The repo an entry is published in, and the branch that is published from. Sources are at commits."""

    repo: str
    revision: str


class CatalogArchive(CatalogModel, frozen=True, kw_only=True):
    """A zip file that holds the whole entry, for one that is in no repo.

    Attributes:
        url: where it is published.
        bytes: its size; null until the entry is locked from it.
        sha256: lower-case hex; null until then.
    """

    url: str
    bytes: int | None
    sha256: str | None


class CatalogMember(CatalogModel, frozen=True, kw_only=True):
    """Where in the entry's archive the bytes of a file lie: one request for a range brings them.

    Attributes:
        name: as the archive spells it.
        offset: where the packed bytes begin in the archive.
        packed_bytes: how many there are.
        method: `stored` (as they are) or `deflated` (raw DEFLATE, which Apple's frameworks call zlib).
    """

    name: str
    offset: int
    packed_bytes: int
    method: Method


class CatalogSource(CatalogModel, frozen=True, kw_only=True):
    """A place the bytes can be had: a path in a repo at a commit. The URL is endpoint/repo/resolve/commit/path."""

    repo: str
    commit: str
    path: str


class CatalogFile(CatalogModel, frozen=True, kw_only=True):
    """One file of an entry.

    Attributes:
        path: in the entry's folder on the device.
        remote_path: in the entry's repo.
        component: the part of the entry that it belongs to.
        modality: what kind of input it is for, as its component says.
        required: whether the entry is incomplete without it, as its component says.
        bytes: its exact size; the expected size while `sha256` is null.
        sha256: lower-case hex; null while the entry's lock is provisional.
        group: files with the same one are the same bytes: fetch one, link the others. It is the entry and path of the
            first of them; null for a file like no other. Between files without sha256 it is what the manifests
            declare, not what was measured.
        sources: where the bytes can be had, best first; none while the entry's lock is provisional, and none for a
            file that lies in an archive only.
        member: where in the entry's archive the bytes lie, or null.
    """

    path: str
    remote_path: str
    component: str
    modality: Modality
    required: bool
    bytes: int
    sha256: str | None
    group: str | None
    sources: tuple[CatalogSource, ...]
    member: CatalogMember | None


class CatalogComponent(CatalogModel, frozen=True, kw_only=True):
    """A part of an entry that is complete or absent as a whole.

    Attributes:
        name: unique in the entry.
        role: what part it plays.
        modality: what kind of input it is for.
        required: whether the entry is incomplete without it.
    """

    name: str
    role: Role
    modality: Modality
    required: bool


class CatalogEntry(CatalogModel, frozen=True, kw_only=True):
    """One model as the picker shows it and the downloader fetches it.

    Attributes:
        id: unique in the catalog.
        name: what the picker shows.
        about: one or two sentences.
        family: entries that are published together.
        folder: the directory on a device; two entries may share one.
        order: position in the picker, lowest first; the catalog lists entries in this order.
        visibility: `experimental` entries are shown only where the app asks for them, `hidden` ones never.
        modalities: the kinds of input it takes, text first.
        license: SPDX identifier or the Hub's licence tag.
        minimum_ios, minimum_macos: oldest systems it loads on, or null.
        blocked_ios, blocked_macos: why it does not run there, for the person who wants it to; or null.
        environment: environment variables the engine needs for it.
        absent: what must not lie in the folder, because the engine would take it: sidecar files, and model folders
            without suffix; `*` stands for anything but `/`.
        hub: where it is published, or null.
        archive: the zip file it is published as, or null.
        bytes: of all files.
        unique_bytes: of what must travel at most: files of one group counted once.
        size: `bytes` for people, e.g. `8.16 GB`; 1 GB is 10^9 bytes in every entry.
        lock: sha256 of the lock this was made from.
        components: its parts, in the order they are shown.
        files: sorted by path.
    """

    id: str
    name: str
    about: str
    family: str
    folder: str
    order: int
    visibility: Visibility
    modalities: tuple[Modality, ...]
    license: str
    minimum_ios: str | None
    minimum_macos: str | None
    blocked_ios: str | None
    blocked_macos: str | None
    environment: dict[str, str]
    absent: tuple[str, ...]
    hub: CatalogHub | None
    archive: CatalogArchive | None
    bytes: int
    unique_bytes: int
    size: str
    lock: str
    components: tuple[CatalogComponent, ...]
    files: tuple[CatalogFile, ...]


class CatalogDocument(CatalogModel, frozen=True, kw_only=True):
    """The whole catalog.

    Attributes:
        schema: the form of this file.
        endpoint: the Hub that files are fetched from, without a trailing slash.
        entries: in picker order.
    """

    schema: int
    endpoint: str
    entries: tuple[CatalogEntry, ...]


def make_catalog(entries: Iterable[Entry], *, endpoint: str) -> CatalogDocument:
    """The catalog of `entries`, in the order given.

    Args:
        entries: entries that have a lock, in picker order.
        endpoint: the Hub the app fetches from.

    Raises:
        UnknownEntry: an entry without a lock; there is nothing to list.
        InvalidDocument: a lock that names a component which its manifest lacks.
    """
    listed = tuple(entries)
    groups = identical_groups(listed)
    return CatalogDocument(
        schema=CATALOG_SCHEMA,
        endpoint=endpoint.rstrip("/"),
        entries=tuple(_entry(entry, groups) for entry in listed),
    )


def catalog_json(document: CatalogDocument) -> bytes:
    """The canonical bytes of `catalog.json`."""
    return canonical_json(msgspec.to_builtins(document))


def _entry(entry: Entry, groups: Mapping[tuple[str, str], str]) -> CatalogEntry:
    lock = entry.lock
    if lock is None:
        raise UnknownEntry(
            f"{entry.id} has no lock, so its files are not known",
            hint=entry.how_to_lock,
        )
    manifest = entry.manifest
    remote = remote_paths(entry, lock)
    files = tuple(_file(file, entry, remote, groups) for file in lock.files)
    return CatalogEntry(
        id=entry.id,
        name=manifest.name,
        about=manifest.description,
        family=manifest.family,
        folder=manifest.folder,
        order=manifest.order,
        visibility=manifest.visibility,
        modalities=entry.modalities(),
        license=manifest.license,
        minimum_ios=manifest.minimum_os.ios,
        minimum_macos=manifest.minimum_os.macos,
        blocked_ios=manifest.blocked.ios,
        blocked_macos=manifest.blocked.macos,
        environment=dict(sorted(manifest.environment.items())),
        absent=manifest.absent,
        hub=None if manifest.hub is None else CatalogHub(repo=manifest.hub.repo, revision=manifest.hub.revision),
        archive=_archive(entry, lock),
        bytes=lock.size,
        unique_bytes=sum({(file.group, file.group or file.path): file.bytes for file in files}.values()),
        size=human_bytes(lock.size),
        lock=lock_digest(lock),
        components=tuple(_component(part) for part in entry.parts if _has_files(lock, part)),
        files=files,
    )


def _archive(entry: Entry, lock: Lock) -> CatalogArchive | None:
    """The archive as it is locked, else as the manifest names it."""
    if lock.archive is not None:
        return CatalogArchive(url=lock.archive.url, bytes=lock.archive.size, sha256=lock.archive.sha256)
    declared = entry.manifest.archive
    return None if declared is None else CatalogArchive(url=declared.url, bytes=None, sha256=None)


def _has_files(lock: Lock, part: Part) -> bool:
    return any(file.component == part.name for file in lock.files)


def _component(part: Part) -> CatalogComponent:
    return CatalogComponent(name=part.name, role=part.role, modality=part.modality, required=part.required)


def _file(
    file: LockedFile, entry: Entry, remote: Mapping[str, str], groups: Mapping[tuple[str, str], str]
) -> CatalogFile:
    part = entry.part(file.component)
    return CatalogFile(
        path=file.path,
        remote_path=_remote_path(file, entry, remote),
        component=file.component,
        modality=part.modality,
        required=part.required,
        bytes=file.size,
        sha256=file.sha256,
        group=groups.get((entry.id, file.path)),
        sources=tuple(CatalogSource(repo=s.repo, commit=s.commit, path=s.path) for s in file.sources),
        member=None if file.member is None else _member(file.member),
    )


def _member(member: Member) -> CatalogMember:
    return CatalogMember(name=member.name, offset=member.offset, packed_bytes=member.packed, method=member.method)


def _remote_path(file: LockedFile, entry: Entry, remote: Mapping[str, str]) -> str:
    """Where the entry's repo has the bytes: as locked, else as the manifest says (of the lender, for lent weights)."""
    hub = entry.manifest.hub
    for source in file.sources:
        if hub is not None and source.repo == hub.repo:
            return source.path
    lender = lender_path(entry, file, remote)
    return remote[file.path if lender is None else lender]
