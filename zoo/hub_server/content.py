"""Routes about what a repo holds: info, tree listings, paths-info."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlencode

from starlette.responses import Response

from zoo.hub_server.commits import from_base64
from zoo.hub_server.errors import bad_request, entry_not_found
from zoo.hub_server.gitids import pointer
from zoo.hub_server.http import Call, Route, answer, list_field, size_field, text_field
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
        sample = from_base64(text_field(file, "sample", ""))
        large = is_large(path, size_field(file, "size"), sample, call.hub.settings.lfs_threshold)
        row: dict[str, Any] = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        known = snapshot.files.get(path)
        if known is not None:
            row["oid"] = known.content_id
        rows.append(row)
    return answer({"files": rows, "commitOid": snapshot.commit})


_REPO = "api/{kind}/{namespace}/{name}"

ROUTES = (
    Route("GET", _REPO, repo_info),
    Route("GET", _REPO + "/revision/{revision}", repo_info),
    Route("GET", _REPO + "/tree/{revision}/{path*}", tree),
    Route("POST", _REPO + "/paths-info/{revision}", paths_info, slow=True),
    Route("POST", _REPO + "/preupload/{revision}", preupload, writes=True),
)
