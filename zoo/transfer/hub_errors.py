"""What the Hub's client raises, as one line a person can act on. Tokens and signed addresses are left out."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from zoo.errors import Conflict, DiskError, HubError, ZooError

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token that may do this"

NO_COPY = "run the same command with --no-copy: it uploads these files instead"

DUPLICATE_ROUTE = "/lfs-files/duplicate"
"""Where the stock client asks for copies between repos."""

TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
"""Answers after which the same request may succeed; the set `huggingface_hub.utils.http_backoff` retries."""

MOVED_STATUS = frozenset({409, 412})
"""What a commit is refused with when the branch is not at `parent_commit` any more."""


class TransientHubError(HubError):
    """The Hub did not answer, or not now. The request may or may not have been carried out.

    Attributes:
        wait: seconds the Hub asked to wait, or None.
    """

    def __init__(self, message: str, *, hint: str | None = None, wait: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.wait = wait


def client_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub and hf_xet raise: their own classes derive from these."""
    import httpx2
    from huggingface_hub.errors import EntryNotFoundError, FileDuplicationError

    # hf_xet raises the built-in ConnectionError and RuntimeError; bad names and bad model cards are ValueErrors; an
    # answer without the expected keys is a KeyError or TypeError.
    own = (httpx2.HTTPError, httpx2.InvalidURL, EntryNotFoundError, FileDuplicationError)
    return (*own, OSError, RuntimeError, ValueError, LookupError, TypeError)


def host_of(endpoint: str) -> str:
    """The endpoint without user name and password."""
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def translate(error: BaseException, *, endpoint: str, repo: str, revision: str | None = None) -> ZooError | None:
    """The error for a person, or None if it is not about the Hub (a mistake in this program).

    Args:
        error: what the client raised.
        endpoint: the Hub's address.
        repo: what was asked for.
        revision: the branch or commit, if one was asked for.
    """
    import httpx2
    from huggingface_hub.errors import (
        EntryNotFoundError,
        FileDuplicationError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
    )

    host = host_of(endpoint)
    if isinstance(error, ZooError):
        return error
    if isinstance(error, HfHubHTTPError):
        return _answered(error, host, repo, revision)
    if isinstance(error, httpx2.HTTPStatusError):
        return _status_error(error.response.status_code, "", host, repo, None)
    if isinstance(error, OfflineModeIsEnabled):
        return HubError(f"{host}: not asked, because HF_HUB_OFFLINE is set", hint="unset HF_HUB_OFFLINE")
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.InvalidURL):
        return HubError(f"{host}: not an address of a Hub", hint="check --endpoint and HF_ENDPOINT")
    if isinstance(error, httpx2.HTTPError | ConnectionError | TimeoutError):
        reason = str(error) or type(error).__name__
        return TransientHubError(
            f"{host}: no answer ({_one_line(reason)})", hint="check the network, --endpoint and HF_ENDPOINT"
        )
    if isinstance(error, HFValidationError | EntryNotFoundError):
        return HubError(f"{repo}: {_one_line(str(error))}")
    if isinstance(error, FileDuplicationError):
        return CopyRefused(f"{host}: {_one_line(str(error))}", hint=NO_COPY)
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        # huggingface_hub wraps what went wrong with one large file.
        return translate(error.__cause__, endpoint=endpoint, repo=repo, revision=revision)
    return _built_in(error, host, repo)


def _built_in(error: BaseException, host: str, repo: str) -> ZooError | None:
    """Errors that are no class of the client's."""
    if isinstance(error, OSError):
        return DiskError(f"{error.filename or repo}: {error.strerror or _one_line(str(error))}")
    if isinstance(error, ValueError | RuntimeError):
        return HubError(f"{host}: {repo}: {_one_line(str(error))}")
    if isinstance(error, LookupError | TypeError):
        return HubError(f"{host}: {repo}: this is not the answer of a Hub ({type(error).__name__}: {error})")
    return None


def _answered(error: Any, host: str, repo: str, revision: str | None) -> ZooError:
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status: int = error.response.status_code
    if str(error.response.url).endswith(DUPLICATE_ROUTE) and status not in TRANSIENT_STATUS:
        return CopyRefused(f"{host}: refused ({status}) to copy files to {repo} from another repo", hint=NO_COPY)
    message = _one_line(error.response.headers.get("X-Error-Message") or error.server_message or "")
    if isinstance(error, GatedRepoError):
        return HubError(f"{host}: {repo} is gated: access must be asked for on its page", hint=LOG_IN)
    if isinstance(error, RepositoryNotFoundError):
        if status == 401:
            return HubError(f"{host}: {repo} does not exist, or may not be seen without logging in", hint=LOG_IN)
        return RepoMissing(f"{host}: no repo {repo}", hint="check the name; a private repo needs a token that sees it")
    if isinstance(error, RevisionNotFoundError):
        return RevisionMissing(
            f"{host}: {repo} has no revision {revision!r}", hint="give a branch, tag or commit of it"
        )
    if isinstance(error, RemoteEntryNotFoundError):
        return HubError(f"{host}: {repo}: {message or 'a file is not there'}")
    if isinstance(error, DisabledRepoError):
        return HubError(f"{host}: access to {repo} was disabled by the Hub")
    return _status_error(status, message, host, repo, error.response.headers.get("Retry-After"))


class CopyRefused(HubError):
    """The Hub does not copy files from the other repo: no right to read it, another storage region, no such route."""


class RepoMissing(HubError):
    """There is no such repo, or this token may not see it."""


class RevisionMissing(HubError):
    """The repo has no such branch, tag or commit."""


def _status_error(status: int, message: str, host: str, repo: str, retry_after: str | None) -> ZooError:
    said = f": {message}" if message else ""
    if status in TRANSIENT_STATUS:
        wait = float(retry_after) if retry_after and retry_after.isdecimal() else None
        return TransientHubError(f"{host}: answered {status}{said}", hint="try again later", wait=wait)
    if status in MOVED_STATUS:
        return Conflict(
            f"{repo}: somebody else changed it since this push looked{said}",
            hint="run the same command again: it plans anew and sends only what is missing",
        )
    if status == 401:
        return HubError(f"{host}: the token is missing or not valid{said}", hint=LOG_IN)
    if status == 403:
        return HubError(f"{host}: not allowed for {repo}{said}", hint=LOG_IN)
    if status == 404:
        return HubError(f"{host}: {repo}: not found{said}", hint="check --endpoint and HF_ENDPOINT")
    return HubError(f"{host}: {repo}: answered {status}{said}")


def _one_line(text: str) -> str:
    first = " ".join(text.split())
    return first if len(first) <= MESSAGE_LENGTH else first[: MESSAGE_LENGTH - 1] + "…"


MESSAGE_LENGTH = 240
"""Longest part of a server's message that is shown."""
