"""A file whose bytes arrive, from one connection or several: kept whatever happens, hashed in order.

While one connection brings a file, `.zoo/partial/<name>` holds its beginning and nothing else. As soon as another one
brings a later part, the file has holes, and `<name>.ranges` beside it says which bytes are there (`zoo.spans`).
"""

from __future__ import annotations

import os
import re
import threading
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from zoo.digests import Digests, Hasher
from zoo.errors import DiskError
from zoo.folder import ETAG_SUFFIX, RANGES_SUFFIX, boot_id, read_ranges
from zoo.plan.parts import PartRule, next_part
from zoo.spans import Spans, record

CATCH_UP_BYTES = 256 << 10
"""Read back at once for the digest; stays in the CPU's second-level cache, as what comes from the network does."""

CATCH_UP_STEPS = 16
"""Such reads between two pieces from the network: no connection stands still for more than 4 MiB of hashing."""

FLUSH_BYTES = 256 << 20
"""After so many bytes of a file with holes they are flushed, and the record says so: a power cut costs no more."""

_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]{1,200}"')
"""RFC 9110, 8.8.3. A weak one (`W/"..."`) must not be used with `If-Range`."""


class PartLost(Exception):
    """The part was taken away from this connection: nothing may be written any more."""


class Part:
    """A part that one connection is bringing: from `position`, the next byte, up to `end`. Made by `Arriving.take`."""

    __slots__ = ("end", "position")

    def __init__(self, start: int, end: int) -> None:
        self.position = start
        self.end = end

    @property
    def missing(self) -> int:
        """Bytes that still have to come."""
        return self.end - self.position


class Arriving:
    """Bytes of one file, so far. Several threads may bring parts of it.

    What an earlier process left is read again for the digest, because the state of a hash cannot be saved; that
    happens while new bytes arrive, at sha256's rate, and saves the network from carrying it again.

    Args:
        path: where the bytes go; its folder exists.
        size: how many there will be.

    Attributes:
        expected: how many there will be.
        resumed: bytes that were there when it was opened.

    Raises:
        DiskError: the file cannot be written.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.expected = size
        self._received = 0
        self._parts: list[Part] = []
        self._sequence = 0
        self._safe = Spans()
        self._unflushed = 0
        self._flushing = False
        self._record: int | None = None
        self._reader: FileIO | None = None
        # Two locks, taken in this order: what is hashed; what is on disk.
        self._hashing = threading.Lock()
        self._guard = threading.Lock()
        self._hasher = Hasher()
        self._buffer = bytearray()
        try:
            self._handle = _open_own(path)
        except OSError as error:
            raise DiskError(f"{path}: cannot be written: {error.strerror}") from None
        try:
            self._there = self._left_behind()
        except OSError as error:
            self._close()
            raise DiskError(f"{path}: cannot be written: {error.strerror}") from None
        self._at = -1
        self.resumed = self.present

    @property
    def present(self) -> int:
        """Bytes that are on disk."""
        return self._there.total

    @property
    def missing(self) -> int:
        """Bytes that still have to come."""
        return self.expected - self.present

    @property
    def received(self) -> int:
        """Bytes that travelled, thrown away ones included."""
        return self._received

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

    @property
    def _ranges_path(self) -> Path:
        return self.path.with_name(self.path.name + RANGES_SUFFIX)

    # Who brings what

    def take(self, rule: PartRule) -> Part | None:
        """The next part that nobody brings; None if there is none. Give it back with `leave`.

        Raises:
            DiskError: the record of parts cannot be written.
        """
        with self._guard:
            found = next_part(self._there, [(part.position, part.end) for part in self._parts], self.expected, rule)
            if found is None:
                return None
            if found[0] != self._there.front:
                self._keep_record()
            part = Part(*found)
            self._parts.append(part)
            return part

    def take_everything(self, part: Part) -> None:
        """What is there or brought by others does not matter: this connection gets the whole file in one piece."""
        with self._guard:
            self._parts = [part] if part in self._parts else []
            part.end = self.expected

    def shorten(self, part: Part, end: int) -> None:
        """The server gives less than was asked for; the rest is free for others."""
        with self._guard:
            part.end = max(part.position, min(part.end, end))

    def leave(self, part: Part) -> None:
        """No more comes from this connection."""
        with self._guard, suppress(ValueError):
            self._parts.remove(part)

    def leave_all(self) -> None:
        """No more comes from any connection; whoever still writes gets `PartLost`."""
        with self._guard:
            self._parts.clear()

    def keep(self, part: Part, data: memoryview) -> int:
        """Keep the next bytes of a part; returns how many of them were not there yet.

        Raises:
            PartLost: the part belongs to nobody any more.
            DiskError: no space; what was kept before stays.
        """
        start, end = part.position, part.position + len(data)
        with self._guard:
            # Under the lock, so that nothing can be written once a part has been taken away. The kernel would let
            # writers of one file wait for each other anyway.
            self._received += len(data)
            if part not in self._parts:
                raise PartLost
            gaps = self._there.gaps(start, end)
            try:
                for first, last in gaps:
                    self._write(data[first - start : last - start], first)
                part.position = end
                self._there = self._there.plus(start, end)
                if self._record is not None:
                    self._write_record()
            except OSError as error:
                if self._record is None:
                    # What was written of this piece stays; the next process reads it again for the digest.
                    self._there = Spans.of([(0, os.fstat(self._handle).st_size)])
                raise self._unwritable(error) from None
        self._digest(start, data if gaps.total == len(data) else None)
        self._flush_sometimes(gaps.total)
        return gaps.total

    def _flush_sometimes(self, count: int) -> None:
        """Let a power cut cost little. It has to be flushed in the end; meanwhile other connections go on."""
        with self._guard:
            self._unflushed += count
            if self._record is None or self._unflushed < FLUSH_BYTES or self._flushing:
                return
            self._flushing, self._unflushed = True, 0
            there, handle = self._there, os.dup(self._handle)
        try:
            os.fsync(handle)
        except OSError as error:
            raise self._unwritable(error) from None
        finally:
            os.close(handle)
            with self._guard:
                self._flushing = False
        with self._guard:
            # Unless everything was thrown away meanwhile.
            if self._record is not None and there.front <= self._there.front:
                self._safe = there

    def skip(self, count: int) -> None:
        """Bytes travelled that were there before."""
        with self._guard:
            self._received += count

    def discard(self, keep: Part | None = None) -> int:
        """Start again from nothing; returns how many bytes are thrown away.

        All parts are taken away, but for `keep`, which becomes the whole file.
        """
        with self._hashing, self._guard:
            thrown_away = self.present
            self._parts = []
            if keep is not None:
                keep.position, keep.end = 0, self.expected
                self._parts = [keep]
            os.ftruncate(self._handle, 0)
            self._there = self._safe = Spans()
            self._hasher = Hasher()
            self._forget_record()
            self._etag_path.unlink(missing_ok=True)
            return thrown_away

    def _write(self, data: memoryview, at: int) -> None:
        if at != self._at:
            self._at = os.lseek(self._handle, at, os.SEEK_SET)
        try:
            written = 0
            while written < len(data):
                count = os.write(self._handle, data[written:])
                written += count
                self._at += count
        except OSError:
            self._at = -1
            raise

    def _unwritable(self, error: OSError) -> DiskError:
        return DiskError(
            f"{self.path}: cannot be written: {error.strerror}",
            hint="free some space and run the same command again; what has arrived is kept",
        )

    # The digest

    def catch_up(self) -> None:
        """Hash everything that is there without a gap, unless another thread is at it.

        Raises:
            DiskError: what arrived cannot be read back.
        """
        if self._hashing.acquire(blocking=False):
            try:
                while self._read_back():
                    pass
            finally:
                self._hashing.release()

    def digests(self) -> Digests:
        """Of everything; call it when nothing is missing.

        Raises:
            DiskError: what arrived cannot be read back.
        """
        with self._hashing:
            while self._read_back():
                pass
            return self._hasher.digests()

    def _digest(self, start: int, data: memoryview | None) -> None:
        """Hash the piece in hand if it is what the digest waits for, else some of what it waits for."""
        if not self._hashing.acquire(blocking=False):
            return
        try:
            if data is not None and start == self._hasher.size:
                self._hasher.update(data)
                return
            for _ in range(CATCH_UP_STEPS):
                if not self._read_back():
                    return
        finally:
            self._hashing.release()

    def _read_back(self) -> bool:
        """Hash the next bytes from the disk, most likely from its cache; False if there are none."""
        waiting = self._there.front - self._hasher.size
        if waiting <= 0 or self._handle < 0:
            return False
        if not self._buffer:
            self._buffer = bytearray(CATCH_UP_BYTES)
        view = memoryview(self._buffer)[: min(waiting, CATCH_UP_BYTES)]
        try:
            if self._reader is None:
                self._reader = self.path.open("rb", buffering=0)
            self._reader.seek(self._hasher.size)
            count = self._reader.readinto(view)
        except OSError as error:
            raise DiskError(f"{self.path}: cannot be read: {error.strerror}") from None
        if not count:
            raise DiskError(f"{self.path}: became shorter while it was fetched", hint="does another program use it?")
        self._hasher.update(view[:count])
        return True

    # What an earlier process left

    def _left_behind(self) -> Spans:
        size = os.fstat(self._handle).st_size
        known = read_ranges(self.path, self.expected)
        if known is not None:
            self._sequence = known.sequence
            self._safe = known.safe.within(0, size)
            self._record = _open_own(self._ranges_path)
            return known.believed(boot_id()).within(0, size)
        self._ranges_path.unlink(missing_ok=True)
        if size > self.expected:
            os.ftruncate(self._handle, 0)
            size = 0
        return Spans.of([(0, size)])

    def _keep_record(self) -> None:
        """From now on the file may have holes, and only the record says what is there."""
        if self._record is not None:
            return
        fresh = self._ranges_path.with_name(self._ranges_path.name + ".new")
        try:
            fresh.unlink(missing_ok=True)
            handle = _open_own(fresh)
            try:
                self._record = handle
                self._write_record()
                fresh.replace(self._ranges_path)
            except OSError:
                self._record = None
                os.close(handle)
                raise
        except OSError as error:
            raise self._unwritable(error) from None

    def _write_record(self) -> None:
        assert self._record is not None
        self._sequence += 1
        place, line = record(self._there, self.expected, self._sequence, self._safe, boot_id())
        os.lseek(self._record, place, os.SEEK_SET)
        os.write(self._record, line)

    def _forget_record(self) -> None:
        if self._record is not None:
            os.close(self._record)
            self._record = None
        self._ranges_path.unlink(missing_ok=True)

    def settle(self) -> None:
        """The bytes are right: make sure they outlive a power cut before anything says that they are there."""
        try:
            os.fsync(self._handle)
        except OSError as error:
            raise DiskError(f"{self.path}: cannot be written: {error.strerror}") from None
        with self._guard:
            self._forget_record()
        self._etag_path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._hashing, self._guard:
            self._parts.clear()
            nothing_came = self.expected > 0 and not self._there.total
            if nothing_came:
                self._forget_record()
            self._close()
            if nothing_came:
                for path in (self.path, self._etag_path):
                    path.unlink(missing_ok=True)

    def _close(self) -> None:
        os.close(self._handle)
        self._handle = -1
        if self._reader is not None:
            self._reader.close()
        if self._record is not None:
            os.close(self._record)
            self._record = None


def _open_own(path: Path) -> int:
    """Open for writing a file that has no other name: a hard link would be written through."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    if path.is_symlink() or (path.exists() and path.stat().st_nlink > 1):
        path.unlink()
    return os.open(path, flags, 0o644)
