"""Tables that were solved once are kept for the next package with the same weights, in whichever process.

A table is kept under a digest of everything that decided it. The digest is XXH3-128: sha256 of a group costs more than
solving it does, five times as much even where the processor has instructions for it. Weights that were made to collide
could get each other's tables; by accident that happens to nobody.

The store is a cache. Losing it costs time only, it is bounded, several processes use it at once, and whatever is wrong
with it - damaged, locked, read-only, on a full disk - nothing is remembered and everything is solved.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

SOLVER = 1
"""Part of every key; raised whenever the same weights would get other tables."""

LIMIT = 64 << 20
"""Bytes of the database at most: half a million tables of 16 entries. Gemma 4 E4B has 21,000."""

LOCK_SECONDS = 5.0
"""How long another process may write; it does for less than a millisecond."""


def table_key(codes: Any, encoding: str, entries: int, importance: Any = None) -> bytes:
    """What a group's table is kept under.

    Args:
        codes: of its weights, in order; contiguous.
        encoding: what they mean.
        entries: of the table.
        importance: of each weight; None if all count the same.
    """
    digest = xxhash.xxh3_128(f"{SOLVER} {encoding} {entries} {importance is not None} ".encode())
    digest.update(codes)
    if importance is not None:
        digest.update(importance)
    return digest.digest()


class TableStore:
    """Solved tables in SQLite; threads may share it."""

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        """Open or create the database.

        Args:
            path: of its file.
            limit: bytes that it may have.
        """
        self._path = path
        self._guard = threading.Lock()
        self._connection = _open(path, limit)

    def find(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The table under each key; None where there is none or it is damaged."""
        with self._guard:
            if self._connection is None:
                return [None] * len(keys)
            try:
                query = "SELECT entries, checksum FROM solved WHERE key = ?"
                rows = [self._connection.execute(query, (key,)).fetchone() for key in keys]
            except sqlite3.Error as error:
                self._failed(error)
                return [None] * len(keys)
        return [
            row[0] if row and row[1] == _checksum(key, row[0]) else None for key, row in zip(keys, rows, strict=True)
        ]

    def keep(self, tables: Mapping[bytes, bytes]) -> None:
        """Keep tables under their keys."""
        rows = [(key, table, _checksum(key, table)) for key, table in tables.items()]
        with self._guard:
            if self._connection is None:
                return
            try:
                with self._connection:  # all of them or none
                    self._connection.executemany("INSERT OR REPLACE INTO solved VALUES (?, ?, ?)", rows)
            except sqlite3.Error as error:
                self._failed(error)

    def _failed(self, error: sqlite3.Error) -> None:
        """Go on without a database that is damaged; one that is locked or full may be of use again."""
        if not isinstance(error, sqlite3.OperationalError):
            self._close()
            _remove(self._path)

    def _close(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None

    def close(self) -> None:
        """Close the database; from then on nothing is found or kept."""
        with self._guard:
            self._close()


def _checksum(key: bytes, table: bytes) -> bytes:
    return xxhash.xxh3_64_digest(key + table)


def _open(path: Path, limit: int) -> sqlite3.Connection | None:
    """The database; a new one in place of one that is damaged; None where there can be none."""
    for _ in range(2):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=LOCK_SECONDS, check_same_thread=False)
        except (sqlite3.Error, OSError):
            return None
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            # With row numbers, which say what came first.
            connection.execute("CREATE TABLE IF NOT EXISTS solved(key BLOB PRIMARY KEY, entries BLOB, checksum BLOB)")
            _bound(connection, limit)
        except sqlite3.OperationalError:
            connection.close()
            return None
        except sqlite3.DatabaseError:
            connection.close()
            _remove(path)
        else:
            return connection
    return None


def _bound(connection: sqlite3.Connection, limit: int) -> None:
    """Make room by forgetting the older half if the database is nearly full, and let it grow to the limit only."""
    page, pages, free = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_size", "page_count", "freelist_count")
    )
    connection.execute(f"PRAGMA max_page_count={limit // page}")
    if (pages - free) * page > limit * 3 // 4:
        with connection:
            connection.execute("DELETE FROM solved WHERE rowid <= (SELECT (min(rowid) + max(rowid)) / 2 FROM solved)")


def _remove(path: Path) -> None:
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        with suppress(OSError):
            path.with_name(name).unlink(missing_ok=True)


@dataclass(slots=True)
class _Shared:
    place: Path | None = None
    store: TableStore | None = None


_shared = _Shared()


def remember_in(place: Path | None) -> None:
    """Where this process keeps the tables of packages from now on; None for nowhere, as it is at first."""
    if _shared.store is not None and place != _shared.place:
        _shared.store.close()
        _shared.store = None
    _shared.place = place


def shared_store() -> TableStore | None:
    """The store of this process, opened when it is first asked for."""
    if _shared.store is None and _shared.place is not None:
        _shared.store = TableStore(_shared.place)
    return _shared.store
