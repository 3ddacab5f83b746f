"""Routes about repos and refs: accounts, creation, settings, branches, tags."""

from __future__ import annotations

from typing import Any

from starlette.responses import PlainTextResponse, Response

from zoo.hub_server import whole_repos
from zoo.hub_server.errors import Refusal, bad_request, not_signed_in
from zoo.hub_server.http import Call, Route, answer, clean, text_field
from zoo.hub_server.names import REPO_KINDS
from zoo.hub_server.records import RepoId, RepoInfo
from zoo.hub_server.store import DEFAULT_BRANCH

NO_DATE = "1970-01-01T00:00:00.000Z"
"""Where the client insists on a date; this Hub keeps none."""


def visible_repo(call: Call) -> RepoInfo:
    """The repo of the path, if this account may see it.

    Raises:
        Refusal: 401 or 404.
    """
    access = call.hub.settings.access
    try:
        info = call.hub.store.repo_info(call.repo)
    except Refusal:
        # As on the Hub: without a token, missing and hidden look alike.
        if not access.is_open and call.account is None:
            raise not_signed_in() from None
        raise
    access.check_visible(call.account, info)
    return info


def home(call: Call) -> Response:
    """What a browser shows."""
    access = call.hub.settings.access
    lines = ["A Hub served by zoo. Point the `hf` client at it:", "", f"    export HF_ENDPOINT={call.endpoint}", ""]
    for kind in REPO_KINDS:
        found = call.hub.store.list_repos(kind)
        shown = [repo for repo in found if access.is_open or not call.hub.store.repo_info(repo).private]
        lines += [f"{call.endpoint}/{repo.url_path}" for repo in shown]
    return PlainTextResponse("\n".join(lines) + "\n")


def whoami(call: Call) -> Response:
    """GET /api/whoami-v2."""
    if call.account is None or "authorization" not in call.request.headers:
        raise not_signed_in("Invalid user token.")
    role = "write" if call.account.can_write else "read"
    token = {"type": "access_token", "accessToken": {"displayName": "zoo", "role": role}}
    return answer(
        {"type": "user", "name": call.account.name, "fullname": call.account.name, "orgs": [], "auth": token}
    )


def validate_yaml(_call: Call) -> Response:
    """POST /api/validate-yaml: model cards are not checked here."""
    return answer({"errors": [], "warnings": []})


def _named_repo(call: Call) -> tuple[RepoId, dict[str, Any]]:
    data = call.json()
    kind = f"{text_field(data, 'type', 'model')}s"
    if kind not in REPO_KINDS:
        raise bad_request(f"This Hub has no {kind}")
    assert call.account is not None
    namespace = data.get("organization") or call.account.name
    return RepoId(kind, f"{namespace}/{text_field(data, 'name')}"), data


def create_repo(call: Call) -> Response:
    """POST /api/repos/create."""
    repo, data = _named_repo(call)
    url = f"{call.endpoint}/{repo.url_path}"
    private = data.get("visibility", "private" if data.get("private") else "public") == "private"
    try:
        call.hub.store.create_repo(repo, private=private)
    except Refusal as refusal:
        if refusal.status != 409:
            raise
        # The client reads `url` here too when told that the repo may exist.
        return answer({"error": refusal.message, "url": url}, status=409, headers={"X-Error-Message": refusal.message})
    return answer({"url": url, "name": repo.name, "id": repo.name, "private": private})


def delete_repo(call: Call) -> Response:
    """DELETE /api/repos/delete."""
    repo, _ = _named_repo(call)
    call.hub.store.delete_repo(repo)
    return answer({})


def list_repos(call: Call) -> Response:
    """GET /api/models, with `author` and `search`."""
    store, access = call.hub.store, call.hub.settings.access
    author, search = call.query("author"), call.query("search").casefold()
    found = []
    for repo in store.list_repos(call.names["kind"]):
        info = store.repo_info(repo)
        if not access.may_see(call.account, info):
            continue
        if repo.name.startswith(f"{author}/" if author else "") and search in repo.name.casefold():
            found.append({"id": repo.name, "modelId": repo.name, "private": info.private, "tags": []})
    return answer(found)


def update_settings(call: Call) -> Response:
    """PUT /api/models/{id}/settings: `visibility`, `private`, `gated`."""
    visible_repo(call)
    data = call.json()
    private = data.get("private")
    if "visibility" in data:
        private = data["visibility"] == "private"
    gated = data.get("gated")
    if gated not in (None, False, "auto", "manual") or private not in (None, True, False):
        raise bad_request("`gated` must be auto, manual or false; `private` must be true or false")
    info = call.hub.store.update_repo(call.repo, private=private, gated="" if gated is False else gated)
    return answer({"private": info.private, "gated": info.gated or False})


def list_refs(call: Call) -> Response:
    """GET /api/models/{id}/refs."""
    visible_repo(call)
    refs = call.hub.store.refs(call.repo)

    def rows(prefix: str, table: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"{prefix}{name}", "targetCommit": oid} for name, oid in sorted(table.items())]

    pulls = {number: pull.oid for number, pull in refs.pull_requests.items()}
    found = {"branches": rows("refs/heads/", refs.branches), "tags": rows("refs/tags/", refs.tags), "converts": []}
    if call.query_flag("include_prs"):
        found["pullRequests"] = rows("refs/pr/", pulls)
    return answer(found)


def list_commits(call: Call) -> Response:
    """GET /api/models/{id}/commits/{revision}."""
    visible_repo(call)
    rows = [
        {"id": oid, "title": commit.title, "message": commit.description, "date": NO_DATE, "authors": []}
        for oid, commit in call.hub.store.history(call.repo, call.names["revision"])
    ]
    return answer(rows)


def create_branch(call: Call) -> Response:
    """POST /api/models/{id}/branch/{name}."""
    visible_repo(call)
    start = text_field(call.json(), "startingPoint", "main")
    call.hub.store.create_branch(call.repo, call.names["ref"], start)
    return answer({})


def create_tag(call: Call) -> Response:
    """POST /api/models/{id}/tag/{revision}."""
    visible_repo(call)
    call.hub.store.create_tag(call.repo, text_field(call.json(), "tag"), call.names["ref"])
    return answer({})


def delete_branch(call: Call) -> Response:
    """DELETE /api/models/{id}/branch/{name}."""
    visible_repo(call)
    call.hub.store.delete_ref(call.repo, call.names["ref"], "branch")
    return answer({})


def delete_tag(call: Call) -> Response:
    """DELETE /api/models/{id}/tag/{name}."""
    visible_repo(call)
    call.hub.store.delete_ref(call.repo, call.names["ref"], "tag")
    return answer({})


def move_repo(call: Call) -> Response:
    """POST /api/repos/move: another name, another namespace, or both."""
    data = call.json()
    kind = f"{text_field(data, 'type', 'model')}s"
    if kind not in REPO_KINDS:
        raise bad_request(f"This Hub has no {kind}")
    source = RepoId(kind, text_field(data, "fromRepo"))
    whole_repos.move_repo(call.hub.store, source, RepoId(kind, text_field(data, "toRepo")))
    return answer({})


def duplicate_repo(call: Call) -> Response:
    """POST /api/models/{id}/duplicate."""
    call.hub.settings.access.check_content(call.account, visible_repo(call))
    data = call.json()
    target = RepoId(call.repo.kind, text_field(data, "repository"))
    private = data["visibility"] == "private" if "visibility" in data else None
    whole_repos.duplicate_repo(call.hub.store, call.repo, target, private=private)
    return answer({"url": f"{call.endpoint}/{target.url_path}"})


def squash_history(call: Call) -> Response:
    """POST /api/models/{id}/super-squash/{branch}."""
    visible_repo(call)
    title = clean(text_field(call.json(), "message", "Squash history"))
    return answer({"commitOid": whole_repos.squash_history(call.hub.store, call.repo, call.names["ref"], title)})


def check_auth(call: Call) -> Response:
    """GET /api/models/{id}/auth-check: whether this token may read the content."""
    call.hub.settings.access.check_content(call.account, visible_repo(call))
    return answer({})


def list_own_repos(call: Call) -> Response:
    """GET /api/settings/repositories: all repos with the size of their files.

    Raises:
        Refusal: 401 without an account.
    """
    if call.account is None:
        raise not_signed_in("Invalid user token.")
    store, rows = call.hub.store, []
    for kind in REPO_KINDS:
        for repo in store.list_repos(kind):
            info = store.repo_info(repo)
            if call.hub.settings.access.may_see(call.account, info):
                size = sum(entry.size for entry in store.snapshot(repo, DEFAULT_BRANCH).files.values())
                visibility = "private" if info.private else "public"
                row = {"id": repo.name, "type": kind[:-1], "visibility": visibility, "storage": size}
                rows.append({**row, "updatedAt": NO_DATE})
    return answer(rows)


_REPO = "api/{kind}/{namespace}/{name}"

ROUTES = (
    Route("GET", "", home),
    Route("GET", "api/whoami-v2", whoami),
    Route("POST", "api/validate-yaml", validate_yaml),
    Route("POST", "api/repos/create", create_repo, writes=True),
    Route("DELETE", "api/repos/delete", delete_repo, writes=True),
    Route("GET", "api/{kind}", list_repos),
    Route("PUT", f"{_REPO}/settings", update_settings, writes=True),
    Route("GET", f"{_REPO}/refs", list_refs),
    Route("GET", _REPO + "/commits/{revision}", list_commits),
    Route("POST", _REPO + "/branch/{ref}", create_branch, writes=True),
    Route("DELETE", _REPO + "/branch/{ref}", delete_branch, writes=True),
    Route("POST", _REPO + "/tag/{ref}", create_tag, writes=True),
    Route("DELETE", _REPO + "/tag/{ref}", delete_tag, writes=True),
    Route("POST", "api/repos/move", move_repo, writes=True),
    Route("GET", "api/settings/repositories", list_own_repos),
    Route("POST", f"{_REPO}/duplicate", duplicate_repo, writes=True),
    Route("POST", _REPO + "/super-squash/{ref}", squash_history, writes=True),
    Route("GET", f"{_REPO}/auth-check", check_auth),
)
