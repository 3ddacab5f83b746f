"""What a Hub says that a repo holds, read page by page and believed only as far as it makes sense.

The stock client follows every `Link: rel="next"`, wherever it leads, for as long as there is one, with the token.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from zoo.errors import DigestMismatch, HubError
from zoo.plan.remote import RemoteFile, git_object_id

MOST_PAGES = 1_000
"""Of a listing; the Hub gives a thousand files a page, and advises against more than a hundred thousand in a repo."""

LARGEST_SIZE = 1 << 53
"""Bytes of a file; beyond it, sizes are no exact numbers in JSON."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_ID = re.compile(r"[0-9a-f]{40}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def read_listing(get: Callable[[str], Any], endpoint: str, repo: str, commit: str) -> tuple[RemoteFile, ...]:
    """All files of a model repo at a commit.

    Args:
        get: asks an address, with the user's token; returns an answer that has `json()` and `links`.
        endpoint: the Hub's address.
        repo: `namespace/name`.
        commit: 40 hex digits.

    Raises:
        HubError: it is no listing, never ends, or leads to another server.
    """
    address: str | None = f"{endpoint}/api/models/{repo}/tree/{quote(commit, safe='')}?recursive=true&expand=false"
    files: dict[str, RemoteFile] = {}
    pages = 0
    while address is not None:
        pages += 1
        if pages > MOST_PAGES:
            raise HubError(f"{repo}: its listing does not end")
        answer = get(address)
        for file in _page(answer, repo):
            if file.path in files:
                raise HubError(f"{repo}: its listing has {file.path!r} twice")
            files[file.path] = file
        address = _next(answer, address, repo)
    return tuple(files.values())


def _page(answer: Any, repo: str) -> Iterator[RemoteFile]:
    try:
        items = answer.json()
    except ValueError:
        raise HubError(f"{repo}: its listing is not JSON", hint="is the endpoint a Hub?") from None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise HubError(f"{repo}: its listing has another form than a Hub's", hint="is the endpoint a Hub?")
    for item in items:
        if item.get("type") == "directory":
            continue
        lfs = item.get("lfs")
        large: Mapping[str, Any] | None = lfs if isinstance(lfs, dict) else None
        yield checked_file(
            repo,
            path=item.get("path"),
            size=large.get("size") if large is not None else item.get("size"),
            sha256=large.get("oid", "") if large is not None else None,
            git_sha1=item.get("oid"),
            xet_hash=item.get("xetHash"),
        )


def _next(answer: Any, address: str, repo: str) -> str | None:
    url = answer.links.get("next", {}).get("url")
    if url is None:
        return None
    following: str = urljoin(address, url)
    if urlsplit(following)[:2] != urlsplit(address)[:2]:
        raise HubError(f"{repo}: its listing goes on at another server, {urlsplit(following).netloc}")
    return following


def checked_file(
    repo: str, *, path: object, size: object, sha256: object, git_sha1: object, xet_hash: object
) -> RemoteFile:
    """One file as the Hub describes it; whether the path may be written is for others to judge.

    Raises:
        HubError: a value is missing or is not what it should be.
    """
    if not isinstance(path, str) or not path or _CONTROL.search(path):
        raise HubError(f"{repo}: its listing has a file of the name {path!r}")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= LARGEST_SIZE:
        raise HubError(f"{repo}: its listing says that {path} has {size!r} bytes")
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise HubError(f"{repo}: its listing has no sha256 of {path}, but {sha256!r}")
    if not isinstance(git_sha1, str) or not _GIT_ID.fullmatch(git_sha1):
        raise HubError(f"{repo}: its listing has no git id of {path}, but {git_sha1!r}")
    return RemoteFile(path, size, sha256, git_sha1, xet_hash if isinstance(xet_hash, str) else None)


def checked_content(content: bytes, file: RemoteFile, repo: str, commit: str) -> bytes:
    """The content of a file, if it is what the listing says.

    Raises:
        DigestMismatch: other bytes came.
    """
    if file.sha256 is None:
        found, expected, what = git_object_id(content), file.git_sha1, "git id"
    else:
        found, expected, what = hashlib.sha256(content).hexdigest(), file.sha256, "sha256"
    if found != expected:
        raise DigestMismatch(
            f"{repo}@{commit[:7]}: {file.path}: {what} is {found}, listed as {expected}",
            hint="run the same command again",
        )
    return content


def is_commit(text: object) -> bool:
    """Whether this is a commit's id in full."""
    return isinstance(text, str) and _GIT_ID.fullmatch(text) is not None
