"""What a Hub remembers, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from zoo.hub_server import gitids


class RepoId(NamedTuple):
    """Which repo: its kind (`models`, `datasets`, `spaces`) and `namespace/name`."""

    kind: str
    name: str

    @property
    def url_path(self) -> str:
        """As in web addresses: models have no prefix."""
        return self.name if self.kind == "models" else f"{self.kind}/{self.name}"


class RepoInfo(msgspec.Struct, frozen=True):
    """Settings of a repo; `gated` is `auto`, `manual` or empty."""

    name: str
    private: bool = False
    gated: str = ""


class Entry(msgspec.Struct, frozen=True):
    """A file at a commit.

    Attributes:
        path: relative path, `/` between parts.
        size: bytes.
        sha256: of the content, where the blob lies.
        oid: git's id, of the content or, for a large file, of its pointer.
        lfs: whether it is a large file.
    """

    path: str
    size: int
    sha256: str
    oid: str
    lfs: bool

    @staticmethod
    def regular(path: str, data: bytes, sha256: str) -> Entry:
        """A small file, kept by git itself."""
        return Entry(path, len(data), sha256, gitids.object_id("blob", data), lfs=False)

    @staticmethod
    def large(path: str, sha256: str, size: int) -> Entry:
        """A large file, for which git keeps a pointer."""
        return Entry(path, size, sha256, gitids.object_id("blob", gitids.pointer(sha256, size)), lfs=True)

    @property
    def content_id(self) -> str:
        """What the Hub's ETag holds: sha256 of a large file, git's id of a small one."""
        return self.sha256 if self.lfs else self.oid


class Tree(msgspec.Struct, frozen=True):
    """All files of a commit, sorted by path."""

    files: list[Entry]


class Commit(msgspec.Struct, frozen=True):
    """A commit; it has no author and no date, so that its id depends on content alone."""

    tree: str
    parent: str | None
    title: str
    description: str


class PullRequest(msgspec.Struct, frozen=True):
    """A pull request; its commits lie under `refs/pr/<number>`."""

    oid: str
    title: str
    description: str
    base: str
    status: str = "open"


class Refs(msgspec.Struct):
    """Everything in a repo that moves."""

    branches: dict[str, str]
    tags: dict[str, str] = {}
    pull_requests: dict[str, PullRequest] = {}

    def find(self, revision: str) -> str | None:
        """The commit of a branch, tag or `refs/...`, or None."""
        if revision.startswith("refs/heads/"):
            return self.branches.get(revision.removeprefix("refs/heads/"))
        if revision.startswith("refs/tags/"):
            return self.tags.get(revision.removeprefix("refs/tags/"))
        if revision.startswith("refs/pr/"):
            pull = self.pull_requests.get(revision.removeprefix("refs/pr/"))
            return pull.oid if pull else None
        return self.branches.get(revision) or self.tags.get(revision)

    def find_writable(self, revision: str) -> str | None:
        """As `find`, but only what a commit can be put on."""
        if revision.startswith("refs/tags/") or (revision in self.tags and revision not in self.branches):
            return None
        return self.find(revision)

    def move(self, revision: str, oid: str) -> None:
        """Point a branch or pull request that `find_writable` found at `oid`."""
        if revision.startswith("refs/pr/"):
            number = revision.removeprefix("refs/pr/")
            self.pull_requests[number] = msgspec.structs.replace(self.pull_requests[number], oid=oid)
        else:
            self.branches[revision.removeprefix("refs/heads/")] = oid

    def next_pull_request(self) -> int:
        """The number of the next pull request; numbers are never used again."""
        return len(self.pull_requests) + 1


@dataclass(frozen=True)
class Snapshot:
    """All files at one commit, by path."""

    commit: str
    files: dict[str, Entry]

    def folders(self) -> dict[str, str]:
        """Every folder and its git tree id, without the root."""
        ids = gitids.tree_ids({path: entry.oid for path, entry in self.files.items()})
        del ids[""]
        return ids
