"""What is done to a repo as a whole: another name, a copy, a history of one commit."""

from __future__ import annotations

import os
import secrets
import shutil

import msgspec

from zoo.hub_server.errors import conflict, revision_not_found
from zoo.hub_server.names import check_repo_name
from zoo.hub_server.records import Refs, RepoId, RepoInfo
from zoo.hub_server.store import Store


def move_repo(store: Store, repo: RepoId, target: RepoId) -> None:
    """Give a repo another name, in one rename. The old name is free then; nothing leads from it to the new one.

    Raises:
        Refusal: 400 for a bad name, 404, 409 if the new name is taken, also in another letter case.
    """
    with store.lock:
        info = store.repo_info(repo)
        _check_free(store, target, besides=repo)
        folder = store.folder(target)
        folder.parent.mkdir(parents=True, exist_ok=True)
        store.folder(repo).rename(folder)
        # Killed here, the Hub does this when it starts again.
        store.write(target, "repo.json", msgspec.structs.replace(info, name=target.name))


def duplicate_repo(store: Store, repo: RepoId, target: RepoId, *, private: bool | None) -> None:
    """Copy a repo with its history, branches and tags, but without pull requests and gate. Blobs are not copied.

    Args:
        store: the Hub's content.
        repo: the repo.
        target: the copy.
        private: whether the copy is private; None for as the repo is.

    Raises:
        Refusal: 400 for a bad name, 404, 409 if the name is taken, also in another letter case.
    """
    with store.lock:
        info, refs = store.repo_info(repo), store.refs(repo)
        _check_free(store, target)
        # Beside the others, where a Hub that starts again clears away what is not finished.
        new = store.directory / "trash" / secrets.token_hex(8)
        shutil.copytree(store.folder(repo), new, copy_function=_link)
        for name in ("repo.json", "refs.json"):
            (new / name).unlink()
        copy = RepoInfo(target.name, private=info.private if private is None else private)
        (new / "repo.json").write_bytes(msgspec.json.encode(copy))
        (new / "refs.json").write_bytes(msgspec.json.encode(Refs(refs.branches, refs.tags)))
        folder = store.folder(target)
        folder.parent.mkdir(parents=True, exist_ok=True)
        new.rename(folder)


def squash_history(store: Store, repo: RepoId, branch: str, title: str) -> str:
    """Let a branch begin with one commit that holds its files; returns the commit's id.

    Raises:
        Refusal: 404 for an unknown repo or branch.
    """
    with store.lock:
        refs = store.refs(repo)
        if branch not in refs.branches:
            raise revision_not_found(repo.name, branch)
        files = store.snapshot(repo, refs.branches[branch]).files
        refs.branches[branch] = store.write_commit(repo, files, None, title, "")
        store.write(repo, "refs.json", refs)
        return refs.branches[branch]


def _check_free(store: Store, target: RepoId, besides: RepoId | None = None) -> None:
    check_repo_name(target.name)
    for other in store.list_repos(target.kind):
        if other.name.casefold() == target.name.casefold() and other != besides:
            raise conflict(f"{other.name} exists already")


def _link(source: str, target: str) -> None:
    """Commits, trees and grants never change, so the copy may share them."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
