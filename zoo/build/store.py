"""Outputs of steps in a place that several machines see: a directory, or an object store that fsspec knows.

A second tier behind the step cache, for builds on a cluster whose machines share no file system, and for machines that
want what another one has made. What comes out of it is verified like any download.

```
<url>/store.json                        says that this is a store
<url>/<2 hex>/<key>/step.json           the record, and which folder has the files; written last
<url>/<2 hex>/<key>/<random>/...        the files of one run
```
"""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from zoo.build.cache import StepRecord
from zoo.digests import Digests
from zoo.documents import canonical_json
from zoo.errors import ConversionError, DiskError, UsageError, ZooError
from zoo.paths import check_bundle_path, resolve_inside

CHUNK_BYTES = 8 << 20

FileDigests = list[tuple[str, Digests]]

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci"})
"""Protocols that know keys, not folders. Asked for a folder, clients would make a bucket whose name is misspelt."""


class StepStore:
    """A place for outputs of steps. Nothing in it is trusted: names and digests are checked on the way out."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        """Open a store.

        Args:
            url: a directory, or `s3://bucket/steps`, `gs://...`, whatever fsspec has a file system for.
            options: for that file system.

        Raises:
            UsageError: no such kind of place, or its package is not installed.
        """
        import fsspec

        self.url = url if "://" in url else str(Path(url).absolute())  # workers elsewhere have another directory
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.url, **(options or {}))
        except (ValueError, ImportError) as error:
            raise UsageError(f"--store {url}: {error}", hint="a directory, or a URL that fsspec knows") from None
        protocol = self._files.protocol
        names = {protocol} if isinstance(protocol, str) else set(protocol)
        self._has_folders = names.isdisjoint(OBJECT_STORES)

    @contextlib.contextmanager
    def _answering(self, verb: str, kind: type[ZooError] = DiskError) -> Iterator[None]:
        """Whatever goes wrong in a client library is one line: botocore's errors, for one, are no `OSError`."""
        try:
            yield
        except ZooError:
            raise
        except Exception as error:  # noqa: BLE001 - client libraries raise what they like
            raise kind(f"{self.url}: cannot be {verb}: {error or type(error).__name__}") from None

    def _make_folder_of(self, path: str) -> None:
        if self._has_folders:
            self._files.makedirs(posixpath.dirname(path), exist_ok=True)

    def _write(self, path: str, data: bytes) -> None:
        self._make_folder_of(path)
        self._files.pipe_file(path, data)

    def check(self) -> None:
        """Write `store.json`, so that a store nobody can write to is told before hours of work.

        Raises:
            DiskError: it cannot be written.
        """
        try:
            with self._answering("written"):
                self._write(posixpath.join(self._root, "store.json"), canonical_json({"schema": 1}))
        except DiskError as error:
            hint = "the bucket and the credentials have to be there; see docs/build.md" if "://" in self.url else None
            raise DiskError(error.message, hint=hint) from None

    def _folder(self, key: str) -> str:
        return posixpath.join(self._root, key[:2], key)

    def fetch(self, key: str, output: Path) -> FileDigests | None:
        """Copy the files of a step into `output`, an empty directory, if the store has them.

        Returns:
            The files with their digests; None if the store has none, or a record that is none.

        Raises:
            ConversionError: the store cannot be read, or bytes are not what their digest says.
            DiskError: the files cannot be written here.
        """
        record_path = posixpath.join(self._folder(key), "step.json")
        try:
            with self._answering("read", ConversionError):
                try:
                    text = self._files.cat_file(record_path)
                except (FileNotFoundError, PermissionError):  # S3 has no other answer for who may not list
                    return None
            data = msgspec.json.decode(text)
            record = msgspec.convert(data["record"], StepRecord)
            folder = str(data["folder"])
        except (msgspec.MsgspecError, KeyError, TypeError):
            return None
        if record.key != key or folder != posixpath.basename(folder):
            return None
        files = [(file.path, Digests(file.size, file.sha256, file.xxh3)) for file in record.files]
        self.bring(key, folder, files, output)
        return files

    def bring(self, key: str, folder: str, files: Iterable[tuple[str, Digests]], output: Path) -> None:
        """Copy files of one run into `output`, verified.

        Raises:
            ConversionError: a file is missing or cannot be read, or its bytes are not what their digest says.
            DiskError: the files cannot be written here.
        """
        for path, expected in files:
            check_bundle_path(path, where=self.url)
            source = posixpath.join(self._folder(key), folder, path)
            target = resolve_inside(output, path)
            digest = hashlib.sha256()
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as writing:
                    for chunk in self._read(source):
                        digest.update(chunk)
                        writing.write(chunk)
            except OSError as error:
                raise DiskError(f"{target}: cannot be copied from {self.url}: {error}") from None
            if digest.hexdigest() != expected.sha256:
                raise ConversionError(f"{self.url}: {source} is not what its digest says")

    def _read(self, source: str) -> Iterator[bytes]:
        with self._answering(f"read at {source}", ConversionError), self._files.open(source, "rb") as reading:
            while chunk := reading.read(CHUNK_BYTES):
                yield chunk

    def put(self, key: str, output: Path, paths: Iterable[str]) -> str:
        """Copy the files of a run into a folder of their own, not to be found before `share`.

        Returns:
            The folder's name.

        Raises:
            DiskError: the store cannot be written.
        """
        folder = uuid.uuid4().hex
        with self._answering("written"):
            for path in paths:
                target = posixpath.join(self._folder(key), folder, path)
                self._make_folder_of(target)
                self._files.put_file(str(output / path), target)
        return folder

    def share(self, key: str, record: StepRecord, output: Path, folder: str | None) -> None:
        """Let others find a step.

        Args:
            key: of the step.
            record: what is in the output.
            output: where it lies here.
            folder: what `put` returned, if the files are in the store already.

        Raises:
            DiskError: the store cannot be written.
        """
        name = folder or self.put(key, output, [file.path for file in record.files])
        data = {"record": msgspec.to_builtins(record), "folder": name}
        with self._answering("written"):
            self._write(posixpath.join(self._folder(key), "step.json"), canonical_json(data))
