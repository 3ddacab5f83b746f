"""Making the lock of an entry that is published as one zip file: download it once, read it, digest what is wanted."""

from __future__ import annotations

import hashlib
import re
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from zoo.archive import ArchiveMember, read_members, unpack
from zoo.catalog import Entry
from zoo.digests import DigestCache, Digests, Hasher, hash_files
from zoo.errors import DigestMismatch, DiskError, HubError, UsageError
from zoo.events import Progress
from zoo.folder import ETAG_SUFFIX
from zoo.lock import LockedArchive
from zoo.plan.archive import archive_contents, lock_from_archive
from zoo.transfer.answers import TryAgain
from zoo.transfer.archive import archive_file, forget
from zoo.transfer.http import CONNECT_SECONDS, READ_SECONDS, HttpFetcher, Retry
from zoo.transfer.locking import Locked
from zoo.transfer.remote import archive_url, offline

_CONTENT_RANGE = re.compile(r"bytes 0-0/(\d+)")


def lock_archive(entry: Entry, path: Path, digests: Digests, progress: Progress) -> Locked:
    """Lock what a zip file has, as the archive that the manifest names. Only wanted members are unpacked.

    Args:
        entry: what it should hold.
        path: the zip file.
        digests: of it.
        progress: receives progress in bytes.

    Raises:
        InvalidDocument: not a zip file, a damaged or hostile one, or something is missing in it.
        UnsafePath: a name in it could leave a folder.
        DigestMismatch: a member is not what the archive's own checksum says.
        DiskError: it cannot be read.
    """
    url = manifest_archive(entry)
    try:
        members = read_members(path)
        contents = archive_contents(entry, members, where=str(path))
        wanted = {member.name: member for member in contents.members.values()}
        progress.start(path.name, sum(member.size for member in wanted.values()))
        found = {
            name: _digest(path, member, lambda count: progress.advance(path.name, count))
            for name, member in sorted(wanted.items())
        }
        progress.finish(path.name)
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}") from None
    archive = LockedArchive(url=url, size=digests.size, sha256=digests.sha256)
    by_path = {bundle: found[member.name] for bundle, member in contents.members.items()}
    lock = lock_from_archive(entry, archive, contents, by_path, known=entry.lock)
    return Locked(lock, contents.left_out, f"{url} ({digests.sha256[:16]})")


def manifest_archive(entry: Entry) -> str:
    """The address of the entry's archive.

    Raises:
        UsageError: it is not published as an archive.
    """
    if entry.manifest.archive is None:
        raise UsageError(
            f"{entry.id} is not published as an archive",
            hint="give the manifest an [archive] table, or unpack the file and use --from DIR",
        )
    return entry.manifest.archive.url


def lock_archive_file(entry: Entry, path: Path, *, cache: DigestCache | None, progress: Progress) -> Locked:
    """Lock a zip file on this disk: it is the one that the manifest's address has, says who names it.

    Raises:
        UsageError, InvalidDocument, UnsafePath, DigestMismatch, DiskError: as `lock_archive`.
    """
    manifest_archive(entry)
    digests = hash_files([path], cache=cache)[path]
    return lock_archive(entry, path, digests, progress)


def lock_published_archive(entry: Entry, directory: Path, progress: Progress) -> Locked:
    """Download the entry's archive and lock it. It is kept, so that `zoo pull` need not fetch it again.

    Args:
        entry: what it should hold.
        directory: where archives are kept, as `<sha256>.zip`; an interrupted download is continued there.
        progress: receives progress in bytes.

    Raises:
        HubError: it cannot be had.
        UsageError, InvalidDocument, UnsafePath, DigestMismatch, DiskError: as `lock_archive`.
    """
    import contextlib

    from filelock import FileLock

    url = manifest_archive(entry)
    address = archive_url(url)
    part = directory / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.part"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(part.with_suffix(".lock")), contextlib.closing(HttpFetcher(address)) as fetcher:
            if not part.with_name(part.name + ETAG_SUFFIX).is_file():
                # No digest is known yet: without a validator nothing would notice two halves of different archives.
                forget(part)
            order = archive_file(LockedArchive(url=url, size=announced_size(address)))
            digests = fetcher.fetch_address(address, order, part, progress).digests
            kept = directory / f"{digests.sha256}.zip"
            part.replace(kept)
    except OSError as error:
        raise DiskError(f"{error.filename or directory}: cannot be written: {error.strerror or error}") from None
    return lock_archive(entry, kept, digests, progress)


def announced_size(url: str, retry: Retry | None = None) -> int:
    """How many bytes a server says that an address has.

    Args:
        url: the address.
        retry: patience with a server that is busy or not there.

    Raises:
        HubError: no answer, or one without a size.
    """
    if offline():
        raise HubError(f"{url}: must be asked for, but HF_HUB_OFFLINE is set", hint="unset it, or use --from FILE.zip")
    retry = retry or Retry(attempts=3)
    for failures in range(1, retry.attempts):
        try:
            return _ask_for_size(url)
        except TryAgain as again:
            time.sleep(retry.wait(failures) if again.wait is None else again.wait)
    try:
        return _ask_for_size(url)
    except TryAgain as again:
        raise again.error from None


def _ask_for_size(url: str) -> int:
    import requests

    headers = {"Range": "bytes=0-0", "Accept-Encoding": "identity"}
    by_hand = "download it by other means and use --from FILE.zip"
    try:
        with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)) as answer:
            status, announced = answer.status_code, answer.headers.get("Content-Length", "")
            part = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    except requests.exceptions.RequestException as error:
        reason = f"{url}: the connection failed ({type(error).__name__})"
        raise TryAgain(HubError(reason, hint=f"check the network, or {by_hand}")) from None
    if status in (408, 425, 429) or status >= 500:
        raise TryAgain(HubError(f"{url}: the server answered {status}", hint="try again later"))
    if status not in (200, 206):
        raise HubError(f"{url}: the server answered {status}", hint="is the address in the manifest still right?")
    size = part[1] if part is not None else announced if status == 200 else ""
    if not size.isdigit():
        raise HubError(f"{url}: the server does not say how long it is", hint=by_hand)
    return int(size)


def _digest(path: Path, member: ArchiveMember, on_bytes: Callable[[int], None]) -> Digests:
    hasher, crc = Hasher(), 0
    where = f"{path}: {member.name}"
    with path.open("rb") as file:
        pieces = unpack(
            file, offset=member.offset, packed=member.packed, size=member.size, method=member.method, where=where
        )
        for piece in pieces:
            hasher.update(piece)
            crc = zlib.crc32(piece, crc)
            on_bytes(len(piece))
    if crc != member.crc32:
        raise DigestMismatch(
            f"{where}: CRC-32 is {crc:08x}, the archive says {member.crc32:08x}", hint="the archive is damaged"
        )
    return hasher.digests()
