"""Uploads by xet without a xet server: the client writes into a folder of the Hub, the Hub reads it.

hf_xet keeps content in a plain folder if the server it is sent to is called `local:///folder` (xet-core,
`xet_data/src/processing/configurations.rs`; a mode its authors made for tests). The Hub hands out a fresh folder with
every write token, and when a commit names a large object that did not come by LFS, looks for its digest in the folders
of that repo, reads the content out, checks its sha256 and keeps it as a blob like any other.

A folder per token, because hf_xet locks its index as long as the client lives, and because a client that met the same
folder again would leave out chunks which the Hub has cleared away meanwhile.

    uploads/xet-<random>/xet/xorbs/     (`uploads` may be entered by the user who runs the Hub alone)
        global_dedup_lookup.redb        the index: xet hash -> shard
        shards/<hash>.mdb               which chunks a file consists of, and its sha256
        xorbs/default.<hash>            the chunks
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import shutil
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.hub_server.blobs import Blobs
from zoo.hub_server.errors import Refusal, bad_request
from zoo.hub_server.records import RepoId

TOKEN_LIFE_S = 24 * 3600
"""How long a write token, and so one upload, lasts."""

STAGE_LIFE_S = 3600
"""A folder that nothing was written to for so long belongs to an upload that was given up."""

QUIET_S = 60
"""A folder that was written to more recently may be in use."""

XET_BUFFER_BYTES = 16 << 20
"""What hf_xet may hold while it reads a file back; its own choice is gigabytes."""

_BUFFERS = (
    "download_buffer_size",
    "download_buffer_perfile_size",
    "download_buffer_limit",
    "min_prefetch_buffer",
    "min_reconstruction_fetch_size",
    "max_reconstruction_fetch_size",
)

_INDEX = "global_dedup_lookup.redb"

_NOBODY = RepoId("models", "")

_HEADER_SIZE = 48
_ROW = struct.Struct("<32sII8x")
"""Everything in a shard is a row of 48 bytes; a file begins with its hash, flags and number of segments
(xet-core, `xet_core_structures/src/metadata_shard/file_structs.rs`)."""

_SEGMENT = struct.Struct("<36xI8x")
_HAS_VERIFICATION = 1 << 31
_HAS_METADATA = 1 << 30
_LAST_ROW = b"\xff" * 32


@dataclass(frozen=True)
class XetFile:
    """A file in a shard: its xet hash, its sha256 as the client told it, and its size in bytes."""

    xet_hash: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Stage:
    """A folder that a client was told to write to; the client makes it.

    Attributes:
        repo: what the upload is for.
        path: the folder.
        started: when the client was told (seconds since the epoch).
    """

    repo: RepoId
    path: Path
    started: float

    @property
    def url(self) -> str:
        """What the client is told as the address of the xet server."""
        return f"local://{self.path}"

    def files(self) -> dict[str, XetFile]:
        """What was uploaded to it so far, by sha256."""
        found: dict[str, XetFile] = {}
        for shard in sorted((self.path / "xet" / "xorbs" / "shards").glob("*.mdb")):
            with contextlib.suppress(FileNotFoundError):
                found |= {file.sha256: file for file in parse_shard(shard.read_bytes())}
        return found

    def idle_s(self, now: float) -> float:
        """Seconds since anything was written to it."""
        newest = self.started
        for path in self.path.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                newest = max(newest, path.stat().st_mtime)
        return now - newest


def parse_shard(data: bytes) -> list[XetFile]:
    """The files that a shard describes with a sha256.

    Args:
        data: the `.mdb` file: a header, then per file one row, its segments, and what its flags say follows.

    Raises:
        Refusal: 400, if it ends too early.
    """
    found: list[XetFile] = []
    at = _HEADER_SIZE
    try:
        while True:
            xet_hash, flags, count = _ROW.unpack_from(data, at)
            if xet_hash == _LAST_ROW:
                return found
            at += _ROW.size
            size = sum(_SEGMENT.unpack_from(data, at + i * _ROW.size)[0] for i in range(count))
            at += count * _ROW.size * (2 if flags & _HAS_VERIFICATION else 1)
            if flags & _HAS_METADATA:
                sha256, _, _ = _ROW.unpack_from(data, at)
                at += _ROW.size
                found.append(XetFile(_hex(xet_hash), _hex(sha256), size))
    except struct.error:
        raise bad_request("The upload by xet is incomplete") from None


def _hex(raw: bytes) -> str:
    """Xet writes hashes as four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


class XetStages:
    """The folders of all uploads by xet that are under way."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._lock = threading.Lock()
        self._stages: list[Stage] = []
        self._trial = threading.Lock()
        self._works: bool | None = None

    def works(self) -> bool:
        """Whether hf_xet is here and still does what this module relies on; tried out once."""
        with self._trial:
            if self._works is None:
                self._works = importlib.util.find_spec("hf_xet") is not None and _try_out(self)
            return self._works

    def open(self, repo: RepoId) -> Stage:
        """A fresh folder for an upload to `repo`."""
        path = self._blobs.scratch_path().resolve()
        stage = Stage(repo, path.with_name(f"xet-{path.name}"), time.time())
        with self._lock:
            self._stages.append(stage)
        return stage

    def fetch(self, repo: RepoId, wanted: Collection[str]) -> set[str]:
        """Make blobs of large objects that were uploaded to `repo`.

        Args:
            repo: the repo.
            wanted: their sha256.

        Returns:
            Those that were there.

        Raises:
            Refusal: 400, if the content is not what its description says.
        """
        found: set[str] = set()
        for stage in self._all():
            if stage.repo != repo:
                continue
            files = stage.files()
            here = [files[sha256] for sha256 in wanted if sha256 in files and sha256 not in found]
            if here:
                self._read_out(stage, here)
            found |= {file.sha256 for file in here}
        return found

    def sweep(self, has_object: Callable[[RepoId, str], bool], repo: RepoId | None = None) -> None:
        """Remove folders whose content was taken over, and those of uploads that were given up.

        Args:
            has_object: whether a repo has the large object of a sha256.
            repo: the repo that a commit was just made to: the uploads before it are over. None to look at all folders
                and to leave those alone that may still be written to.
        """
        now = time.time()
        for stage in self._all():
            if repo is not None and stage.repo != repo:
                continue
            idle_s = stage.idle_s(now)
            if repo is not None or idle_s > QUIET_S:
                names = stage.files()
                is_taken = bool(names) and all(has_object(stage.repo, sha256) for sha256 in names)
                if is_taken or idle_s > (STAGE_LIFE_S if stage.path.exists() else TOKEN_LIFE_S):
                    self.forget(stage)

    def _all(self) -> list[Stage]:
        with self._lock:
            return list(self._stages)

    def forget(self, stage: Stage) -> None:
        """Remove a folder."""
        with self._lock:
            self._stages = [other for other in self._stages if other != stage]
        shutil.rmtree(stage.path, ignore_errors=True)

    def _read_out(self, stage: Stage, files: Iterable[XetFile]) -> None:
        import hf_xet  # type: ignore[import-untyped]

        try:
            with _view(stage.path, self._blobs.scratch_path()) as url:
                group = _session().new_download_stream_group(endpoint=url)
                try:
                    for file in files:
                        self._keep(group, file)
                finally:
                    group.abort()
        except (RuntimeError, ConnectionError, FileNotFoundError, ValueError, hf_xet.XetObjectNotFoundError) as error:
            # The kinds that hf_xet raises; its text goes on for lines that help nobody.
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise bad_request(f"What was uploaded by xet cannot be read: {reason}") from None

    def _keep(self, group: Any, file: XetFile) -> None:
        import hf_xet

        writer = self._blobs.writer(file.size)
        try:
            # Streamed, so that the digest is computed from what is written; hf_xet itself checks none.
            for piece in group.download_stream(hf_xet.XetFileInfo(file.xet_hash, file.size)):
                writer.write(piece)
            writer.finish(file.sha256, file.size)
        finally:
            writer.abort()


@contextlib.contextmanager
def _view(stage: Path, scratch: Path) -> Iterator[str]:
    """The address of a second folder with the same content: the client may still hold the lock of the first."""
    source, target = stage / "xet" / "xorbs", scratch / "xet" / "xorbs"
    target.mkdir(parents=True)
    try:
        for name in ("xorbs", "shards"):
            (target / name).symlink_to(source / name, target_is_directory=True)
        shutil.copyfile(source / _INDEX, target / _INDEX)
        yield f"local://{scratch}"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@functools.cache
def _session() -> Any:
    import hf_xet

    sizes = {f"reconstruction.{name}": XET_BUFFER_BYTES for name in _BUFFERS}
    return hf_xet.XetSession(hf_xet.XetConfig().with_config({**sizes, "telemetry.enabled": False}))


def _try_out(stages: XetStages) -> bool:
    """Upload a few bytes as a client does and read them back."""
    import hf_xet

    content = b"zoo"
    sha256 = hashlib.sha256(content).hexdigest()
    stage = stages.open(_NOBODY)
    try:
        commit = _session().new_upload_commit(endpoint=stage.url)
        commit.start_upload_bytes(content, sha256=hf_xet.COMPUTE_SHA256)
        commit.wait_to_finish()
        return stages.fetch(_NOBODY, [sha256]) == {sha256}
    except (AttributeError, TypeError, RuntimeError, OSError, ValueError, Refusal):
        return False
    finally:
        stages.forget(stage)
