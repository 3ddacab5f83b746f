"""Bytes on disk, once for all repos, under the name their sha256 gives them.

    blobs/<2 hex>/<sha256>      the content, read-only
    xet/<2 hex>/<sha256>        its xet hash, as text (derived; may be deleted)
    uploads/                    what is still arriving; emptied when the Hub starts

A blob appears under its name by `os.replace`, after its digest was computed from the bytes that were written. A
killed process loses nothing that was there; a power cut may, for the content is not flushed to the medium.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from zoo.documents import write_atomically
from zoo.hub_server.errors import Refusal, bad_request, too_large

IO_SIZE = 1 << 20
"""Bytes per read and write. Smaller costs thread hops, larger gains nothing on loopback."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_sha256(oid: object) -> str:
    """Return `oid` if it is a lower-case sha256.

    Raises:
        Refusal: 400.
    """
    if not isinstance(oid, str) or not _SHA256.fullmatch(oid):
        raise bad_request(f"Invalid oid {str(oid)[:80]!r}: expected 64 lower-case hex digits")
    return oid


@dataclass
class MultipartUpload:
    """A large object that arrives in parts, each written at its place in one file.

    Attributes:
        oid: announced sha256.
        size: announced size in bytes.
        part_size: bytes of every part but the last.
        path: the file the parts go into.
        etags: part number (from 1) -> ETag given for it.
    """

    oid: str
    size: int
    part_size: int
    path: Path
    etags: dict[int, str] = field(default_factory=dict)

    @property
    def part_count(self) -> int:
        """How many parts there are."""
        return -(-self.size // self.part_size)

    def part_range(self, number: int) -> tuple[int, int]:
        """First byte and length of part `number`.

        Raises:
            Refusal: 400, if there is no such part.
        """
        if not 1 <= number <= self.part_count:
            raise bad_request(f"Part {number} of an upload of {self.part_count} parts")
        start = (number - 1) * self.part_size
        return start, min(self.part_size, self.size - start)


class BlobWriter:
    """Takes bytes as they come, counting and hashing them; `finish` or `abort` ends it."""

    def __init__(self, blobs: Blobs, limit: int) -> None:
        self._blobs = blobs
        self._limit = limit
        self._path = blobs.scratch_path()
        self._file: BinaryIO = self._path.open("xb")
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data`.

        Raises:
            Refusal: 413, if there is more than was announced.
        """
        self.size += len(data)
        if self.size > self._limit:
            raise too_large(f"More than the announced {self._limit} bytes were sent")
        self._hash.update(data)
        self._file.write(data)

    def finish(self, oid: str, size: int) -> None:
        """Keep the content under `oid` if it is what was announced.

        Raises:
            Refusal: 400, if size or digest differ; nothing is kept then.
        """
        self._file.close()
        self._blobs.adopt(self._path, oid, self._hash.hexdigest(), size=size, actual_size=self.size)

    def abort(self) -> None:
        """Forget what has arrived."""
        self._file.close()
        self._path.unlink(missing_ok=True)


class Blobs:
    """Content by sha256 in one directory."""

    def __init__(self, directory: Path) -> None:
        self._blobs = directory / "blobs"
        self._xet = directory / "xet"
        self._uploads = directory / "uploads"
        self._multiparts: dict[str, MultipartUpload] = {}
        self._xet_lock = threading.Lock()

    def prepare(self) -> None:
        """Make the folders and forget uploads that a killed process left behind."""
        self.clear_uploads()
        for folder in (self._blobs, self._xet, self._uploads):
            folder.mkdir(parents=True, exist_ok=True)
        self._uploads.chmod(0o700)

    def clear_uploads(self) -> None:
        """Forget what is still arriving."""
        shutil.rmtree(self._uploads, ignore_errors=True)

    def path(self, sha256: str) -> Path:
        """Where the content of `sha256` lies or would lie."""
        return self._blobs / sha256[:2] / sha256

    def size(self, sha256: str) -> int | None:
        """Size in bytes, or None if the content is not here."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, sha256: str) -> bytes:
        """A small blob whole."""
        return self.path(sha256).read_bytes()

    def scratch_path(self) -> Path:
        """A new name in the folder for what is still arriving."""
        return self._uploads / secrets.token_hex(16)

    def writer(self, limit: int) -> BlobWriter:
        """Start to receive an object of at most `limit` bytes."""
        return BlobWriter(self, limit)

    def put(self, data: bytes) -> str:
        """Keep `data` and return its sha256."""
        sha256 = hashlib.sha256(data).hexdigest()
        if self.size(sha256) is None:
            path = self.scratch_path()
            path.write_bytes(data)
            self.adopt(path, sha256, sha256, size=len(data), actual_size=len(data))
        return sha256

    def adopt(self, path: Path, oid: str, actual: str, *, size: int, actual_size: int) -> None:
        """Give the file at `path` its name, or delete it if it is not what was announced.

        Raises:
            Refusal: 400, naming both sizes or both digests.
        """
        refusal: Refusal | None = None
        if actual_size != size:
            refusal = bad_request(f"Size mismatch for {oid}: announced {size} bytes, received {actual_size}")
        elif actual != oid:
            refusal = bad_request(f"Digest mismatch: announced sha256 {oid}, received {actual}")
        if refusal is not None:
            path.unlink(missing_ok=True)
            raise refusal
        target = self.path(oid)
        target.parent.mkdir(exist_ok=True)
        path.chmod(0o444)
        path.replace(target)

    def start_multipart(self, oid: str, size: int, part_size: int) -> str:
        """Start an upload in parts and return its id. The file is sparse until the parts arrive."""
        upload_id = secrets.token_hex(16)
        path = self.scratch_path()
        with path.open("xb") as file:
            file.truncate(size)
        self._multiparts[upload_id] = MultipartUpload(oid, size, part_size, path)
        return upload_id

    def multipart(self, upload_id: str) -> MultipartUpload:
        """The upload `upload_id`.

        Raises:
            Refusal: 404, if it was finished or the Hub was restarted meanwhile.
        """
        try:
            return self._multiparts[upload_id]
        except KeyError:
            raise Refusal(404, "No such upload; it was finished, or the Hub was restarted") from None

    def finish_multipart(self, upload_id: str, etags: dict[int, str]) -> str:
        """Check the parts, hash the whole and keep it.

        Args:
            upload_id: as `start_multipart` returned it.
            etags: part number -> the ETag that the client was given.

        Returns:
            The sha256.

        Raises:
            Refusal: 400, if a part is missing or differs, or the digest is another one.
        """
        upload = self.multipart(upload_id)
        if etags != upload.etags or len(etags) != upload.part_count:
            raise bad_request(f"Upload of {upload.oid}: {len(upload.etags)} of {upload.part_count} parts are here")
        digest = hashlib.sha256()
        for chunk in read_chunks(upload.path, 0, upload.size):
            digest.update(chunk)
        del self._multiparts[upload_id]
        self.adopt(upload.path, upload.oid, digest.hexdigest(), size=upload.size, actual_size=upload.size)
        return upload.oid

    def xet_hash(self, sha256: str) -> str | None:
        """The xet hash of a blob, computed once; None where hf_xet is not installed.

        The stock client copies a file between repos only if it is told one (`HfApi._duplicate_lfs_files`).
        """
        note = self._xet / sha256[:2] / sha256
        if note.is_file():
            return note.read_text().strip()
        # One at a time: hf_xet uses all cores for one file.
        with self._xet_lock:
            if note.is_file():
                return note.read_text().strip()
            try:
                from hf_xet import hash_files  # type: ignore[import-untyped]
            except ImportError:
                return None
            found = str(hash_files([str(self.path(sha256))])[0].hash)
            write_atomically(note, f"{found}\n".encode())
            return found


def read_chunks(path: Path, start: int, length: int) -> Iterator[bytes]:
    """Yield `length` bytes of a file from `start`, in pieces of `IO_SIZE`."""
    with path.open("rb", buffering=0) as file:
        os.lseek(file.fileno(), start, os.SEEK_SET)
        while length > 0:
            chunk = file.read(min(IO_SIZE, length))
            if not chunk:
                raise OSError(f"{path}: {length} bytes are missing at its end")
            length -= len(chunk)
            yield chunk
