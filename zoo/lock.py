"""A lock: generated JSON that says which bytes an entry is.

Every file with path, size, sha256 and xxh3, and where its bytes can be had. Canonical: the same content is the same
bytes. A lock whose digests are not known yet is *provisional*: everything works with it except verification.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from zoo.documents import canonical_json, decode, parse_json, read_bytes, write_atomically
from zoo.errors import InvalidDocument
from zoo.manifest import ArchiveUrl, ComponentName, EntryId, RepoId, Struct
from zoo.paths import MODEL_SUFFIXES, check_bundle_path, check_no_clashes, model_folder

Method = Literal["stored", "deflated"]
"""How a member of an archive is packed; those are all the methods zoo understands."""

MAX_DEFLATE_RATIO = 1032
"""DEFLATE cannot shrink more: two bits for 258 bytes. A member that claims to is lying about its size."""

LOCK_SCHEMA = 1
"""Raised when an older zoo would misread a lock."""

Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
Xxh3 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]
Commit = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{40}$")]
Size = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""Bytes. 2**53 is what every JSON reader, Swift's included, represents exactly."""


class Source(Struct, frozen=True, kw_only=True, gc=False):
    """One place the bytes of a file can be had: a path in a repo at a commit, never at a branch."""

    repo: RepoId
    commit: Commit
    path: str


class LockedArchive(Struct, frozen=True, kw_only=True):
    """The zip file that holds a bundle.

    Attributes:
        url: where it is published.
        size: bytes; the expected size while `sha256` is None.
        sha256: identity of the bytes, hex; None in a provisional lock.
    """

    url: ArchiveUrl
    size: Size
    sha256: Sha256 | None = None


class Member(Struct, frozen=True, kw_only=True, gc=False):
    """Where in the lock's archive the bytes of a file lie, so that nobody has to read the archive's own directory.

    Attributes:
        name: as the archive spells it.
        offset: where the packed bytes begin in the archive.
        packed: how many there are.
        method: `stored` (as they are) or `deflated` (raw DEFLATE, RFC 1951).
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    offset: Size
    packed: Size
    method: Method


class LockedFile(Struct, frozen=True, kw_only=True, gc=False):
    """One file of a bundle.

    Attributes:
        path: in the bundle.
        component: the manifest's component it belongs to.
        size: bytes; the expected size while `sha256` is None.
        sha256: identity of the bytes, hex; None in a provisional lock.
        xxh3: XXH3-128 of the bytes, hex, for cheap re-checks; None where only the Hub's listing was read.
        sources: where the bytes can be had, best first; empty for a build that is not published.
        member: where in the lock's archive they lie, for a bundle that is published as one zip file.
    """

    path: str
    component: ComponentName
    size: Size
    sha256: Sha256 | None = None
    xxh3: Xxh3 | None = None
    sources: tuple[Source, ...] = ()
    member: Member | None = None

    @property
    def published(self) -> bool:
        """Whether the bytes can be had anywhere."""
        return bool(self.sources) or self.member is not None


class Lock(Struct, frozen=True, kw_only=True):
    """The bytes of one entry.

    Attributes:
        schema: the form of this file, `LOCK_SCHEMA`.
        entry: the manifest's id.
        manifest: `manifest_digest` of the manifest this was made from; another one means the lock is stale.
        files: sorted by path.
        archive: the zip file that holds them, for a bundle that is published as one.
        provenance: how the bytes came to be (tool versions, checkpoint digest); no times, no paths.
    """

    schema: int
    entry: EntryId
    manifest: Sha256
    files: tuple[LockedFile, ...]
    archive: LockedArchive | None = None
    provenance: dict[str, str] = {}

    @property
    def provisional(self) -> bool:
        """True while the digest of some file, or of the archive, is not known."""
        unknown = self.archive is not None and self.archive.sha256 is None
        return unknown or any(file.sha256 is None for file in self.files)

    @property
    def size(self) -> int:
        """Bytes of all files, identical ones counted each time."""
        return sum(file.size for file in self.files)

    @property
    def unique_size(self) -> int:
        """Bytes that exist once: identical files counted a single time."""
        return sum({file.sha256 or file.path: file.size for file in self.files}.values())

    @property
    def model_format(self) -> Literal["mlpackage", "mlmodelc"] | None:
        """What kind of model folders the bundle has; None without any, or with both."""
        found = {folder.rsplit(".", 1)[1] for file in self.files if (folder := model_folder(file.path))}
        if found == {"mlpackage"}:
            return "mlpackage"
        return "mlmodelc" if found == {"mlmodelc"} else None

    def by_path(self) -> dict[str, LockedFile]:
        """Files by bundle path."""
        return {file.path: file for file in self.files}

    def of_components(self, names: Iterable[str]) -> tuple[LockedFile, ...]:
        """The files of the named components, in path order."""
        wanted = frozenset(names)
        return tuple(file for file in self.files if file.component in wanted)


def make_lock(
    entry: str,
    manifest: str,
    files: Iterable[LockedFile],
    provenance: dict[str, str] | None = None,
    archive: LockedArchive | None = None,
) -> Lock:
    """A checked lock with its files in canonical order.

    Raises:
        UnsafePath: two files that are one on some file system.
    """
    lock = Lock(
        schema=LOCK_SCHEMA,
        entry=entry,
        manifest=manifest,
        files=tuple(sorted(files, key=lambda file: file.path)),
        archive=archive,
        provenance=provenance or {},
    )
    _check(lock, entry)
    return lock


def lock_path(directory: Path, entry: str) -> Path:
    """Where the lock of `entry` lies in a zoo directory or a build directory."""
    return directory / f"{entry}.lock.json"


def load_lock(path: Path) -> Lock:
    """Read and check one lock file.

    Raises:
        InvalidDocument: malformed JSON or content: file, key, reason.
        UnsafePath: a path that could leave the bundle's folder.
        DiskError: the file cannot be read.
    """
    return parse_lock(read_bytes(path), where=str(path))


def parse_lock(text: bytes, *, where: str) -> Lock:
    """Parse and check the text of a lock; see `load_lock`."""
    lock = decode(parse_json(text, where=where), Lock, where=where, schema=LOCK_SCHEMA)
    _check(lock, where)
    return lock


def dump_lock(lock: Lock) -> bytes:
    """The canonical bytes of a lock: one file a line."""
    return canonical_json(msgspec.to_builtins(lock), one_line_each="files")


def lock_digest(lock: Lock) -> str:
    """sha256 of the lock's canonical bytes: the identity of the whole bundle."""
    import hashlib  # here, because `zoo ls` digests nothing and should not wait for its imports

    return hashlib.sha256(dump_lock(lock)).hexdigest()


def save_lock(path: Path, lock: Lock) -> bool:
    """Write the lock atomically; return whether the file changed."""
    data = dump_lock(lock)
    if path.is_file() and path.read_bytes() == data:
        return False
    write_atomically(path, data)
    return True


def _check(lock: Lock, where: str) -> None:
    if lock.schema != LOCK_SCHEMA:
        raise InvalidDocument(f"{where}: schema: expected {LOCK_SCHEMA}, found {lock.schema}")
    for file in lock.files:
        check_bundle_path(file.path, where=where)
        for source in file.sources:
            check_bundle_path(source.path, where=f"{where}: sources of {file.path}")
    check_no_clashes([file.path for file in lock.files], where=where)
    if [file.path for file in lock.files] != sorted(file.path for file in lock.files):
        raise InvalidDocument(f"{where}: files: not sorted by path")
    sizes: dict[str, int] = {}
    for file in lock.files:
        if file.sha256 is not None and sizes.setdefault(file.sha256, file.size) != file.size:
            raise InvalidDocument(f"{where}: files: {file.path}: same sha256 as another file but another size")
    for file in lock.files:
        if file.member is not None:
            _check_member(file, file.member, lock.archive, where)


def _check_member(file: LockedFile, member: Member, archive: LockedArchive | None, where: str) -> None:
    at = f"{where}: files: {file.path}: member"
    if archive is None or archive.sha256 is None or file.sha256 is None:
        raise InvalidDocument(f"{at}: needs an archive and a file with known sha256")
    if member.offset + member.packed > archive.size:
        raise InvalidDocument(f"{at}: reaches beyond the archive's {archive.size:,} bytes")
    most = member.packed * (MAX_DEFLATE_RATIO if member.method == "deflated" else 1)
    if file.size > most or (member.method == "stored" and file.size != member.packed):
        raise InvalidDocument(f"{at}: {file.size:,} bytes cannot come from {member.packed:,}")
    if not member.name.isprintable():
        raise InvalidDocument(f"{at}: {member.name!r} has unprintable characters")


def is_weight(path: str) -> bool:
    """Whether the file is bulk data that nothing edits in place, so that a hard link of it is safe."""
    return path.endswith((".bin", ".npy", ".safetensors")) or (
        any(suffix + "/" in path for suffix in MODEL_SUFFIXES) and path.endswith("weight.bin")
    )
