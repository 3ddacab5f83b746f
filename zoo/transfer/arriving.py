"""A file whose bytes arrive: appended to `.zoo/partial/<name>`, hashed as they pass, kept whatever happens."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import TracebackType
from typing import Self

from zoo.digests import READ_BYTES, Digests, Hasher
from zoo.errors import DiskError
from zoo.folder import ETAG_SUFFIX

_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]{1,200}"')
"""RFC 9110, 8.8.3. A weak one (`W/"..."`) must not be used with `If-Range`."""


class Arriving:
    """Bytes of one file, so far. Not thread-safe: one file is fetched by one thread.

    Opening it reads what an earlier process left, because the state of a hash cannot be saved; that runs at the
    disk's and sha256's rate (about 2 GB a second) and saves the network from carrying it again.

    Args:
        path: where the bytes go; its folder exists.
        size: how many there will be.

    Attributes:
        received: bytes that travelled, thrown away ones included.
        resumed: bytes that were there when it was opened.

    Raises:
        DiskError: the file cannot be written.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.expected = size
        self.received = 0
        self._hasher = Hasher()
        try:
            self._handle = _open_own(path)
        except OSError as error:
            raise DiskError(f"{path}: cannot be written: {error.strerror}") from None
        try:
            if os.fstat(self._handle).st_size > size:
                os.ftruncate(self._handle, 0)
            self._read_prefix()
        except OSError as error:
            os.close(self._handle)
            raise DiskError(f"{path}: cannot be written: {error.strerror}") from None
        self.resumed = self.size

    @property
    def size(self) -> int:
        """Bytes that are on disk and in the hash."""
        return self._hasher.size

    @property
    def missing(self) -> int:
        """Bytes that still have to come."""
        return self.expected - self.size

    @property
    def etag(self) -> str | None:
        """The validator the server gave with the first bytes, if it was a strong one."""
        try:
            text = self._etag_path.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            return None
        return text if _STRONG_ETAG.fullmatch(text) else None

    @etag.setter
    def etag(self, value: str | None) -> None:
        if value is None or not _STRONG_ETAG.fullmatch(value):
            self._etag_path.unlink(missing_ok=True)
        elif value != self.etag:
            self._etag_path.write_text(value, encoding="ascii")

    @property
    def _etag_path(self) -> Path:
        return self.path.with_name(self.path.name + ETAG_SUFFIX)

    def append(self, data: bytes) -> None:
        """Keep the next bytes.

        Raises:
            DiskError: no space; what was kept before stays.
        """
        view = memoryview(data)
        written = 0
        try:
            while written < len(view):
                written += os.write(self._handle, view[written:])
        except OSError as error:
            os.ftruncate(self._handle, self.size)
            raise DiskError(
                f"{self.path}: cannot be written: {error.strerror}",
                hint="free some space and run the same command again; what has arrived is kept",
            ) from None
        self._hasher.update(data)

    def discard(self) -> int:
        """Start again from nothing; returns how many bytes are thrown away."""
        thrown_away = self.size
        os.ftruncate(self._handle, 0)
        os.lseek(self._handle, 0, os.SEEK_SET)
        self._etag_path.unlink(missing_ok=True)
        self._hasher = Hasher()
        return thrown_away

    def digests(self) -> Digests:
        """Of everything so far."""
        return self._hasher.digests()

    def settle(self) -> None:
        """The bytes are right: make sure they outlive a power cut before anything says that they are there."""
        try:
            os.fsync(self._handle)
        except OSError as error:
            raise DiskError(f"{self.path}: cannot be written: {error.strerror}") from None
        self._etag_path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._handle)

    def _read_prefix(self) -> None:
        while data := os.read(self._handle, READ_BYTES):
            self._hasher.update(data)


def _open_own(path: Path) -> int:
    """Open for writing a file that has no other name: a hard link would be written through."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    if path.is_symlink() or (path.exists() and path.stat().st_nlink > 1):
        path.unlink()
    return os.open(path, flags, 0o644)
