"""Routes about what a repo holds: info, tree listings, paths-info, and commits."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlencode

from starlette.responses import Response

from zoo.hub_server.blobs import check_sha256
from zoo.hub_server.changes import Change, DeleteFile, DeleteFolder, PutLarge, PutSmall
from zoo.hub_server.errors import bad_request, entry_not_found
from zoo.hub_server.gitids import pointer
from zoo.hub_server.http import Call, Route, answer, list_field, parse_object, size_field, text_field
from zoo.hub_server.records import Entry, Snapshot
from zoo.hub_server.repos import NO_DATE, visible_repo
from zoo.hub_server.store import DEFAULT_BRANCH
from zoo.plan.remote import is_large

MAX_PATHS_INFO = 1000
"""Paths in one request; the Hub has the same limit."""


def file_item(entry: Entry, xet_hash: str | None = None) -> dict[str, Any]:
    """A file as tree listings and paths-info show it.

    Args:
        entry: the file.
        xet_hash: given in paths-info alone. The client copies a file between repos only if it sees a xet hash there;
            seen in a tree listing it would send the client to a xet server for the content, which this Hub is not.
    """
    item: dict[str, Any] = {"type": "file", "path": entry.path, "size": entry.size, "oid": entry.oid}
    if entry.lfs:
        size = len(pointer(entry.sha256, entry.size))
        item["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": size}
        if xet_hash is not None:
            item["xetHash"] = xet_hash
    return item


def folder_item(path: str, oid: str) -> dict[str, Any]:
    """A folder as tree listings and paths-info show it."""
    return {"type": "directory", "path": path, "size": 0, "oid": oid}


def list_tree(snapshot: Snapshot, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    """What lies in a folder, sorted by path; the root is `""`.

    Raises:
        Refusal: 404, if there is no such folder.
    """
    folders = snapshot.folders()
    if folder and folder not in folders:
        raise entry_not_found(folder, snapshot.commit)
    prefix = f"{folder}/" if folder else ""
    items = [file_item(entry) for entry in snapshot.files.values()]
    items += [folder_item(path, oid) for path, oid in folders.items()]
    inside = [item for item in items if item["path"].startswith(prefix)]
    if not recursive:
        inside = [item for item in inside if "/" not in item["path"][len(prefix) :]]
    return sorted(inside, key=lambda item: str(item["path"]))


def repo_info(call: Call) -> Response:
    """GET /api/models/{id} and /api/models/{id}/revision/{revision}."""
    info = visible_repo(call)
    repo = call.repo
    snapshot = call.hub.store.snapshot(repo, call.names.get("revision", DEFAULT_BRANCH))
    siblings = []
    for entry in snapshot.files.values():
        row: dict[str, Any] = {"rfilename": entry.path}
        if call.query_flag("blobs"):
            item = file_item(entry)
            row |= {"size": entry.size, "blobId": entry.oid}
            if entry.lfs:
                row["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": item["lfs"]["pointerSize"]}
        siblings.append(row)
    return answer(
        {
            "id": repo.name,
            "modelId": repo.name,
            "author": repo.name.partition("/")[0],
            "sha": snapshot.commit,
            "private": info.private,
            "gated": info.gated or False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "createdAt": NO_DATE,
            "lastModified": NO_DATE,
            "siblings": siblings,
        }
    )


def tree(call: Call) -> Response:
    """GET /api/models/{id}/tree/{revision}[/{path}], in pages."""
    visible_repo(call)
    snapshot = call.hub.store.snapshot(call.repo, call.names["revision"])
    items = list_tree(snapshot, call.names["path"].strip("/"), recursive=call.query_flag("recursive"))
    cursor = call.query("cursor")
    limit = call.query("limit")
    size = min(int(limit), call.hub.settings.page_size) if limit.isdecimal() else call.hub.settings.page_size
    left = [item for item in items if item["path"] > cursor]
    page = left[: max(size, 1)]
    headers = {}
    if len(left) > len(page):
        query = dict(call.request.query_params) | {"cursor": page[-1]["path"]}
        raw_path = call.request.scope["raw_path"].decode("latin-1")
        headers["Link"] = f'<{call.endpoint}{raw_path}?{urlencode(query)}>; rel="next"'
    return answer(page, headers=headers)


def paths_info(call: Call) -> Response:
    """POST /api/models/{id}/paths-info/{revision}; unknown paths are left out."""
    visible_repo(call)
    if call.request.headers.get("content-type", "").startswith("application/json"):
        paths = call.json().get("paths")
    else:
        paths = parse_qs(call.body.decode("utf-8", "replace")).get("paths", [])
    if not isinstance(paths, list) or len(paths) > MAX_PATHS_INFO:
        raise bad_request(f"`paths` must be a list of at most {MAX_PATHS_INFO} paths")
    store = call.hub.store
    snapshot = store.snapshot(call.repo, call.names["revision"])
    folders = snapshot.folders()
    items = []
    for path in dict.fromkeys(str(path).rstrip("/") for path in paths):
        entry = snapshot.files.get(path)
        if entry is not None:
            items.append(file_item(entry, store.blobs.xet_hash(entry.sha256) if entry.lfs else None))
        elif path in folders:
            items.append(folder_item(path, folders[path]))
    return answer(items)


def preupload(call: Call) -> Response:
    """POST /api/models/{id}/preupload/{revision}: how each file is to be sent, and what is there already."""
    visible_repo(call)
    snapshot = call.hub.store.snapshot(call.repo, call.names["revision"])
    rows = []
    for file in list_field(call.json(), "files"):
        path = text_field(file, "path")
        sample = _from_base64(text_field(file, "sample", ""))
        large = is_large(path, size_field(file, "size"), sample, call.hub.settings.lfs_threshold)
        row: dict[str, Any] = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        known = snapshot.files.get(path)
        if known is not None:
            row["oid"] = known.content_id
        rows.append(row)
    return answer({"files": rows, "commitOid": snapshot.commit})


def commit(call: Call) -> Response:
    """POST /api/models/{id}/commit/{revision}: one line of JSON for the header and for each change."""
    visible_repo(call)
    lines = [parse_object(line) for line in call.body.splitlines() if line.strip()]
    headers = [line.get("value") for line in lines if line.get("key") == "header"]
    if len(headers) != 1 or not isinstance(headers[0], dict):
        raise bad_request("A commit needs exactly one header line")
    header = headers[0]
    parent = header.get("parentCommit")
    oid, number = call.hub.store.commit(
        call.repo,
        call.names["revision"],
        list(_changes(lines)),
        title=_clean(text_field(header, "summary")),
        description=_clean(str(header.get("description") or "")),
        parent=parent if isinstance(parent, str) and parent else None,
        open_pull_request=call.query_flag("create_pr"),
    )
    url = f"{call.endpoint}/{call.repo.url_path}"
    done: dict[str, Any] = {"success": True, "commitOid": oid, "commitUrl": f"{url}/commit/{oid}", "hookOutput": ""}
    if number is not None:
        done |= {"pullRequestUrl": f"{url}/discussions/{number}", "pullRequestNum": number}
    return answer(done)


def _changes(lines: list[dict[str, Any]]) -> Iterator[Change]:
    for line in lines:
        key, value = line.get("key"), line.get("value")
        if key == "header":
            continue
        if not isinstance(value, dict):
            raise bad_request("Every line of a commit needs `key` and `value`")
        path = text_field(value, "path")
        if key == "file":
            content = text_field(value, "content")
            is_base64 = value.get("encoding") == "base64"
            yield PutSmall(path, _from_base64(content) if is_base64 else content.encode("utf-8", "replace"))
        elif key == "lfsFile":
            size = size_field(value, "size") if value.get("size") is not None else None
            yield PutLarge(path, check_sha256(value.get("oid")), size)
        elif key == "deletedFile":
            yield DeleteFile(path)
        elif key == "deletedFolder":
            yield DeleteFolder(path)
        else:
            raise bad_request(f"A commit cannot have a {str(key)[:40]!r} line")


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise bad_request("Content is not base64") from None


def _clean(text: str) -> str:
    """Text that can be written as UTF-8; JSON can smuggle in lone surrogates."""
    return text.encode("utf-8", "replace").decode()


_REPO = "api/{kind}/{namespace}/{name}"

ROUTES = (
    Route("GET", _REPO, repo_info),
    Route("GET", _REPO + "/revision/{revision}", repo_info),
    Route("GET", _REPO + "/tree/{revision}/{path*}", tree),
    Route("POST", _REPO + "/paths-info/{revision}", paths_info),
    Route("POST", _REPO + "/preupload/{revision}", preupload, writes=True),
    Route("POST", _REPO + "/commit/{revision}", commit, writes=True),
)
