"""Names that come from outside: repo ids, branches, paths in a repo.

Repo ids become folders, so they are checked against a short list of what is allowed. Paths in a repo never touch the
file system (they are keys in a tree), so they follow git: anything git could check out safely, letter-case clashes
included. What a client makes of such a listing is the client's business and worth testing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from zoo.hub_server.errors import Refusal, bad_request

REPO_KINDS = ("models", "datasets", "spaces")
"""As in `/api/models/...`; models have no prefix elsewhere."""

_NAME_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_-])?")
"""96 characters at most (huggingface_hub/utils/_validators.py), and not the dot-only or hidden ones."""

_FULL_OID = re.compile(r"[0-9a-f]{40}")
_REF_FORBIDDEN = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/$|^/|\.$|(^|/)\.|\.lock(/|$)")
"""git-check-ref-format(1)."""

MAX_REPO_PATH_BYTES = 1024
"""Longer paths cannot be checked out on macOS (PATH_MAX)."""


def check_repo_name(name: str) -> str:
    """Return `namespace/name` if it is one.

    Raises:
        Refusal: 400.
    """
    parts = name.split("/")
    usable = all(_NAME_PART.fullmatch(p) and ".." not in p and "--" not in p for p in parts)
    if len(parts) != 2 or not usable or name.endswith((".git", ".ipynb")):
        raise bad_request(f"Invalid repo id {name[:200]!r}: expected namespace/name with letters, digits, - _ .")
    return name


def is_full_oid(revision: str) -> bool:
    """Whether `revision` is a whole commit id."""
    return _FULL_OID.fullmatch(revision) is not None


def check_ref_name(name: str, what: str) -> str:
    """Return a branch or tag name that git would take and that cannot be mistaken for a commit.

    Raises:
        Refusal: 400.
    """
    if not name or len(name) > 200 or _REF_FORBIDDEN.search(name) or is_full_oid(name) or name.startswith("refs/"):
        raise bad_request(f"Invalid {what} name {name[:200]!r}")
    return name


def check_repo_path(path: str) -> str:
    """Return `path` if git would take it as the path of a file.

    Raises:
        Refusal: 400, with the reason.
    """
    reason = _reason_refused(path)
    if reason is not None:
        raise _refused_path(path, reason)
    return path


def _reason_refused(path: str) -> str | None:
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if not 0 < size <= MAX_REPO_PATH_BYTES:
        return f"is empty or longer than {MAX_REPO_PATH_BYTES} bytes"
    if any(ord(character) < 0x20 or 0x7F <= ord(character) <= 0x9F for character in path):
        return "has a control character"
    if "\\" in path:
        return "has a backslash"
    for part in path.split("/"):
        if part in ("", ".", ".."):
            return "is absolute, ends with / or has an empty, '.' or '..' part"
        if part.casefold() == ".git":
            return "has a .git part"
    return None


def check_tree_paths(paths: Iterable[str]) -> None:
    """Refuse a tree in which a file is also a folder.

    Raises:
        Refusal: 400, naming the file.
    """
    files = set(paths)
    for path in files:
        parent, _, _ = path.rpartition("/")
        while parent:
            if parent in files:
                raise _refused_path(path, f"lies in {parent!r}, which is a file")
            parent, _, _ = parent.rpartition("/")


def _refused_path(path: str, reason: str) -> Refusal:
    return bad_request(f"Invalid path {path[:200]!r}: it {reason}")
