"""What a server's answer to a request for a file means."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from zoo.errors import DigestMismatch, HubError, ZooError
from zoo.lock import LockedFile, Source

LONGEST_WAIT = 300.0
"""Seconds; the Hub's rate limits count in windows of five minutes."""

_TRY_AGAIN = frozenset({408, 425, 429})
"""Besides 5xx: request timeout, too early, too many requests."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_RATE_LIMIT_RESET = re.compile(r"\bt=(\d+)")
_SHA256_ETAG = re.compile(r'"([0-9a-f]{64})"')


class TryAgain(Exception):
    """The answer may be another one later.

    Args:
        error: what to say if it is not.
        wait: seconds the server asks for; None to wait as long as seems right.
        from_start: the bytes that are there cannot be continued.
    """

    def __init__(self, error: ZooError, *, wait: float | None = None, from_start: bool = False) -> None:
        super().__init__(error.message)
        self.error = error
        self.wait = wait
        self.from_start = from_start


def bytes_to_skip(
    status: int, headers: Mapping[str, str], *, file: LockedFile, source: Source | None, url: str, have: int
) -> int:
    """How many bytes at the beginning of the answer's body are on this disk already.

    Args:
        status: of the answer.
        headers: of the answer, looked up without regard to case.
        file: the file that was asked for.
        source: where it was asked for; None if the address is not a Hub's.
        url: the address, for messages; it holds no secret.
        have: bytes that are there; what comes next was asked for.

    Raises:
        TryAgain: too busy, broken for the moment, or not able to continue.
        HubError: refused, not there, or not the file that the lock describes.
        DigestMismatch: the Hub itself says that it has other bytes.
    """
    if status == 416:
        raise TryAgain(HubError(f"{url}: cannot continue at byte {have}"), wait=0, from_start=True)
    if status in _TRY_AGAIN or status >= 500:
        raise TryAgain(HubError(f"{url}: the Hub answered {_status_words(status)}"), wait=_requested_wait(headers))
    if status not in (200, 206):
        raise _refusal(status, headers, source, url)
    wanted = source.path if source is not None else file.path
    if headers.get("Content-Type", "").startswith("text/html") and not wanted.endswith((".html", ".htm")):
        raise HubError(
            f"{url}: a web page came instead of the file",
            hint="is there a login page between this machine and the Hub, or is --endpoint wrong?",
        )
    if headers.get("Content-Encoding", "identity") != "identity":
        raise HubError(f"{url}: came compressed although it was asked for as it is", hint="is a proxy in between?")
    if status == 200:
        _check_size(headers.get("Content-Length"), file, url)
        return have
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if found is None or int(found[1]) > have:
        raise TryAgain(HubError(f"{url}: another part came than was asked for"), wait=0, from_start=True)
    if found[3] != "*":
        _check_size(found[3], file, url)
    return have - int(found[1])


def range_end(headers: Mapping[str, str]) -> int:
    """The position after the last byte of the part that a 206 answer holds; its header has been judged before."""
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    assert found is not None
    return int(found[2]) + 1


def check_announced_digest(headers: Mapping[str, str], *, file: LockedFile, url: str) -> None:
    """Compare what the Hub says it will send, before gigabytes of it travel.

    Only `X-Linked-ETag` counts: it is the sha256 of a large file. A CDN's own ETag can be anything.

    Raises:
        DigestMismatch: the Hub says that it has other bytes.
    """
    found = _SHA256_ETAG.fullmatch(headers.get("X-Linked-ETag", ""))
    if found and file.sha256 is not None and found[1] != file.sha256:
        raise mismatch(file, found[1], url, "the Hub says it has other bytes than the lock")


def mismatch(file: LockedFile, actual: str, url: str, what: str) -> DigestMismatch:
    """The error for bytes that are not what the lock says."""
    return DigestMismatch(
        f"{file.path}: {what}: expected sha256 {file.sha256}, found {actual} ({url})",
        hint="nothing was installed; try again, or another --endpoint. If it stays, the lock or the Hub's copy is bad",
    )


def _check_size(announced: str | None, file: LockedFile, url: str) -> None:
    if announced is None or not announced.isascii() or not announced.isdigit():
        return
    if int(announced) != file.size:
        raise wrong_size(file, int(announced), url)


def wrong_size(file: LockedFile, actual: int, url: str) -> HubError:
    """The error for a file that is longer or shorter than its lock says."""
    return HubError(
        f"{file.path}: the lock says {file.size:,} bytes, the Hub has {actual:,} ({url})",
        hint="take a new lock with `zoo lock`, or check --endpoint",
    )


def _status_words(status: int) -> str:
    from http import HTTPStatus

    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _refusal(status: int, headers: Mapping[str, str], source: Source | None, url: str) -> HubError:
    if source is None:
        return HubError(
            f"{url}: the server answered {_status_words(status)}", hint="is the address in the manifest still right?"
        )
    code = headers.get("X-Error-Code", "")
    where = f"{source.repo}@{source.commit[:12]}"
    if code == "GatedRepo" or status == 403:
        return HubError(
            f"{where}: access to {source.path} is restricted ({url})",
            hint="ask for access on the repo's page, then log in with `hf auth login` or set HF_TOKEN",
        )
    if status == 401 or code == "RepoNotFound":
        return HubError(
            f"{source.repo}: no such repo, or no right to see it ({url})",
            hint="if it is private, log in with `hf auth login` or set HF_TOKEN",
        )
    if code == "RevisionNotFound":
        return HubError(f"{source.repo}: no commit {source.commit} ({url})", hint="take a new lock with `zoo lock`")
    if status in (404, 410):
        return HubError(f"{where}: no file {source.path} ({url})", hint="take a new lock with `zoo lock`")
    return HubError(f"{url}: the Hub answered {_status_words(status)}")


def _requested_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks to wait: `Retry-After` as seconds or a date, else the Hub's `RateLimit: ...;t=<s>`."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value), LONGEST_WAIT)
    if value:
        try:
            wait = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
        return min(max(wait, 0.0), LONGEST_WAIT)
    if found := _RATE_LIMIT_RESET.search(headers.get("RateLimit", "")):
        return min(float(found[1]), LONGEST_WAIT)
    return None
