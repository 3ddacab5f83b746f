"""Repos, commits and refs on a directory. Everything is a file; a restart sees everything.

    repos/<kind>/<namespace>/<name>/
        repo.json               visibility, gate
        refs.json               branches, tags, pull requests -> commit ids
        commits/<oid>.json      parent, message, tree id; never changed
        trees/<oid>.json        all files of a commit; never changed
        lfs/<sha256>            empty; this repo may use the large object of that digest

Large objects belong to a repo only after they were uploaded to it or duplicated into it, as on the Hub: knowing a
digest is not a right to the bytes. Ids are git's (`gitids`), so the same files give the same commit everywhere.
"""

from __future__ import annotations

import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from zoo.documents import write_atomically
from zoo.hub_server import gitids
from zoo.hub_server.blobs import Blobs
from zoo.hub_server.changes import Change, apply_changes
from zoo.hub_server.errors import (
    Refusal,
    bad_request,
    conflict,
    entry_not_found,
    repo_not_found,
    revision_not_found,
    stale_parent,
)
from zoo.hub_server.names import check_ref_name, check_repo_name, check_tree_paths, is_full_oid
from zoo.hub_server.records import Commit, Entry, PullRequest, Refs, RepoId, RepoInfo, Snapshot, Tree
from zoo.hub_server.xet import XetStages
from zoo.plan.remote import LFS_SUFFIXES

DEFAULT_BRANCH = "main"

GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()

_SHORT_OID = re.compile(r"[0-9a-f]{7,39}")

Document = TypeVar("Document")


class Store:
    """A Hub's content. Methods may be called from any thread; those that change refs take turns."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.blobs = Blobs(directory)
        self.xet = XetStages(self.blobs)
        self.lock = threading.RLock()
        """Held while anything but blobs is changed."""

    def prepare(self) -> None:
        """Make the folders that are missing and clear what a killed process left half done."""
        self.blobs.prepare()
        shutil.rmtree(self.directory / "trash", ignore_errors=True)
        (self.directory / "repos").mkdir(exist_ok=True)
        for unfinished in self.directory.glob("repos/*/*/*/**/.*.new"):
            unfinished.unlink()
        for folder in self.directory.glob("repos/*/*/*"):
            self._recover(folder)

    def _recover(self, folder: Path) -> None:
        """Remove a repo that was not made to the end; finish moving one."""
        name = f"{folder.parent.name}/{folder.name}"
        repo = RepoId(folder.parent.parent.name, name)
        if not (folder / "refs.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            return
        info = self._read(repo, "repo.json", RepoInfo)
        if info.name != name:
            self.write(repo, "repo.json", msgspec.structs.replace(info, name=name))

    # Repos

    def create_repo(self, repo: RepoId, *, private: bool = False) -> None:
        """Make a repo whose first commit holds `.gitattributes`, as on the Hub.

        Raises:
            Refusal: 400 for a bad name, 409 if it exists, also in another letter case.
        """
        check_repo_name(repo.name)
        with self.lock:
            taken = [other for other in self.list_repos(repo.kind) if other.name.casefold() == repo.name.casefold()]
            if taken:
                raise conflict(f"You already created this {repo.kind[:-1]} repo: {taken[0].name}")
            self.write(repo, "repo.json", RepoInfo(name=repo.name, private=private))
            sha256 = self.blobs.put(GITATTRIBUTES)
            first = Entry.regular(".gitattributes", GITATTRIBUTES, sha256)
            oid = self.write_commit(repo, {first.path: first}, None, "initial commit", "")
            # Last: a repo without refs does not exist.
            self.write(repo, "refs.json", Refs(branches={DEFAULT_BRANCH: oid}))

    def delete_repo(self, repo: RepoId) -> None:
        """Delete a repo. The blobs stay: others may use them.

        Raises:
            Refusal: 404.
        """
        with self.lock:
            self.repo_info(repo)
            trash = self.directory / "trash" / secrets.token_hex(8)
            trash.parent.mkdir(exist_ok=True)
            self.folder(repo).replace(trash)
            shutil.rmtree(trash, ignore_errors=True)

    def list_repos(self, kind: str) -> list[RepoId]:
        """All repos of a kind, sorted by name."""
        root = self.directory / "repos" / kind
        return sorted(
            RepoId(kind, f"{found.parent.parent.name}/{found.parent.name}") for found in root.glob("*/*/refs.json")
        )

    def repo_info(self, repo: RepoId) -> RepoInfo:
        """Visibility and gate of a repo.

        Raises:
            Refusal: 404.
        """
        try:
            check_repo_name(repo.name)
            info = self._read(repo, "repo.json", RepoInfo)
            self._read(repo, "refs.json", Refs)
        except (Refusal, FileNotFoundError):
            raise repo_not_found(repo.name) from None
        # A case-insensitive disk finds the folder of another repo.
        if info.name != repo.name:
            raise repo_not_found(repo.name)
        return info

    def update_repo(self, repo: RepoId, *, private: bool | None, gated: str | None) -> RepoInfo:
        """Change visibility or gate (`auto`, `manual`, or empty for none); None leaves it."""
        with self.lock:
            info = self.repo_info(repo)
            info = RepoInfo(
                name=info.name,
                private=info.private if private is None else private,
                gated=info.gated if gated is None else gated,
            )
            self.write(repo, "repo.json", info)
            return info

    # Reading

    def refs(self, repo: RepoId) -> Refs:
        """All refs of a repo.

        Raises:
            Refusal: 404.
        """
        self.repo_info(repo)
        return self._read(repo, "refs.json", Refs)

    def resolve(self, repo: RepoId, revision: str) -> str:
        """The commit id of a branch, tag, `refs/pr/N`, whole or shortened commit id.

        Raises:
            Refusal: 404.
        """
        oid = self.refs(repo).find(revision)
        if oid is not None:
            return oid
        if is_full_oid(revision) and self._file(repo, f"commits/{revision}.json").is_file():
            return revision
        if _SHORT_OID.fullmatch(revision):
            found = [path.stem for path in self._file(repo, "commits").glob(f"{revision}*.json")]
            if len(found) == 1:
                return found[0]
        raise revision_not_found(repo.name, revision)

    def snapshot(self, repo: RepoId, revision: str) -> Snapshot:
        """All files at a revision.

        Raises:
            Refusal: 404.
        """
        oid = self.resolve(repo, revision)
        return self._snapshot_at(repo, oid)

    def entry(self, repo: RepoId, revision: str, path: str) -> tuple[str, Entry]:
        """The commit id and the file at `path`.

        Raises:
            Refusal: 404.
        """
        found = self.snapshot(repo, revision)
        entry = found.files.get(path)
        if entry is None:
            raise entry_not_found(path, found.commit)
        return found.commit, entry

    def history(self, repo: RepoId, revision: str) -> list[tuple[str, Commit]]:
        """The commits from a revision back to the first, newest first."""
        oid: str | None = self.resolve(repo, revision)
        found: list[tuple[str, Commit]] = []
        while oid is not None:
            commit = self._read(repo, f"commits/{oid}.json", Commit)
            found.append((oid, commit))
            oid = commit.parent
        return found

    # Large objects of a repo

    def has_object(self, repo: RepoId, sha256: str) -> bool:
        """Whether this repo may use the large object `sha256`, and the bytes are here."""
        return self._file(repo, f"lfs/{sha256}").is_file() and self.blobs.size(sha256) is not None

    def grant_object(self, repo: RepoId, sha256: str) -> None:
        """Let this repo use a large object that was uploaded to it or duplicated into it."""
        self.repo_info(repo)
        folder = self._file(repo, "lfs")
        folder.mkdir(exist_ok=True)
        (folder / sha256).touch()

    def take_over(self, repo: RepoId, digests: Iterable[str]) -> None:
        """Let this repo use those of the large objects that were uploaded to it by xet.

        Raises:
            Refusal: 400, if what was uploaded is not what it was said to be.
        """
        missing = [sha256 for sha256 in dict.fromkeys(digests) if not self.has_object(repo, sha256)]
        for sha256 in self.xet.fetch(repo, missing) if missing else ():
            self.grant_object(repo, sha256)
        self.xet.sweep(self.has_object, repo)

    def sweep(self) -> None:
        """Remove what uploads left that were given up."""
        self.xet.sweep(self.has_object)

    # Changing

    def commit(
        self,
        repo: RepoId,
        revision: str,
        changes: Iterable[Change],
        *,
        title: str,
        description: str = "",
        parent: str | None = None,
        open_pull_request: bool = False,
    ) -> tuple[str, int | None]:
        """Put one commit on a branch, or on a new pull request against it.

        Args:
            repo: the repo.
            revision: a branch or `refs/pr/N`; with `open_pull_request`, the branch it is for.
            changes: what to do, in order; all of it or nothing.
            title: first line of the message.
            description: the rest of it.
            parent: the commit that the client has seen, whole or shortened; with `open_pull_request` the pull
                request starts there.
            open_pull_request: leave the branch alone and open a pull request.

        Returns:
            The commit id, and the number of the pull request if one was opened.

        Raises:
            Refusal: 400 for bad changes, 404 for an unknown revision or a file to delete that is not there, 412 if
                the branch is not at `parent`.
        """
        with self.lock:
            refs = self.refs(repo)
            head = refs.find_writable(revision)
            if head is None:
                raise revision_not_found(repo.name, revision)
            if open_pull_request:
                head = self.resolve(repo, parent) if parent is not None else head
            elif parent is not None and not (len(parent) >= 7 and head.startswith(parent)):
                raise stale_parent(parent, head)
            before = self._snapshot_at(repo, head)
            allowed = self._object_size_for(repo)
            files = apply_changes(before.files, changes, commit=head, keep=self.blobs.put, object_size=allowed)
            check_tree_paths(files)
            oid = self.write_commit(repo, files, head, title, description)
            if open_pull_request:
                number = refs.next_pull_request()
                refs.pull_requests[str(number)] = PullRequest(oid, title, description, base=revision)
            else:
                number = None
                refs.move(revision, oid)
            self.write(repo, "refs.json", refs)
            return oid, number

    def open_pull_request(self, repo: RepoId, title: str, description: str) -> int:
        """Open a pull request against the default branch that changes nothing yet; returns its number."""
        with self.lock:
            refs = self.refs(repo)
            number = refs.next_pull_request()
            head = refs.branches[DEFAULT_BRANCH]
            refs.pull_requests[str(number)] = PullRequest(head, title, description, base=DEFAULT_BRANCH)
            self.write(repo, "refs.json", refs)
            return number

    def merge_pull_request(self, repo: RepoId, number: int) -> str:
        """Move the base branch to the pull request, if it is still where the pull request started.

        Raises:
            Refusal: 404 if there is none, 409 if the branch has moved.
        """
        with self.lock:
            refs = self.refs(repo)
            pull = refs.pull_requests.get(str(number))
            if pull is None:
                raise Refusal(404, f"No pull request {number} in {repo.name}")
            if pull.status in ("merged", "closed"):
                raise conflict(f"Pull request {number} is {pull.status}")
            ancestors = {oid for oid, _ in self.history(repo, pull.oid)}
            if refs.branches.get(pull.base) not in ancestors:
                raise conflict(f"{pull.base} has moved since pull request {number} was opened")
            refs.branches[pull.base] = pull.oid
            refs.pull_requests[str(number)] = msgspec.structs.replace(pull, status="merged")
            self.write(repo, "refs.json", refs)
            return pull.oid

    def update_pull_request(
        self, repo: RepoId, number: int, *, title: str | None = None, status: str | None = None
    ) -> None:
        """Rename, close (`closed`) or reopen (`open`) a pull request.

        Raises:
            Refusal: 404 if there is none, 409 if it was merged.
        """
        with self.lock:
            refs = self.refs(repo)
            pull = refs.pull_requests.get(str(number))
            if pull is None:
                raise Refusal(404, f"No pull request {number} in {repo.name}")
            if status is not None and pull.status == "merged":
                raise conflict(f"Pull request {number} is merged")
            changed = msgspec.structs.replace(pull, title=title or pull.title, status=status or pull.status)
            refs.pull_requests[str(number)] = changed
            self.write(repo, "refs.json", refs)

    def create_branch(self, repo: RepoId, name: str, start: str) -> None:
        """Make a branch at a revision.

        Raises:
            Refusal: 400 for a bad name, 404 for an unknown start, 409 if it exists.
        """
        self._create_ref(repo, name, start, "branch")

    def create_tag(self, repo: RepoId, name: str, revision: str) -> None:
        """Make a tag at a revision; errors as for `create_branch`."""
        self._create_ref(repo, name, revision, "tag")

    def delete_ref(self, repo: RepoId, name: str, what: str) -> None:
        """Delete a branch or tag; its commits stay.

        Raises:
            Refusal: 404 if there is none, 403 for the default branch.
        """
        with self.lock:
            refs = self.refs(repo)
            table = refs.branches if what == "branch" else refs.tags
            if name not in table:
                raise revision_not_found(repo.name, name)
            if what == "branch" and name == DEFAULT_BRANCH:
                raise Refusal(403, f"The default branch {name} cannot be deleted")
            del table[name]
            self.write(repo, "refs.json", refs)

    def _create_ref(self, repo: RepoId, name: str, start: str, what: str) -> None:
        with self.lock:
            check_ref_name(name, what)
            refs = self.refs(repo)
            table = refs.branches if what == "branch" else refs.tags
            if name in table:
                raise conflict(f"{what} {name} already exists in {repo.name}")
            table[name] = self.resolve(repo, start)
            self.write(repo, "refs.json", refs)

    # Files

    def _object_size_for(self, repo: RepoId) -> Callable[[str], int]:
        def size(sha256: str) -> int:
            if not self.has_object(repo, sha256):
                raise bad_request(f"Large object {sha256} was not uploaded to {repo.name}")
            return self.blobs.path(sha256).stat().st_size

        return size

    def write_commit(
        self, repo: RepoId, files: dict[str, Entry], parent: str | None, title: str, description: str
    ) -> str:
        """Keep a commit that no ref points to yet; returns its id."""
        tree = gitids.tree_ids({path: entry.oid for path, entry in files.items()})[""]
        message = f"{title}\n\n{description}" if description else title
        oid = gitids.commit_id(tree, parent, message)
        self.write(repo, f"trees/{tree}.json", Tree([files[path] for path in sorted(files)]))
        self.write(repo, f"commits/{oid}.json", Commit(tree, parent, title, description))
        return oid

    def _snapshot_at(self, repo: RepoId, oid: str) -> Snapshot:
        commit = self._read(repo, f"commits/{oid}.json", Commit)
        tree = self._read(repo, f"trees/{commit.tree}.json", Tree)
        return Snapshot(oid, {entry.path: entry for entry in tree.files})

    def folder(self, repo: RepoId) -> Path:
        """Where a repo lies or would lie; its name must have been checked."""
        namespace, _, name = repo.name.partition("/")
        return self.directory / "repos" / repo.kind / namespace / name

    def _file(self, repo: RepoId, name: str) -> Path:
        return self.folder(repo) / name

    def _read(self, repo: RepoId, name: str, kind: type[Document]) -> Document:
        return msgspec.json.decode(self._file(repo, name).read_bytes(), type=kind)

    def write(self, repo: RepoId, name: str, document: msgspec.Struct) -> None:
        """Write one of the documents of a repo, whole or not at all."""
        write_atomically(self._file(repo, name), msgspec.json.encode(document, order="sorted") + b"\n")
