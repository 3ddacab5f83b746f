"""Digests of checkpoint tensors, remembered while their shard does not change, so that a second build reads none.

A remembered digest is keyed by the shard's (device, inode, size, mtime) and the tensor's place in it, dtype and
shape: the same rules, with the same limits, as `zoo.digests.DigestCache`, including that a shard which changed
less than `SETTLE_NS` ago is not remembered.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self

from zoo.digests import SETTLE_NS, DigestCache, hash_files
from zoo.errors import ConversionError, DiskError
from zoo.locations import cache_directory

if TYPE_CHECKING:
    from converters.checkpoint import Checkpoint, TensorInfo

Identity = tuple[int, int, int, int]
_SIGNED_63 = (1 << 63) - 1  # SQLite integers are signed; device numbers of some file systems use the top bit
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS tensors(device INTEGER, inode INTEGER, size INTEGER, mtime_ns INTEGER,"
    " start INTEGER, form TEXT, sha256 TEXT NOT NULL,"
    " PRIMARY KEY(device, inode, size, mtime_ns, start, form)) WITHOUT ROWID"
)


def file_identity(path: Path) -> Identity:
    """What changes when somebody rewrites the file.

    Raises:
        DiskError: it cannot be looked at.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}") from None
    return status.st_dev & _SIGNED_63, status.st_ino & _SIGNED_63, status.st_size, status.st_mtime_ns


class TensorDigestCache:
    """Remembers tensor digests in SQLite. Disposable: an unusable database is replaced by an empty one."""

    def __init__(self, path: Path) -> None:
        self._connection = _open(path)

    @classmethod
    def default(cls) -> Self:
        """The user's cache, in the cache directory."""
        return cls(cache_directory() / "tensors.sqlite")

    def of_shard(self, shard: Identity) -> dict[tuple[int, str], str]:
        """Everything remembered of one shard: (first byte, dtype and shape) -> digest."""
        rows = self._connection.execute(
            "SELECT start, form, sha256 FROM tensors WHERE device=? AND inode=? AND size=? AND mtime_ns=?", shard
        )
        return {(start, form): digest for start, form, digest in rows}

    def remember(self, shard: Identity, digests: Mapping[tuple[int, str], str]) -> None:
        """Remember digests of one shard."""
        rows = [(*shard, start, form, digest) for (start, form), digest in digests.items()]
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO tensors VALUES (?,?,?,?,?,?,?)", rows)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _open(path: Path) -> sqlite3.Connection:
    for place in (path, path, Path(":memory:")):
        try:
            if place is path:
                place.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(place, timeout=30)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(_SCHEMA)
        except (sqlite3.DatabaseError, OSError):
            if os.access(path.parent, os.W_OK):
                path.unlink(missing_ok=True)
        else:
            return connection
    raise AssertionError("an in-memory database can always be opened")


def tensor_digests(
    checkpoint: Checkpoint,
    names: Iterable[str],
    cache: TensorDigestCache,
    *,
    on_bytes: Callable[[int], None] = lambda _count: None,
) -> dict[str, str]:
    """Digests of the named tensors, read only where they are not remembered.

    Args:
        checkpoint: an open checkpoint.
        names: canonical tensor names.
        cache: consulted before reading, filled after.
        on_bytes: called with byte counts as tensors are read or found remembered, from several threads.

    Raises:
        ConversionError: a shard changed while it was read.
        DiskError: a shard cannot be read.
    """
    by_shard: dict[str, list[TensorInfo]] = {}
    for name in sorted(set(names)):
        info = checkpoint.info(name)
        by_shard.setdefault(info.file, []).append(info)
    found: dict[str, str] = {}
    for shard, infos in by_shard.items():
        found |= _digest_shard(checkpoint, shard, infos, cache, on_bytes)
    return found


def _form(info: TensorInfo) -> str:
    return f"{info.dtype} {list(info.shape)}"


def _digest_shard(
    checkpoint: Checkpoint,
    shard: str,
    infos: list[TensorInfo],
    cache: TensorDigestCache,
    on_bytes: Callable[[int], None],
) -> dict[str, str]:
    path = checkpoint.directory / shard
    before = file_identity(path)
    known = cache.of_shard(before)
    found = {info.name: known[info.start, _form(info)] for info in infos if (info.start, _form(info)) in known}
    missing = sorted((info for info in infos if info.name not in found), key=lambda info: info.start - info.end)
    on_bytes(sum(info.end - info.start for info in infos if info.name in found))

    def digest(info: TensorInfo) -> str:
        value = checkpoint.digest(info.name)
        on_bytes(info.end - info.start)
        return value

    try:
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            fresh = dict(zip(missing, pool.map(digest, missing), strict=True))
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}") from None
    if file_identity(path) != before:
        raise ConversionError(f"{path}: changed while it was read", hint="wait until it is complete and build again")
    if fresh and time.time_ns() - before[3] >= SETTLE_NS:
        cache.remember(before, {(info.start, _form(info)): value for info, value in fresh.items()})
    return found | {info.name: value for info, value in fresh.items()}


def file_digests(checkpoint: Checkpoint, files: Iterable[str], cache: DigestCache) -> dict[str, str]:
    """sha256 of other files of the checkpoint, by relative path.

    Raises:
        ConversionError: a file is missing.
        DiskError: a file cannot be read.
    """
    paths = {}
    for file in sorted(set(files)):
        if not checkpoint.has_file(file):
            raise ConversionError(
                f"{checkpoint.directory}: {file} is missing", hint="download the checkpoint again, all of its files"
            )
        paths[file] = checkpoint.directory / file
    digests = hash_files(paths.values(), cache=cache)
    return {file: digests[path].sha256 for file, path in paths.items()}
