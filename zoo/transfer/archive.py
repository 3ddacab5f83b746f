"""Brings files that are published inside one zip file: the archive whole, or just the wanted members by Range.

The lock says where in the archive each file's bytes lie, so the archive's own directory is never read here. A whole
archive is verified while it streams; every file is verified by its own sha256 when it is unpacked.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from zoo.archive import unpack
from zoo.digests import DigestCache, Digests, Hasher, hash_files
from zoo.errors import DigestMismatch, InvalidDocument, ZooError
from zoo.events import Progress
from zoo.folder import PARTIAL_SUFFIXES
from zoo.lock import LockedArchive, LockedFile, Member
from zoo.plan.archive import ArchivePlan, packed_name
from zoo.transfer.http import TRIES, Fetched, RangesIgnored, Stopped
from zoo.transfer.remote import archive_url

ARCHIVE_COMPONENT = "archive"
"""Stands in for a component's name: an archive is no part of a bundle."""


class PartFetcher(Protocol):
    """Brings what lies at an address, or a part of it."""

    def fetch_address(
        self,
        url: str,
        file: LockedFile,
        target: Path,
        progress: Progress | None = None,
        *,
        begin: int = 0,
        of: LockedFile | None = None,
    ) -> Fetched:
        """Return when `target` has the bytes; see `HttpFetcher.fetch_address`."""

    def help(self, over: threading.Event) -> None:
        """Speed up what other threads fetch until `over` is set; see `HttpFetcher.help`."""


def archive_file(archive: LockedArchive) -> LockedFile:
    """The archive as a file that can be fetched; it has no place in a bundle."""
    name = archive.url.rsplit("/", 1)[-1]
    return LockedFile(path=name, component=ARCHIVE_COMPONENT, size=archive.size, sha256=archive.sha256)


class ArchiveSource:
    """Unpacks files of one archive; may be used from several threads.

    Args:
        plan: what of the archive travels.
        partials: the folder's directory of interrupted fetches.
        fetcher: brings bytes.
        stop: when set, unpacking ends with `Stopped`.
        cache: remembered digests.
        progress: told about the archive and about every file.
    """

    def __init__(
        self,
        plan: ArchivePlan,
        partials: Path,
        *,
        fetcher: PartFetcher,
        stop: threading.Event,
        cache: DigestCache | None,
        progress: Progress,
    ) -> None:
        self._plan = plan
        self._partials = partials
        self._fetcher = fetcher
        self._stop = stop
        self._cache = cache
        self._progress = progress
        self._url = archive_url(plan.archive.url)
        self._by_member = plan.how == "members"
        self._guard = threading.Lock()
        self._whole: Path | None = None
        self._failure: ZooError | None = None
        self._coming: threading.Event | None = None

    def fetch(self, file: LockedFile, target: Path) -> Fetched:
        """Bring a file to `target`; it is whole, verified and flushed to disk on return.

        Args:
            file: with its place in the archive.
            target: `.zoo/partial/<sha256>`.

        Raises:
            HubError, DigestMismatch, DiskError: as `HttpFetcher.fetch_address`; the lock is not of this archive.
            Stopped: `stop` was set.
        """
        member = file.member
        assert member is not None
        if self._by_member:
            try:
                return self._fetch_member(file, member, target)
            except RangesIgnored as ignored:
                with self._guard:
                    first, self._by_member = self._by_member, False
                if first:
                    self._progress.say(f"{ignored.message}; the whole archive is fetched")
        path, received, resumed = self._archive()
        return Fetched(self._unpack(path, member.offset, member, file, target), received, resumed)

    def _archive(self) -> tuple[Path, int, int]:
        """The archive on this disk; bytes that travelled for it, and that were there before, are told once."""
        while True:
            with self._guard:
                if self._stop.is_set():
                    raise Stopped
                if self._failure is not None:
                    raise self._failure
                if self._whole is not None:
                    return self._whole, 0, 0
                coming = self._coming
                if coming is None:
                    self._coming = coming = threading.Event()
                    break
            # Another thread fetches it: until it is there, this one's connection brings parts of it.
            self._fetcher.help(coming)
        try:
            self._whole, received, resumed = self._bring()
            return self._whole, received, resumed
        except ZooError as error:
            self._failure = error  # the other threads want the same and would only be patient once more
            raise
        finally:
            with self._guard:
                self._coming = None
            coming.set()

    def _bring(self) -> tuple[Path, int, int]:
        if self._plan.local is not None and self._prove(Path(self._plan.local)):
            return Path(self._plan.local), 0, 0
        assert self._plan.archive.sha256 is not None
        target = self._partials / self._plan.archive.sha256
        done = self._fetcher.fetch_address(self._url, archive_file(self._plan.archive), target, self._progress)
        return target, done.received, done.resumed

    def _prove(self, local: Path) -> bool:
        """Whether a copy elsewhere still is the archive."""
        with suppress(ZooError):
            if hash_files([local], cache=self._cache)[local].sha256 == self._plan.archive.sha256:
                return True
        self._progress.say(f"{local} changed meanwhile; the archive is fetched instead")
        return False

    def _fetch_member(self, file: LockedFile, member: Member, target: Path) -> Fetched:
        """One member by Range; once more if what comes does not unpack to the file."""
        whole = archive_file(self._plan.archive)
        if member.method == "stored":
            return self._fetcher.fetch_address(self._url, file, target, self._progress, begin=member.offset, of=whole)
        packed = self._partials / packed_name(file)
        order = LockedFile(path=f"{file.path} (packed)", component=ARCHIVE_COMPONENT, size=member.packed)
        received = resumed = 0
        for attempt in range(TRIES):
            done = self._fetcher.fetch_address(self._url, order, packed, self._progress, begin=member.offset, of=whole)
            received, resumed = received + done.received, resumed + done.resumed
            try:
                digests = self._unpack(packed, 0, member, file, target)
            except DigestMismatch:
                forget(packed)
                if attempt == TRIES - 1:
                    raise
                self._progress.say(f"{file.path}: bytes are not what the lock says; fetching it once more")
            else:
                forget(packed)
                return Fetched(digests, received, resumed)
        raise AssertionError("the last attempt returns or raises")

    def _unpack(self, source: Path, offset: int, member: Member, file: LockedFile, target: Path) -> Digests:
        """Write the member's bytes to `target` and prove them."""
        where = f"{self._plan.archive.url}: {member.name}"
        hasher = Hasher()
        self._progress.start(file.path, file.size)
        target.unlink(missing_ok=True)  # it may have other names, and what is left of it cannot be continued
        with source.open("rb") as archive, target.open("xb") as output:
            try:
                for piece in unpack(
                    archive, offset=offset, packed=member.packed, size=file.size, method=member.method, where=where
                ):
                    output.write(piece)
                    hasher.update(piece)
                    self._progress.advance(file.path, len(piece))
                    if self._stop.is_set():
                        raise Stopped
            except InvalidDocument as error:
                self._progress.advance(file.path, -hasher.size)
                raise DigestMismatch(error.message, hint=_WRONG) from None
            output.flush()
            os.fsync(output.fileno())
        digests = hasher.digests()
        if digests.sha256 != file.sha256:
            target.unlink(missing_ok=True)
            self._progress.advance(file.path, -hasher.size)
            raise DigestMismatch(
                f"{where}: expected sha256 {file.sha256}, found {digests.sha256}",
                hint=_WRONG,
            )
        self._progress.finish(file.path, "verified")
        return digests


_WRONG = "nothing was installed; if it stays so, take a new lock with `zoo lock`"


def forget(partial: Path) -> None:
    """Delete what has arrived of a file, and what is noted about it."""
    for suffix in ("", *PARTIAL_SUFFIXES):
        partial.with_name(partial.name + suffix).unlink(missing_ok=True)
