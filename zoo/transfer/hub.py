"""The Hub, through the stock client and with the things the stock client leaves out.

Left out there, done here: a commit that is repeated after a lost answer does not become two commits (see
`zoo.transfer.push`), identical files travel once, a server without xet is noticed before it is asked to store
something, progress goes to `zoo.events.Progress`, and errors are one line.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from zoo.errors import DiskError, HubError
from zoo.events import Progress, Silent
from zoo.lock import Source
from zoo.plan.remote import Listing, RemoteFile
from zoo.transfer.hub_errors import RepoMissing, TransientHubError, client_errors, translate
from zoo.transfer.listing import checked_file, is_commit, read_listing

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

__all__ = ["Addition", "Committed", "Copy", "HubClient", "Listing", "RemoteFile"]

Answer = TypeVar("Answer")

RETRY_WAITS: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
"""Seconds between tries, as `huggingface_hub.utils.http_backoff` waits."""

MAX_REQUESTED_WAIT = 300.0
"""Longest `Retry-After` that is obeyed: the Hub counts requests in windows of five minutes."""

UPLOAD_THREADS = 4
"""Files at once on the LFS road."""

BIG_FILE_BYTES = 64 << 20
"""On the xet road files from this size on are uploaded one by one, so that progress is seen between them."""

NOTED_BYTES = 1 << 20
"""Files below this size get no line of their own when they are done."""

NO_XET_STATUS = frozenset({400, 404, 405, 410, 501})
"""How servers without xet answer when they are asked for a xet token."""

PATHS_PER_REQUEST = 500
"""For paths-info; the Hub takes at most 1000 (hub.md, 1.3)."""


@dataclass(frozen=True, slots=True)
class Addition:
    """A file to add: a path in the repo, and where its bytes are."""

    path: str
    size: int
    sha256: str
    content: Path | bytes


@dataclass(frozen=True, slots=True)
class Copy:
    """A large file that the Hub is to copy: a path in the repo, and where the bytes are."""

    path: str
    source: Source


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit that is on the Hub; `pull_request` is its page if it went into one."""

    commit: str
    pull_request: str | None = None


class HubClient:
    """One Hub, as one user.

    Args:
        endpoint: its address; None for `HF_ENDPOINT` or the public Hub.
        token: a token; None for the one that the stock client would take (`HF_TOKEN`, `hf auth login`).
        progress: receives progress and remarks.
        sleep: how to wait between tries.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        token: str | None = None,
        *,
        progress: Progress | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        from huggingface_hub import HfApi, constants
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]
        from huggingface_hub.utils import logging as hub_logging

        with warnings.catch_warnings():
            # Warns when HF_HUB_DISABLE_PROGRESS_BARS=0: its bars would draw over ours all the same.
            warnings.simplefilter("ignore")
            disable_progress_bars()
        # Its warnings repeat, with addresses and tracebacks, what our own errors and retries say in one line.
        hub_logging.set_verbosity(logging.ERROR)
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self.progress: Progress = progress or Silent()
        self._token = token
        self._sleep = sleep
        self._xet: bool | None = None
        self._api: HfApi = HfApi(endpoint=self.endpoint, token=token)

    # Reading

    def resolve(self, repo: str, revision: str) -> str:
        """The commit that a branch, tag or commit id stands for.

        Raises:
            HubError: no such repo (`RepoMissing`) or revision (`RevisionMissing`), no right to see it, no answer.
        """

        def ask() -> str | None:
            return self._api.repo_info(repo, revision=revision, repo_type="model").sha

        commit = self._call(ask, repo, revision)
        if commit is None or not is_commit(commit):
            raise HubError(f"{repo}: the Hub did not say which commit {revision!r} is")
        return commit

    def listing(self, repo: str, commit: str) -> Listing:
        """All files of a repo at a commit.

        Raises:
            HubError: as for `resolve`, and for what is no listing.
        """

        def ask() -> tuple[RemoteFile, ...]:
            return read_listing(self._get, self.endpoint, repo, commit)

        return Listing(repo, commit, self._call(ask, repo, commit))

    def with_xet_hashes(self, listing: Listing, paths: Sequence[str]) -> Listing:
        """The listing with the xet hashes of `paths`, which the server is asked for.

        Raises:
            HubError: as for `resolve`.
        """
        asked: dict[str, RemoteFile] = {}
        for start in range(0, len(paths), PATHS_PER_REQUEST):
            some = list(paths[start : start + PATHS_PER_REQUEST])

            def ask(some: list[str] = some) -> list[Any]:
                return self._api.get_paths_info(listing.repo, some, revision=listing.commit, repo_type="model")

            for item in self._call(ask, listing.repo, listing.commit):
                if hasattr(item, "blob_id"):
                    asked[item.path] = _remote_file(listing.repo, item)
        return Listing(listing.repo, listing.commit, tuple(asked.get(file.path, file) for file in listing.files))

    def read(self, repo: str, commit: str, path: str) -> bytes:
        """The content of a small file.

        Raises:
            HubError: as for `resolve`, and if there is no such file.
        """
        from huggingface_hub import hf_hub_url

        def ask() -> bytes:
            content: bytes = self._get(hf_hub_url(repo, path, revision=commit, endpoint=self.endpoint)).content
            return content

        return self._call(ask, repo, commit)

    def pull_request_commits(self, repo: str) -> frozenset[str]:
        """The commits at which the repo's pull requests are.

        Raises:
            HubError: as for `resolve`.
        """

        def ask() -> frozenset[str]:
            refs = self._api.list_repo_refs(repo, repo_type="model", include_pull_requests=True)
            return frozenset(ref.target_commit for ref in refs.pull_requests or ())

        return self._call(ask, repo)

    # Changing

    def create_repo(self, repo: str, *, private: bool | None = None) -> None:
        """Make a model repo, unless it exists.

        Args:
            repo: `namespace/name`.
            private: who may see it; None for the namespace's default.

        Raises:
            HubError: no right to, or no answer.
        """
        self._call(lambda: self._api.create_repo(repo, private=private, exist_ok=True, repo_type="model"), repo)

    def create_branch(self, repo: str, branch: str, start: str) -> None:
        """Make a branch at a commit, unless it exists.

        Raises:
            HubError: no right to, or no answer.
        """
        self._call(
            lambda: self._api.create_branch(repo, branch=branch, revision=start, exist_ok=True, repo_type="model"),
            repo,
            branch,
        )

    def stage(
        self, repo: str, branch: str, additions: Sequence[Addition], *, pull_request: bool = False
    ) -> list[CommitOperationAdd]:
        """Upload the content of large files ahead of a commit, each content once.

        Identical files are sent as one; the others are only named in the commit. Content that the repo has already
        is not sent.

        Returns:
            One operation per addition, for `commit`.

        Raises:
            HubError: refused, or no answer after several tries.
            DiskError: a file cannot be read.
        """
        sent: Counter[str] = Counter()

        def count(path: str, size: int) -> None:
            sent[path] += size
            self.progress.advance(path, size)

        operations = [_operation(addition, count) for addition in additions]
        first: dict[str, CommitOperationAdd] = {}
        for addition, operation in sorted(zip(additions, operations, strict=True), key=lambda pair: -pair[0].size):
            first.setdefault(addition.sha256, operation)
        with self._road(repo, branch) as xet, warnings.catch_warnings():
            # huggingface_hub sends files with httpx's old spelling.
            warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)
            for group in _groups(list(first.values()), one_by_one=xet):
                for operation in group:
                    self.progress.start(operation.path_in_repo, operation.upload_info.size)
                self._call(lambda group=group: self._preupload(repo, branch, group, pull_request), repo, branch)  # type: ignore[misc]
                for operation in group:
                    self._finished(operation, sent[operation.path_in_repo], xet=xet)
        return operations

    def _finished(self, operation: CommitOperationAdd, sent: int, *, xet: bool) -> None:
        path, size = operation.path_in_repo, operation.upload_info.size
        # What was not counted went by xet, goes with the commit, or was there already.
        self.progress.advance(path, size - sent)
        if size < NOTED_BYTES:
            self.progress.finish(path)
        else:
            self.progress.finish(path, "uploaded" if xet or sent else "the Hub had it")

    def _preupload(self, repo: str, branch: str, operations: list[CommitOperationAdd], pull_request: bool) -> None:
        self._api.preupload_lfs_files(
            repo,
            operations,
            revision=branch,
            create_pr=pull_request,
            num_threads=UPLOAD_THREADS,
            free_memory=False,
            repo_type="model",
        )

    def commit(
        self,
        repo: str,
        branch: str,
        *,
        additions: Sequence[CommitOperationAdd],
        copies: Sequence[Copy],
        deletions: Sequence[str],
        message: str,
        description: str,
        parent: str,
        pull_request: bool = False,
    ) -> Committed:
        """Make one commit, asking once: after a `TransientHubError` it may or may not be there.

        Args:
            repo: the repo.
            branch: the branch, or what the pull request is for.
            additions: what `stage` returned.
            copies: files the Hub copies itself.
            deletions: paths that go.
            message: first line.
            description: the rest.
            parent: the commit the branch must be at.
            pull_request: open a pull request instead.

        Raises:
            Conflict: the branch has moved.
            HubError: refused; `TransientHubError` if there was no answer.
        """
        from huggingface_hub import CommitOperationCopy, CommitOperationDelete

        def copy(wanted: Copy) -> Any:
            other = wanted.source.repo != repo
            return CommitOperationCopy(
                src_path_in_repo=wanted.source.path,
                path_in_repo=wanted.path,
                src_revision=wanted.source.commit,
                src_repo_id=wanted.source.repo if other else None,
                src_repo_type="model" if other else None,
            )

        def ask() -> Committed:
            info = self._api.create_commit(
                repo,
                [
                    *additions,
                    *map(copy, copies),
                    *(CommitOperationDelete(path_in_repo=path, is_folder=False) for path in deletions),
                ],
                commit_message=message,
                commit_description=description,
                revision=branch,
                parent_commit=parent,
                create_pr=pull_request,
                num_threads=UPLOAD_THREADS,
                repo_type="model",
            )
            return Committed(info.oid, info.pr_url)

        with self._road(repo, branch), warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always")
            done = self._call(ask, repo, branch, tries=1)
        for remark in remarks:
            if issubclass(remark.category, UserWarning):
                self.progress.say(f"the Hub remarks: {' '.join(str(remark.message).split())}")
        return done

    # How

    @contextlib.contextmanager
    def _road(self, repo: str, branch: str) -> Iterator[bool]:
        """Take the xet road if the server has one, else LFS; yields whether it is xet.

        The stock client decides by what is installed here and fails at servers without xet (huggingface_hub#4786).
        """
        from huggingface_hub import constants

        before = constants.HF_HUB_DISABLE_XET
        installed = importlib.util.find_spec("hf_xet") is not None
        xet = installed and not before and self._has_xet(repo, branch)
        constants.HF_HUB_DISABLE_XET = not xet
        try:
            yield xet
        finally:
            constants.HF_HUB_DISABLE_XET = before

    def _has_xet(self, repo: str, branch: str) -> bool:
        if self._xet is None:

            def ask() -> bool:
                address = f"{self.endpoint}/api/models/{repo}/xet-write-token/{quote(branch, safe='')}"
                response = self._get(address, also=NO_XET_STATUS)
                return response.status_code == 200 and "X-Xet-Cas-Url" in response.headers

            self._xet = self._call(ask, repo, branch)
        return self._xet

    def _get(self, address: str, *, also: frozenset[int] = frozenset()) -> Any:
        """GET with the user's token; answers of a status in `also` are returned as good ones are."""
        from huggingface_hub import utils

        headers = utils.build_hf_headers(token=self._token)  # type: ignore[attr-defined]
        response = utils.get_session().get(address, headers=headers)  # type: ignore[attr-defined]
        if response.status_code not in also:
            utils.hf_raise_for_status(response)  # type: ignore[attr-defined]
        return response

    def _call(
        self, ask: Callable[[], Answer], repo: str, revision: str | None = None, *, tries: int = len(RETRY_WAITS) + 1
    ) -> Answer:
        for attempt in range(1, tries + 1):
            try:
                return ask()
            except client_errors() as error:
                problem = translate(error, endpoint=self.endpoint, repo=repo, revision=revision)
                if problem is None:
                    raise
                if not isinstance(problem, TransientHubError) or attempt == tries:
                    raise problem from None
            self.wait(problem, attempt)
        raise AssertionError("the last try returns or raises")

    def wait(self, problem: TransientHubError, attempt: int) -> None:
        """Wait before try number `attempt + 1`, and say why."""
        usual = RETRY_WAITS[min(attempt, len(RETRY_WAITS)) - 1]
        seconds = min(max(problem.wait or 0.0, usual), MAX_REQUESTED_WAIT)
        self.progress.say(f"{problem.message}; trying again in {seconds:.0f} s")
        self._sleep(seconds)


def exists(client: HubClient, repo: str, revision: str) -> str | None:
    """The commit of a revision, or None if the repo does not exist (or this token may not see it).

    Raises:
        HubError: as for `HubClient.resolve`, but for a missing repo.
    """
    try:
        return client.resolve(repo, revision)
    except RepoMissing:
        return None


def _remote_file(repo: str, item: Any) -> RemoteFile:
    return checked_file(
        repo,
        path=item.path,
        size=item.lfs.size if item.lfs else item.size,
        sha256=item.lfs.sha256 if item.lfs else None,
        git_sha1=item.blob_id,
        xet_hash=item.xet_hash,
    )


def _groups(operations: list[CommitOperationAdd], *, one_by_one: bool) -> Iterator[list[CommitOperationAdd]]:
    big = [op for op in operations if one_by_one and op.upload_info.size >= BIG_FILE_BYTES]
    yield from ([operation] for operation in big)
    alone = {id(operation) for operation in big}
    if rest := [operation for operation in operations if id(operation) not in alone]:
        yield rest


def _operation(addition: Addition, count: Callable[[str, int], None]) -> CommitOperationAdd:
    """The stock client's operation, with the digest it need not compute and a reader that counts."""
    from huggingface_hub import CommitOperationAdd

    content = addition.content if isinstance(addition.content, bytes) else str(addition.content)
    try:
        operation = CommitOperationAdd(path_in_repo=addition.path, path_or_fileobj=content)
    except (OSError, ValueError) as error:
        if isinstance(addition.content, Path) and not os.access(addition.content, os.R_OK):
            raise DiskError(f"{addition.content}: cannot be read") from None
        raise HubError(f"{addition.path}: the Hub does not take it: {error}") from None
    operation.upload_info.sha256 = bytes.fromhex(addition.sha256)
    if isinstance(addition.content, Path):
        _count_reads(operation, addition.content, count)
    return operation


def _count_reads(operation: CommitOperationAdd, path: Path, count: Callable[[str, int], None]) -> None:
    """Report what the LFS road reads while it sends. The xet road reads the file itself and is not counted."""
    plain = operation.as_file

    @contextlib.contextmanager
    def counted(with_tqdm: bool = False) -> Iterator[Any]:
        # The client asks for its progress bar exactly when it is about to send the bytes.
        if not with_tqdm:
            with plain() as file:
                yield file
            return
        with path.open("rb") as file:
            last = 0
            read = file.read

            def counted_read(size: int | None = -1) -> bytes:
                nonlocal last
                data = read(size)
                # By position, not by length: a retry seeks back, and its bytes are not counted twice.
                now = file.tell()
                count(operation.path_in_repo, now - last)
                last = now
                return data

            # A real file, because the client rewinds only those before it sends again.
            file.read = counted_read  # type: ignore[method-assign]
            yield file

    operation.as_file = counted  # type: ignore[method-assign]
