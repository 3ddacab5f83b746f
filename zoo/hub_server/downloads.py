"""The route that gives files out: `/{id}/resolve/{revision}/{path}`, whole or in part, several at once."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from zoo.hub_server.blobs import IO_SIZE
from zoo.hub_server.errors import Refusal
from zoo.hub_server.http import Call, Route
from zoo.hub_server.repos import visible_repo
from zoo.hub_server.sendfile import ZERO_COPY

SENDFILE_SIZE = 2 << 20
"""Bytes per call of sendfile(2): after each, others get their turn, the log knows how much went out, and the client
has shown that it still listens. In the minute it has for that, the slowest phone takes more."""

_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)


@dataclass(frozen=True)
class ByteRange:
    """`length` bytes from `start`."""

    start: int
    length: int


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """The part of a file that a `Range` header asks for (RFC 9110, section 14).

    Args:
        header: its value, or None.
        size: bytes of the whole file.

    Returns:
        None for the whole file: no header, one that is not understood, or several ranges, which may be ignored.

    Raises:
        Refusal: 416, if nothing of the file is in the range.
    """
    found = _RANGE.fullmatch(header.strip()) if header else None
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if first == "":
        start, end = max(size - int(last), 0), size
    else:
        start = int(first)
        end = min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= end:
        raise Refusal(416, f"Range {header} of {size} bytes", headers={"Content-Range": f"bytes */{size}"})
    return ByteRange(start, end - start)


def etag_matches(header: str | None, etag: str) -> bool:
    """Whether an `If-None-Match` header names `etag`."""
    if header is None:
        return False
    known = [item.strip().removeprefix("W/") for item in header.split(",")]
    return etag in known or "*" in known


class FileResponse(Response):
    """Sends a part of a file by the kernel, or in pieces read in threads: bounded memory, many at once.

    A class because Starlette's own stops at 64 KiB pieces and Starlette knows answers by this base class.
    """

    def __init__(self, path: Path, part: ByteRange, status: int, headers: dict[str, str]) -> None:
        super().__init__(status_code=status, headers=headers)
        self._path = path
        self._part = part

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, or stop when the client goes away."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD" or self._part.length == 0:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        file = await asyncio.to_thread(self._path.open, "rb", 0)
        try:
            if ZERO_COPY in (scope.get("extensions") or {}):
                await self._send_by_kernel(file, send)
            else:
                await self._send_by_hand(file, receive, send)
        finally:
            file.close()

    async def _send_by_kernel(self, file: FileIO, send: Send) -> None:
        position, end = self._part.start, self._part.start + self._part.length
        try:
            while position < end:
                count = min(SENDFILE_SIZE, end - position)
                await send({"type": ZERO_COPY, "file": file, "offset": position, "count": count})
                position += count
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ConnectionError:
            return  # nobody is listening any more

    async def _send_by_hand(self, file: FileIO, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_wait_until_gone(receive))
        position, end = self._part.start, self._part.start + self._part.length
        try:
            while position < end and not gone.done():
                data = await asyncio.to_thread(os.pread, file.fileno(), min(IO_SIZE, end - position), position)
                if not data:
                    break  # shorter than it was: an unfinished answer tells the client
                position += len(data)
                await send({"type": "http.response.body", "body": data, "more_body": position < end})
        finally:
            gone.cancel()


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _look_up(call: Call) -> FileResponse | Response:
    info = visible_repo(call)
    call.hub.settings.access.check_content(call.account, info)
    store, request = call.hub.store, call.request
    commit, entry = store.entry(call.repo, call.names["revision"], call.names["path"])
    etag = f'"{entry.content_id}"'
    headers = {"X-Repo-Commit": commit, "ETag": etag, "Accept-Ranges": "bytes"}
    if entry.lfs:
        headers |= {"X-Linked-ETag": etag, "X-Linked-Size": str(entry.size)}
    if etag_matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    part = None
    if request.headers.get("if-range", etag) == etag:
        try:
            part = parse_range(request.headers.get("range"), entry.size)
        except Refusal as refusal:
            refusal.headers |= headers
            raise
    status = 200
    if part is not None:
        status = 206
        headers["Content-Range"] = f"bytes {part.start}-{part.start + part.length - 1}/{entry.size}"
    part = part or ByteRange(0, entry.size)
    headers |= {"Content-Length": str(part.length), "Content-Type": "application/octet-stream"}
    return FileResponse(store.blobs.path(entry.sha256), part, status, headers)


ROUTES = tuple(
    Route(method, prefix + "{namespace}/{name}/resolve/{revision}/{path*}", _look_up)
    for method in ("GET", "HEAD")
    for prefix in ("{kind}/", "")
)
