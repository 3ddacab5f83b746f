r"""The ids git would give, without git: blobs, LFS pointers, trees and commits (gitformat: `<type> <size>\0<body>`).

They make commit ids deterministic: same files, same message, same parent, same id, on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

_EPOCH_SIGNATURE = "zoo <zoo@localhost> 0 +0000"
"""Commits have no author and no clock, or they would not be deterministic."""


def object_id(kind: str, body: bytes) -> str:
    """SHA-1 of a git object as 40 hex digits.

    Args:
        kind: `blob`, `tree` or `commit`.
        body: the object's content.
    """
    return hashlib.sha1(f"{kind} {len(body)}\0".encode() + body, usedforsecurity=False).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    """The text git keeps in place of a large file (git-lfs/docs/spec.md)."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def tree_ids(blobs: Mapping[str, str]) -> dict[str, str]:
    """The id of every folder, the root being `""`.

    Args:
        blobs: path of every file -> its blob id (for a large file, of its pointer).
    """
    children: dict[str, dict[str, tuple[bytes, str]]] = {"": {}}
    for path, oid in blobs.items():
        folder, _, name = path.rpartition("/")
        children.setdefault(folder, {})[name] = (b"100644", oid)
        while folder:
            folder, _, _ = folder.rpartition("/")
            children.setdefault(folder, {})
    ids: dict[str, str] = {}
    # Deepest first, so that a folder's id is known when its parent is written.
    for folder in sorted(children, key=lambda name: (-name.count("/") if name else 1, name)):
        ids[folder] = object_id("tree", _tree_body(children[folder]))
        parent, _, name = folder.rpartition("/")
        if folder:
            children[parent][name] = (b"40000", ids[folder])
    return ids


def _tree_body(children: Mapping[str, tuple[bytes, str]]) -> bytes:
    def order(item: tuple[str, tuple[bytes, str]]) -> bytes:
        # git sorts folders as if their name ended with a slash.
        return item[0].encode() + (b"/" if item[1][0] == b"40000" else b"")

    rows = sorted(children.items(), key=order)
    return b"".join(mode + b" " + name.encode() + b"\0" + bytes.fromhex(oid) for name, (mode, oid) in rows)


def commit_id(tree: str, parent: str | None, message: str) -> str:
    """The id of a commit of `tree` on top of `parent`."""
    lines = [f"tree {tree}", *([f"parent {parent}"] if parent else [])]
    lines += [f"author {_EPOCH_SIGNATURE}", f"committer {_EPOCH_SIGNATURE}", "", message]
    return object_id("commit", "\n".join(lines).encode("utf-8", "replace") + b"\n")
