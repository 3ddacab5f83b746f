"""What a commit does to the files of its parent. Decisions only; the bytes are kept by who calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from zoo.hub_server.errors import Refusal, bad_request
from zoo.hub_server.names import check_repo_path
from zoo.hub_server.records import Entry

REGULAR_LIMIT = 10 << 20
"""Larger files must be large objects; the Hub draws the line at 10 MiB too."""


@dataclass(frozen=True)
class PutSmall:
    """Write a file whose content came with the commit."""

    path: str
    content: bytes


@dataclass(frozen=True)
class KeptSmall:
    """Write a file whose small content is stored already."""

    entry: Entry


@dataclass(frozen=True)
class PutLarge:
    """Write a file whose content is a large object of the repo; `size` is checked where given."""

    path: str
    sha256: str
    size: int | None


@dataclass(frozen=True)
class DeleteFile:
    """Delete a file."""

    path: str


@dataclass(frozen=True)
class DeleteFolder:
    """Delete a folder and all in it."""

    path: str


Change = PutSmall | KeptSmall | PutLarge | DeleteFile | DeleteFolder


def apply_changes(
    files: Mapping[str, Entry],
    changes: Iterable[Change],
    *,
    commit: str,
    keep: Callable[[bytes], str],
    object_size: Callable[[str], int],
) -> dict[str, Entry]:
    """The files after `changes`, applied in order.

    Args:
        files: the files before, by path.
        changes: what to do.
        commit: id of the commit before, for messages.
        keep: stores small content and returns its sha256.
        object_size: size of a large object of this repo; raises a Refusal if the repo has none of that digest.

    Raises:
        Refusal: 400 for bad paths, sizes or objects, 404 for something to delete that is not there.
    """
    after = dict(files)
    for change in changes:
        match change:
            case PutSmall(path, content):
                check_repo_path(path)
                if len(content) > REGULAR_LIMIT:
                    raise bad_request(f"{path}: {len(content)} bytes; above {REGULAR_LIMIT} a file must use LFS")
                after[path] = Entry.regular(path, content, keep(content))
            case KeptSmall(entry):
                check_repo_path(entry.path)
                after[entry.path] = entry
            case PutLarge(path, sha256, size):
                check_repo_path(path)
                found = object_size(sha256)
                if size is not None and size != found:
                    raise bad_request(f"{path}: announced {size} bytes, object {sha256} has {found}")
                after[path] = Entry.large(path, sha256, found)
            case DeleteFile(path):
                if after.pop(path, None) is None:
                    raise _nothing_to_delete("file", path, commit)
            case DeleteFolder(path):
                prefix = path.rstrip("/") + "/"
                inside = [name for name in after if name.startswith(prefix)]
                if not inside:
                    raise _nothing_to_delete("folder", path, commit)
                for name in inside:
                    del after[name]
    return after


def _nothing_to_delete(what: str, path: str, commit: str) -> Refusal:
    # The client recognises "A file with this name doesn't exist" and then explains folders and files.
    message = f"A {what} with this name doesn't exist: {path[:200]!r}"
    return Refusal(404, message, "EntryNotFound", {"X-Repo-Commit": commit})
