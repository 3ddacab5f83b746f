"""sha256 and XXH3-128 of files: both in one pass, many files at once, remembered while a file does not change.

sha256 is identity. XXH3 is for cheap re-checks of bytes that were once proven. A remembered digest is keyed by
(device, inode, size, mtime in ns): whoever rewrites a file changes at least one of them. A folder that was deleted and
copied back with its times may give the inode of one file to another one of the same size and time, so three samples
of the bytes are compared as well. Whoever changes a byte elsewhere and restores the mtime on purpose is not guarded
against, which is why `zoo verify --full` reads the bytes again.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import xxhash

from zoo.errors import DiskError
from zoo.locations import cache_directory

READ_BYTES = 1 << 20
"""Per read. Larger buffers measure no faster and leave the CPU's second-level cache."""

SETTLE_NS = 2_000_000_000
"""A file changed less than this long ago is not remembered: FAT and some network file systems keep mtime in
two-second steps, and a second write within one step would go unnoticed (the "racy git" problem)."""

SAMPLE_BYTES = 4096
"""Of the beginning, the middle and the end of a file: a page each, so all of what is small."""


@dataclass(frozen=True, slots=True)
class Digests:
    """What identifies a file's bytes: size in bytes, sha256 and XXH3-128 as lower-case hex."""

    size: int
    sha256: str
    xxh3: str


class Hasher:
    """Both digests over a stream; feed it what goes past."""

    __slots__ = ("_sha256", "_xxh3", "size")

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._xxh3 = xxhash.xxh3_128()
        self.size = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Add the next bytes."""
        self._sha256.update(data)
        self._xxh3.update(data)
        self.size += len(data)

    def digests(self) -> Digests:
        """The digests of everything so far."""
        return Digests(self.size, self._sha256.hexdigest(), self._xxh3.hexdigest())


def hash_file(path: Path, *, on_bytes: Callable[[int], None] | None = None) -> Digests:
    """Read a file once and return both digests.

    Args:
        path: a regular file.
        on_bytes: called with the number of bytes read since the last call, from the reading thread.

    Raises:
        DiskError: the file cannot be read.
    """
    hasher = Hasher()
    feed_file(path, hasher, on_bytes=on_bytes)
    return hasher.digests()


def feed_file(path: Path, hasher: Hasher, *, on_bytes: Callable[[int], None] | None = None) -> None:
    """Feed all bytes of a file to `hasher`, e.g. the part of a download that is already on disk.

    Raises:
        DiskError: the file cannot be read.
    """
    buffer = bytearray(READ_BYTES)
    view = memoryview(buffer)
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                hasher.update(view[:count])
                if on_bytes is not None:
                    on_bytes(count)
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}") from None


class DigestCache:
    """Remembers digests in SQLite. Disposable: an unusable database is replaced, and losing it costs time only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._guard = threading.Lock()
        self._connection = _open_database(path)

    @classmethod
    def default(cls) -> Self:
        """The user's cache, in the cache directory."""
        return cls(cache_directory() / "digests.sqlite")

    def get(self, path: Path) -> Digests | None:
        """The remembered digests of `path`, if it has not changed since."""
        try:
            key = _identity(path.stat())
        except OSError:
            return None
        try:
            with self._guard:
                row = self._connection.execute(
                    "SELECT sha256, xxh3, sample FROM sampled WHERE device=? AND inode=? AND size=? AND mtime_ns=?",
                    key,
                ).fetchone()
        except sqlite3.Error:
            return None
        if row is None or row[2] != _sample(path, key[2]):
            return None
        return Digests(key[2], row[0], row[1])

    def put(self, path: Path, digests: Digests) -> None:
        """Remember the digests of `path` as it is now, unless it changed too recently to be sure."""
        try:
            status = path.stat()
        except OSError:
            return
        if status.st_size != digests.size or time.time_ns() - status.st_mtime_ns < SETTLE_NS:
            return
        self._store(path, status, digests)

    def trust(self, path: Path, digests: Digests) -> None:
        """Remember digests of a file this process has just written and closed, however recent it is."""
        try:
            status = path.stat()
        except OSError:
            return
        if status.st_size == digests.size:
            self._store(path, status, digests)

    def _store(self, path: Path, status: os.stat_result, digests: Digests) -> None:
        sample = _sample(path, status.st_size)
        if sample is None:
            return
        # A cache on a full disk, or one that somebody deleted meanwhile, must not stop what it serves.
        with self._guard, suppress(sqlite3.Error):
            self._connection.execute(
                "INSERT OR REPLACE INTO sampled VALUES (?,?,?,?,?,?,?)",
                (*_identity(status), digests.sha256, digests.xxh3, sample),
            )

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    # SQLite integers are signed 64 bits; device and inode numbers of some file systems are not.
    wrap = (1 << 63) - 1
    return status.st_dev & wrap, status.st_ino & wrap, status.st_size, status.st_mtime_ns


def _sample(path: Path, size: int) -> int | None:
    """XXH3 of three samples of a file, as SQLite can keep it; None if it cannot be read."""
    found = xxhash.xxh3_64()
    try:
        with path.open("rb", buffering=0) as file:
            for start in sorted({0, max(0, size // 2 - SAMPLE_BYTES // 2), max(0, size - SAMPLE_BYTES)}):
                file.seek(start)
                found.update(file.read(SAMPLE_BYTES))
    except OSError:
        return None
    return found.intdigest() >> 1


_TABLE = (
    "CREATE TABLE IF NOT EXISTS sampled(device INTEGER, inode INTEGER, size INTEGER, mtime_ns INTEGER,"
    " sha256 TEXT NOT NULL, xxh3 TEXT NOT NULL, sample INTEGER NOT NULL,"
    " PRIMARY KEY(device, inode, size, mtime_ns)) WITHOUT ROWID"
)


def _open_database(path: Path) -> sqlite3.Connection:
    for attempt in ("existing", "fresh"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(_TABLE)
        except (sqlite3.DatabaseError, OSError):
            if attempt == "fresh":
                break
            with suppress(OSError):
                path.unlink(missing_ok=True)
        else:
            return connection
    # A read-only home must not stop a pull: remember for this process only.
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.execute(_TABLE)
    return connection


def hash_files(
    paths: Iterable[Path],
    *,
    cache: DigestCache | None = None,
    jobs: int | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> dict[Path, Digests]:
    """Digests of many files, on all cores (hashlib and xxhash release the interpreter lock).

    Args:
        paths: regular files; largest are started first.
        cache: consulted before reading, filled after; None reads every byte.
        jobs: threads; the number of cores by default.
        on_bytes: called with byte counts as files are read or found in the cache, from several threads.

    Raises:
        DiskError: a file cannot be read.
    """
    try:
        ordered = sorted(set(paths), key=lambda path: -path.stat().st_size)
    except OSError as error:
        raise DiskError(f"{error.filename}: cannot be read: {error.strerror}") from None

    found: dict[Path, Digests] = {}
    for path in ordered:
        known = cache.get(path) if cache is not None else None
        if known is not None:
            found[path] = known
            if on_bytes is not None:
                on_bytes(known.size)

    def one(path: Path) -> Digests:
        digests = hash_file(path, on_bytes=on_bytes)
        if cache is not None:
            cache.put(path, digests)
        return digests

    unknown = [path for path in ordered if path not in found]
    if unknown:
        # Imported here: a look at what has not changed is over in the time that this takes to load.
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(max_workers=jobs or os.cpu_count() or 1) as pool:
            found.update(zip(unknown, pool.map(one, unknown), strict=True))
    return found
