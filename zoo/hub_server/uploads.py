"""Routes that take large objects in: the LFS batch API, single and multipart uploads, server-side copies.

Addresses in a batch answer carry a ticket instead of a token, as presigned addresses do on the real Hub: the client
sends no `Authorization` to them (`huggingface_hub/lfs.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any
from urllib.parse import urlencode

import xxhash
from starlette.responses import Response

from zoo.hub_server.access import is_signed, sign
from zoo.hub_server.blobs import check_sha256
from zoo.hub_server.errors import Refusal, bad_request, forbidden, too_large
from zoo.hub_server.http import Call, Hub, Route, answer, list_field, receive_into, size_field, text_field
from zoo.hub_server.names import REPO_KINDS
from zoo.hub_server.records import RepoId
from zoo.hub_server.repos import visible_repo

LFS_MEDIA_TYPE = "application/vnd.git-lfs+json"


def batch(call: Call) -> Response:
    """POST /{id}.git/info/lfs/objects/batch: where each object is to go, or that it is here."""
    visible_repo(call)
    data = call.json()
    if data.get("operation") != "upload" or data.get("hash_algo", "sha256") != "sha256":
        raise bad_request("Only uploads by sha256 are answered; files are downloaded from /resolve/")
    multipart = "multipart" in (data.get("transfers") or [])
    rows = [
        _batch_row(call, check_sha256(o.get("oid")), size_field(o, "size"), multipart=multipart)
        for o in list_field(data, "objects")
    ]
    transfer = "multipart" if any("chunk_size" in _upload_header(row) for row in rows) else "basic"
    return Response(answer({"transfer": transfer, "objects": rows}).body, media_type=LFS_MEDIA_TYPE)


def _upload_header(row: dict[str, Any]) -> dict[str, Any]:
    header = row.get("actions", {}).get("upload", {}).get("header", {})
    assert isinstance(header, dict)
    return header


def _batch_row(call: Call, oid: str, size: int, *, multipart: bool) -> dict[str, Any]:
    hub = call.hub
    row: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
    if hub.store.has_object(call.repo, oid):
        if hub.store.blobs.size(oid) != size:
            row["error"] = {"code": 422, "message": f"Object {oid} has another size here"}
        return row
    query = urlencode({"repo": "/".join(call.repo), "size": size, "ticket": _ticket(hub, call.repo, oid, size)})
    verify = {"href": f"{call.endpoint}/lfs/verify/{oid}?{query}"}
    if multipart and size > hub.settings.multipart_threshold:
        upload_id = hub.store.blobs.start_multipart(oid, size, hub.settings.part_size)
        count = hub.store.blobs.multipart(upload_id).part_count
        header = {"chunk_size": str(hub.settings.part_size)}
        header |= {f"{n:05d}": f"{call.endpoint}/lfs/parts/{upload_id}/{n}?{query}" for n in range(1, count + 1)}
        upload: dict[str, Any] = {"href": f"{call.endpoint}/lfs/complete/{upload_id}?{query}", "header": header}
    else:
        upload = {"href": f"{call.endpoint}/lfs/objects/{oid}?{query}"}
    row["actions"] = {"upload": upload, "verify": verify}
    return row


def _ticket(hub: Hub, repo: RepoId, oid: str, size: int) -> str:
    return sign(hub.secret, repo.kind, repo.name, oid, size)


def _ticketed(call: Call, oid: str) -> tuple[RepoId, int]:
    """The repo and size that the ticket of this call is for.

    Raises:
        Refusal: 403.
    """
    kind, _, name = call.query("repo").partition("/")
    size = call.query("size")
    repo = RepoId(kind, name)
    if not size.isdecimal() or not is_signed(call.hub.secret, call.query("ticket"), kind, name, oid, size):
        raise forbidden("This upload address is not valid (any more); start the upload again")
    return repo, int(size)


async def put_object(call: Call) -> Response:
    """PUT /lfs/objects/{oid}: one object in one request, hashed as it arrives."""
    oid = call.names["oid"]
    repo, size = _ticketed(call, oid)
    _check_length(call, size)
    writer = await asyncio.to_thread(call.hub.store.blobs.writer, size)
    try:
        await receive_into(call, writer.write)
        await asyncio.to_thread(writer.finish, oid, size)
    finally:
        writer.abort()
    await asyncio.to_thread(call.hub.store.grant_object, repo, oid)
    _hash_for_xet(call, oid)
    return Response(status_code=200)


async def put_part(call: Call) -> Response:
    """PUT /lfs/parts/{upload}/{number}: a part, written at its place."""
    upload = call.hub.store.blobs.multipart(call.names["upload"])
    _ticketed(call, upload.oid)
    number = int(call.names["number"]) if call.names["number"].isdecimal() else 0
    start, length = upload.part_range(number)
    _check_length(call, length)
    digest = xxhash.xxh3_64()
    handle = await asyncio.to_thread(os.open, upload.path, os.O_WRONLY)
    written = 0

    def write(data: bytes) -> None:
        nonlocal written
        if written + len(data) > length:
            raise too_large(f"Part {number} has more than {length} bytes")
        digest.update(data)
        os.pwrite(handle, data, start + written)
        written += len(data)

    try:
        await receive_into(call, write)
    finally:
        os.close(handle)
    if written != length:
        raise bad_request(f"Part {number} has {written} bytes instead of {length}")
    upload.etags[number] = f'"{digest.hexdigest()}"'
    return Response(status_code=200, headers={"ETag": upload.etags[number]})


def complete(call: Call) -> Response:
    """POST /lfs/complete/{upload}: all parts are there; keep the object if its digest is right."""
    store = call.hub.store
    repo, _ = _ticketed(call, store.blobs.multipart(call.names["upload"]).oid)
    etags = {}
    for part in list_field(call.json(), "parts"):
        etags[size_field(part, "partNumber")] = text_field(part, "etag")
    oid = store.blobs.finish_multipart(call.names["upload"], etags)
    store.grant_object(repo, oid)
    store.blobs.xet_hash(oid)
    return answer({"oid": oid})


def verify(call: Call) -> Response:
    """POST /lfs/verify/{oid}: whether the object has arrived."""
    oid = call.names["oid"]
    repo, size = _ticketed(call, oid)
    store = call.hub.store
    if not store.has_object(repo, oid) or store.blobs.size(oid) != size:
        raise Refusal(404, f"Object {oid} of {size} bytes is not here")
    return answer({"oid": oid, "size": size})


def duplicate(call: Call) -> Response:
    """POST /api/models/{source}/lfs-files/duplicate: let another repo use large objects of this one."""
    info = visible_repo(call)
    hub, source = call.hub, call.repo
    hub.settings.access.check_content(call.account, info)
    data = call.json()
    target = data.get("target")
    if not isinstance(target, dict) or f"{target.get('type')}s" not in REPO_KINDS:
        raise bad_request("`target` must have `type` and `name`")
    destination = RepoId(f"{target['type']}s", text_field(target, "name"))
    hub.settings.access.check_visible(call.account, hub.store.repo_info(destination))
    failed = []
    files = list_field(data, "files")
    for file in files:
        oid = check_sha256(file.get("sha256"))
        if hub.store.has_object(source, oid):
            hub.store.grant_object(destination, oid)
        else:
            failed.append({"sha256": oid, "error": f"not in {source.name}"})
    return answer({"success": len(files) - len(failed), "failed": failed})


def _check_length(call: Call, size: int) -> None:
    announced = call.request.headers.get("content-length")
    if announced is not None and announced != str(size):
        raise bad_request(f"Content-Length is {announced[:20]}, expected {size} bytes")


def _hash_for_xet(call: Call, oid: str) -> None:
    """Have the xet hash ready when somebody asks for it, without keeping the uploader waiting."""

    def compute() -> None:
        # The file may be gone when the Hub is stopped and its directory removed; the hash is asked for again later.
        with contextlib.suppress(OSError):
            call.hub.store.blobs.xet_hash(oid)

    call.hub.hashing.submit(compute)


_REPO = "api/{kind}/{namespace}/{name}"
_BATCH = "{namespace}/{name}/info/lfs/objects/batch"

ROUTES = (
    Route("POST", f"{_REPO}/lfs-files/duplicate", duplicate, writes=True),
    Route("PUT", "lfs/objects/{oid}", streaming=put_object),
    Route("PUT", "lfs/parts/{upload}/{number}", streaming=put_part),
    Route("POST", "lfs/complete/{upload}", complete, slow=True),
    Route("POST", "lfs/verify/{oid}", verify),
    Route("POST", "{kind}/" + _BATCH, batch, writes=True),
    Route("POST", _BATCH, batch, writes=True),
)
