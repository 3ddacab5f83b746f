"""The route that takes a commit: one line of JSON for the header and for each change, read as it arrives."""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import Any

from starlette.responses import Response

from zoo.hub_server.blobs import Blobs, check_sha256
from zoo.hub_server.changes import REGULAR_LIMIT, Change, DeleteFile, DeleteFolder, KeptSmall, PutLarge
from zoo.hub_server.errors import bad_request, too_large
from zoo.hub_server.http import (
    Call,
    Route,
    answer,
    clean,
    in_slow_thread,
    parse_object,
    receive_into,
    size_field,
    text_field,
)
from zoo.hub_server.names import check_repo_path
from zoo.hub_server.records import Entry
from zoo.hub_server.repos import visible_repo

LINE_LIMIT = REGULAR_LIMIT * 4 // 3 + (64 << 10)
"""Bytes of a line: a small file in base64, its path and its keys."""

COMMIT_LIMIT = 1 << 30
"""Bytes of a commit's body. huggingface_hub documents 1 GB of small files in one commit (`HfApi.create_commit`)."""

LINES_LIMIT = 100_000
"""Changes in one commit; the client's documentation says 25,000 large files."""


class CommitReader:
    """Takes a commit as it comes. The content of small files goes to disk at once, so that no commit fills the memory.

    Attributes:
        header: what the header line said.
        changes: what the other lines say, in order.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._open_line: list[bytes] = []
        self._open_size = 0
        self._size = 0
        self._headers: list[dict[str, Any]] = []
        self.changes: list[Change] = []

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            Refusal: 400 for a line that is no change, 413 for too much.
        """
        self._size += len(data)
        if self._size > COMMIT_LIMIT:
            raise too_large(f"More than {COMMIT_LIMIT} bytes in one commit; large files must use LFS")
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._take(b"".join([*self._open_line, line]))
            self._open_line, self._open_size = [], 0
        self._open_line.append(rest)
        self._open_size += len(rest)
        if self._open_size > LINE_LIMIT:
            raise too_large(f"More than {REGULAR_LIMIT} bytes in one small file; it must use LFS")

    def finish(self) -> dict[str, Any]:
        """Take the last line and return the header.

        Raises:
            Refusal: 400, also if there is not exactly one header.
        """
        self._take(b"".join(self._open_line))
        if len(self._headers) != 1:
            raise bad_request("A commit needs exactly one header line")
        return self._headers[0]

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        data = parse_object(line)
        value = data.get("value")
        if not isinstance(value, dict):
            raise bad_request("Every line of a commit needs `key` and `value`")
        if data.get("key") == "header":
            self._headers.append(value)
        else:
            self.changes.append(_change(data.get("key"), value, self._blobs))
        if len(self.changes) > LINES_LIMIT:
            raise too_large(f"More than {LINES_LIMIT} changes in one commit")


def _change(key: object, value: dict[str, Any], blobs: Blobs) -> Change:
    path = text_field(value, "path")
    if key == "file":
        text = text_field(value, "content")
        content = from_base64(text) if value.get("encoding") == "base64" else text.encode("utf-8", "replace")
        if len(content) > REGULAR_LIMIT:
            raise bad_request(f"{path[:200]!r}: {len(content)} bytes; above {REGULAR_LIMIT} a file must use LFS")
        check_repo_path(path)
        return KeptSmall(Entry.regular(path, content, blobs.put(content)))
    if key == "lfsFile":
        size = size_field(value, "size") if value.get("size") is not None else None
        return PutLarge(path, check_sha256(value.get("oid")), size)
    if key == "deletedFile":
        return DeleteFile(path)
    if key == "deletedFolder":
        return DeleteFolder(path)
    raise bad_request(f"A commit cannot have a {str(key)[:40]!r} line")


async def commit(call: Call) -> Response:
    """POST /api/models/{id}/commit/{revision}."""
    await asyncio.to_thread(visible_repo, call)
    reader = CommitReader(call.hub.store.blobs)
    await receive_into(call, reader.feed)
    return await in_slow_thread(call, lambda: _apply(call, reader))


def _apply(call: Call, reader: CommitReader) -> Response:
    header = reader.finish()
    parent = header.get("parentCommit")
    store = call.hub.store
    store.take_over(call.repo, (change.sha256 for change in reader.changes if isinstance(change, PutLarge)))
    oid, number = store.commit(
        call.repo,
        call.names["revision"],
        reader.changes,
        title=clean(text_field(header, "summary")),
        description=clean(str(header.get("description") or "")),
        parent=parent if isinstance(parent, str) and parent else None,
        open_pull_request=call.query_flag("create_pr"),
    )
    url = f"{call.endpoint}/{call.repo.url_path}"
    done: dict[str, Any] = {"success": True, "commitOid": oid, "commitUrl": f"{url}/commit/{oid}", "hookOutput": ""}
    if number is not None:
        done |= {"pullRequestUrl": f"{url}/discussions/{number}", "pullRequestNum": number}
    return answer(done)


def from_base64(text: str) -> bytes:
    """Decode base64.

    Raises:
        Refusal: 400.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise bad_request("Content is not base64") from None


ROUTES = (Route("POST", "api/{kind}/{namespace}/{name}/commit/{revision}", streaming=commit, writes=True),)
