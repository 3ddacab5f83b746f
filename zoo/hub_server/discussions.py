"""Routes about pull requests, which the client calls discussions with changes. There are no other discussions."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from zoo.hub_server.errors import Refusal, bad_request
from zoo.hub_server.http import Call, Route, answer, clean, text_field
from zoo.hub_server.records import PullRequest
from zoo.hub_server.repos import NO_DATE, visible_repo

AUTHOR = {"name": "zoo"}
"""This Hub does not keep who did what."""


def _row(call: Call, number: str, pull: PullRequest) -> dict[str, Any]:
    return {
        "num": int(number),
        "title": pull.title,
        "status": pull.status,
        "isPullRequest": True,
        "createdAt": NO_DATE,
        "author": AUTHOR,
        "repo": {"name": call.repo.name, "type": call.repo.kind[:-1]},
    }


def _event(kind: str, number: str, data: dict[str, Any]) -> dict[str, Any]:
    """Something that happened, as the client takes it apart (`huggingface_hub.community.deserialize_event`)."""
    return {"id": f"{int(number):024x}", "type": kind, "createdAt": NO_DATE, "author": AUTHOR, "data": data}


def _pull_request(call: Call) -> tuple[str, PullRequest]:
    text = call.names["number"]
    pull = call.hub.store.refs(call.repo).pull_requests.get(text)
    if pull is None:
        raise Refusal(404, f"No pull request {text[:20]} in {call.repo.name}")
    return text, pull


def create(call: Call) -> Response:
    """POST /api/models/{id}/discussions."""
    visible_repo(call)
    data = call.json()
    title = clean(text_field(data, "title"))
    if data.get("pullRequest") is not True:
        raise Refusal(501, "This Hub has pull requests but no discussions")
    number = call.hub.store.open_pull_request(call.repo, title, clean(str(data.get("description") or "")))
    return answer({"num": number, "pullRequest": True})


def listing(call: Call) -> Response:
    """GET /api/models/{id}/discussions, by `status`, `type` and `author`; all in one page."""
    visible_repo(call)
    status, author = call.query("status", "all"), call.query("author", AUTHOR["name"])
    if call.query("type", "all") == "discussion" or author != AUTHOR["name"]:
        return answer({"discussions": [], "count": 0, "start": 0})
    rows = [_row(call, number, pull) for number, pull in call.hub.store.refs(call.repo).pull_requests.items()]
    groups = {"open": ("open", "draft"), "closed": ("closed", "merged")}
    rows = [row for row in rows if status == "all" or row["status"] in groups.get(status, (status,))]
    rows.sort(key=lambda row: -int(row["num"]))
    return answer({"discussions": rows, "count": len(rows), "start": 0})


def details(call: Call) -> Response:
    """GET /api/models/{id}/discussions/{number}."""
    visible_repo(call)
    number, pull = _pull_request(call)
    text = {"edited": False, "hidden": False, "latest": {"raw": pull.description, "html": "", "updatedAt": NO_DATE}}
    changes = {"base": f"refs/heads/{pull.base}"}
    events = [
        _event("comment", number, {**text, "history": []}),
        _event("commit", number, {"subject": pull.title, "oid": pull.oid}),
    ]
    if pull.status == "merged":
        changes["mergeCommitId"] = pull.oid
    return answer({**_row(call, number, pull), "changes": changes, "filesWithConflicts": [], "events": events})


def merge(call: Call) -> Response:
    """POST /api/models/{id}/discussions/{number}/merge."""
    visible_repo(call)
    number, _ = _pull_request(call)
    return answer({"commitOid": call.hub.store.merge_pull_request(call.repo, int(number))})


def change_status(call: Call) -> Response:
    """POST /api/models/{id}/discussions/{number}/status: open or closed."""
    visible_repo(call)
    number, _ = _pull_request(call)
    status = text_field(call.json(), "status")
    if status not in ("open", "closed"):
        raise bad_request("`status` must be open or closed")
    call.hub.store.update_pull_request(call.repo, int(number), status=status)
    return answer({"newStatus": _event("status-change", number, {"status": status})})


def rename(call: Call) -> Response:
    """POST /api/models/{id}/discussions/{number}/title."""
    visible_repo(call)
    number, pull = _pull_request(call)
    title = clean(text_field(call.json(), "title")).strip()
    if not title:
        raise bad_request("`title` must not be empty")
    call.hub.store.update_pull_request(call.repo, int(number), title=title)
    return answer({"newTitle": _event("title-change", number, {"from": pull.title, "to": title})})


_ALL = "api/{kind}/{namespace}/{name}/discussions"
_ONE = _ALL + "/{number}"

ROUTES = (
    Route("GET", _ALL, listing),
    Route("POST", _ALL, create, writes=True),
    Route("GET", _ONE, details),
    Route("POST", f"{_ONE}/merge", merge, writes=True),
    Route("POST", f"{_ONE}/status", change_status, writes=True),
    Route("POST", f"{_ONE}/title", rename, writes=True),
)
