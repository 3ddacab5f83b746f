"""The app's catalog as data: what `catalog.json` holds and what `ZooCatalog.swift` is rendered from."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from zoo.catalog import Entry, Part
from zoo.documents import canonical_json
from zoo.errors import UnknownEntry
from zoo.lock import Lock, LockedFile, lock_digest
from zoo.report.sizes import human_bytes

CATALOG_SCHEMA = 1
"""Raised when an app built against an older `ZooCatalog.swift` would misread the JSON; keys are only ever added."""


class CatalogModel(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of the catalog's tables: Swift spells keys in camel case."""


class CatalogSource(CatalogModel, frozen=True, kw_only=True):
    """A place the bytes can be had: a path in a repo at a commit."""

    repo: str
    commit: str
    path: str


class CatalogFile(CatalogModel, frozen=True, kw_only=True):
    """One file. `sha256` and `sources` are missing while the entry's lock is provisional."""

    path: str
    component: str
    bytes: int
    sha256: str | None
    sources: tuple[CatalogSource, ...]


class CatalogComponent(CatalogModel, frozen=True, kw_only=True):
    """A part of an entry that is complete or absent as a whole."""

    name: str
    role: str
    modality: str
    required: bool


class CatalogEntry(CatalogModel, frozen=True, kw_only=True):
    """One model as the picker shows it and the downloader fetches it.

    Attributes:
        bytes: of all files.
        unique_bytes: of what must travel at most: identical files counted once.
        size: `bytes` for people, e.g. `8.16 GB` (1 GB = 10^9 bytes), one unit for every entry.
        lock: digest of the lock this was made from.
        minimum_ios, minimum_macos: oldest systems, or None.
    """

    id: str
    name: str
    about: str
    family: str
    folder: str
    visibility: str
    modalities: tuple[str, ...]
    license: str
    minimum_ios: str | None
    minimum_macos: str | None
    environment: dict[str, str]
    bytes: int
    unique_bytes: int
    size: str
    lock: str
    components: tuple[CatalogComponent, ...]
    files: tuple[CatalogFile, ...]


class CatalogDocument(CatalogModel, frozen=True, kw_only=True):
    """The whole catalog, entries in picker order."""

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
    """
    return CatalogDocument(
        schema=CATALOG_SCHEMA,
        endpoint=endpoint.rstrip("/"),
        entries=tuple(_entry(entry) for entry in entries),
    )


def catalog_json(document: CatalogDocument) -> bytes:
    """The canonical bytes of `catalog.json`."""
    return canonical_json(msgspec.to_builtins(document))


def _entry(entry: Entry) -> CatalogEntry:
    lock = entry.lock
    if lock is None:
        raise UnknownEntry(
            f"{entry.id} has no lock, so its files are not known",
            hint=entry.how_to_lock,
        )
    manifest = entry.manifest
    return CatalogEntry(
        id=entry.id,
        name=manifest.name,
        about=manifest.description,
        family=manifest.family,
        folder=manifest.folder,
        visibility=manifest.visibility,
        modalities=entry.modalities(),
        license=manifest.license,
        minimum_ios=manifest.minimum_os.ios,
        minimum_macos=manifest.minimum_os.macos,
        environment=dict(sorted(manifest.environment.items())),
        bytes=lock.size,
        unique_bytes=lock.unique_size,
        size=human_bytes(lock.size),
        lock=lock_digest(lock),
        components=tuple(_component(part) for part in entry.parts if _has_files(lock, part)),
        files=tuple(_file(file) for file in lock.files),
    )


def _has_files(lock: Lock, part: Part) -> bool:
    return any(file.component == part.name for file in lock.files)


def _component(part: Part) -> CatalogComponent:
    return CatalogComponent(name=part.name, role=part.role, modality=part.modality, required=part.required)


def _file(file: LockedFile) -> CatalogFile:
    return CatalogFile(
        path=file.path,
        component=file.component,
        bytes=file.size,
        sha256=file.sha256,
        sources=tuple(CatalogSource(repo=s.repo, commit=s.commit, path=s.path) for s in file.sources),
    )
