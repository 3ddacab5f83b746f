"""The lists that the app's own downloader works from: its `ModelInfo` values, and per entry the files to fetch.

The app's `ModelDownloader` (github.com/john-rocky/CoreML-LLM) asks for `downloadURL/remotePath` of each file, puts it
at `localPath` in `folderName`, four at a time in the order given, and then makes some hard links itself. It takes an
entry whose URL is not on `huggingface.co` for a zip file; one without a URL can only be sideloaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

from zoo.catalog import Entry
from zoo.errors import UsageError
from zoo.lock import Lock, LockedFile, lock_digest
from zoo.plan.lock import lender_path, remote_paths
from zoo.report.sizes import human_bytes

APP_HOST = "huggingface.co"
"""What the app looks for in `downloadURL` before it uses a file list."""

SIDELOADED = "sideloaded"
ZIP_FILE = "zip file"
UNLOCKED = "not locked yet"
"""What the picker shows instead of a size that nobody knows."""

APP_OPT_OUT = frozenset({"gemma4-e2b", "gemma4-e2b-3way"})
"""The entries whose images, video and audio the app lets people leave out (`includeMultimodalKey`)."""

WEIGHTS = "{}.mlmodelc/weights/weight.bin"

APP_LINKS: dict[str, tuple[str, ...]] = {
    WEIGHTS.format(f"prefill_chunk{number}"): (WEIGHTS.format(f"chunk{number}"),) for number in (1, 2, 3)
} | {WEIGHTS.format("prefill_chunk4"): (WEIGHTS.format("chunk4"), WEIGHTS.format("chunk3_3way"))}
"""What the app links when a download is complete (`finishDownload`): by new path, from where; the first found wins."""


@dataclass(frozen=True, slots=True)
class DropInFile:
    """One file as the app's `DownloadFile` has it.

    Attributes:
        remote: below the entry's URL, quoted; or a whole URL, where the bytes lie elsewhere.
        path: in the entry's folder.
        size: bytes; expected ones while the lock is provisional.
        optional: the app leaves it out for a person who wants text alone.
    """

    remote: str
    path: str
    size: int
    optional: bool


@dataclass(frozen=True, slots=True)
class DropInModel:
    """One entry as the app's `ModelInfo` has it, and its files, largest first.

    Attributes:
        bytes: of the files; of the zip file; None where that is not known.
        size: the same for people; or why it is not known.
        url: what `remote` is below; the zip file; or empty for an entry that is only sideloaded.
        experimental: shown only where the app asks for it.
        lock: digest of the lock; None without one.
    """

    id: str
    name: str
    bytes: int | None
    size: str
    url: str
    folder: str
    experimental: bool
    lock: str | None
    files: tuple[DropInFile, ...]


def drop_in_models(entries: Iterable[Entry], *, endpoint: str) -> tuple[DropInModel, ...]:
    """What the app's downloader needs to know of `entries`, in the order given.

    Args:
        entries: in picker order. One without a lock gets no files: the app unpacks it from its zip file, or finds it
            if somebody has sideloaded it.
        endpoint: the Hub the app fetches from.

    Raises:
        UsageError: an endpoint that the app would take for the address of a zip file.
        InvalidDocument: a lock that names a component which its manifest lacks.
    """
    if APP_HOST not in endpoint:
        raise UsageError(
            f"--endpoint {endpoint}: the app uses its file lists only for URLs on {APP_HOST}",
            hint="leave --endpoint out, or adopt the catalog (`zoo swift` without --drop-in), which takes any Hub",
        )
    return tuple(_model(entry, endpoint.rstrip("/")) for entry in entries)


def _model(entry: Entry, endpoint: str) -> DropInModel:
    manifest, lock = entry.manifest, entry.lock
    url = ""
    files: tuple[DropInFile, ...] = ()
    if manifest.archive is not None:
        url = manifest.archive.url
    elif lock is not None:
        url, files = _published(entry, lock, endpoint)
    count = sum(file.size for file in files) if files else _unlisted_size(lock)
    return DropInModel(
        id=entry.id,
        name=manifest.name,
        bytes=count,
        size=_unknown_size(entry) if count is None else human_bytes(count),
        url=url,
        folder=manifest.folder,
        experimental=manifest.visibility == "experimental",
        lock=None if lock is None else lock_digest(lock),
        files=files,
    )


def _unlisted_size(lock: Lock | None) -> int | None:
    """What an entry without a file list brings: the zip file travels whole."""
    if lock is None:
        return None
    return lock.size if lock.archive is None else lock.archive.size


def _unknown_size(entry: Entry) -> str:
    if entry.manifest.archive is not None:
        return ZIP_FILE
    return SIDELOADED if entry.manifest.hub is None else UNLOCKED


def _published(entry: Entry, lock: Lock, endpoint: str) -> tuple[str, tuple[DropInFile, ...]]:
    """The URL that most files are below, and the files; nothing, if they are published nowhere."""
    places = _places(entry, lock)
    if not places:
        return "", ()
    (repo, revision), _ = Counter((repo, revision) for repo, revision, _ in places.values()).most_common(1)[0]
    url = f"{endpoint}/{repo}/resolve/{revision}"
    files = []
    for file in lock.files:
        if _linked_by_the_app(entry, file, lock):
            continue
        where = places[file.path]
        base = "" if where[:2] == (repo, revision) else f"{endpoint}/{where[0]}/resolve/{where[1]}/"
        files.append(
            DropInFile(
                remote=base + quote(where[2]),
                path=file.path,
                size=file.size,
                optional=entry.id in APP_OPT_OUT and entry.part(file.component).modality != "text",
            )
        )
    return url, tuple(sorted(files, key=lambda file: (-file.size, file.path)))


def _places(entry: Entry, lock: Lock) -> dict[str, tuple[str, str, str]]:
    """Repo, revision and path of every file: as locked, at a commit; while the lock is provisional, at the branch."""
    hub = entry.manifest.hub
    if lock.provisional and hub is not None:
        remote = remote_paths(entry, lock)
        lenders = {file.path: lender_path(entry, file, remote) or file.path for file in lock.files}
        return {path: (hub.repo, hub.revision, remote[lender]) for path, lender in lenders.items()}
    if not all(file.sources for file in lock.files):
        return {}
    return {file.path: (file.sources[0].repo, file.sources[0].commit, file.sources[0].path) for file in lock.files}


def _linked_by_the_app(entry: Entry, file: LockedFile, lock: Lock) -> bool:
    """Whether the app makes this file itself, from one it has fetched, and gets the right bytes."""
    files = lock.by_path()
    linked_from = next((path for path in APP_LINKS.get(file.path, ()) if path in files), None)
    if linked_from is None:
        return False
    if file.sha256 is not None and files[linked_from].sha256 is not None:
        return file.sha256 == files[linked_from].sha256
    return lender_path(entry, file, files) == linked_from
