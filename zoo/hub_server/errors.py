"""What the Hub answers when it refuses, in the form the stock client tells apart.

huggingface_hub looks at the headers `X-Error-Code` and `X-Error-Message`, not at the body
(`huggingface_hub/utils/_http.py`, `hf_raise_for_status`).
"""

from __future__ import annotations

from collections.abc import Mapping


class Refusal(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        message: one line, also sent as `X-Error-Message`.
        code: `X-Error-Code`; the client turns RepoNotFound, RevisionNotFound, EntryNotFound and GatedRepo into
            exceptions of their own.
        headers: further headers.
    """

    def __init__(
        self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})


def bad_request(message: str) -> Refusal:
    """The request cannot be understood or asks for something impossible."""
    return Refusal(400, message)


def not_signed_in(message: str = "Invalid username or password.") -> Refusal:
    """No token where one is needed.

    The code is sent although the real Hub relies on the https URL here: on http the client would otherwise not see
    that the repo is hidden.
    """
    return Refusal(401, message, "RepoNotFound")


def wrong_token() -> Refusal:
    """A token that this Hub does not know; the wording is what the client compares with."""
    return Refusal(401, "Invalid credentials in Authorization header")


def forbidden(message: str) -> Refusal:
    """A known token that may not do this."""
    return Refusal(403, message)


def gated(repo: str, *, signed_in: bool) -> Refusal:
    """A repo that must be asked for."""
    status = 403 if signed_in else 401
    return Refusal(status, f"Access to {repo} is restricted; ask its owner for access.", "GatedRepo")


def repo_not_found(repo: str) -> Refusal:
    """No such repo, or one that this token may not see."""
    return Refusal(404, f"Repository not found: {repo}", "RepoNotFound")


def revision_not_found(repo: str, revision: str) -> Refusal:
    """No such branch, tag, pull request or commit."""
    return Refusal(404, f"Invalid rev id: {revision} in {repo}", "RevisionNotFound")


def entry_not_found(path: str, commit: str) -> Refusal:
    """No such file or folder at that commit."""
    return Refusal(404, f"Entry not found: {path}", "EntryNotFound", {"X-Repo-Commit": commit})


def conflict(message: str) -> Refusal:
    """The thing is there already, or somebody was faster."""
    return Refusal(409, message)


def stale_parent(expected: str, actual: str) -> Refusal:
    """The branch moved since the client looked (`parentCommit` of a commit)."""
    message = f"A commit has happened since. Please refresh and try again. (parent {expected}, branch at {actual})"
    return Refusal(412, message)


def too_large(message: str) -> Refusal:
    """More bytes than were announced or than this Hub takes at once."""
    return Refusal(413, message)
