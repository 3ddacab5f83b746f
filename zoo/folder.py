"""An installed folder as it is on disk: what lies in it, whose it is, who is working in it, and how much fits.

Nothing here follows a symbolic link out of the folder, and `.zoo/` is never part of what lies in it.

    .zoo/receipt.json        what is installed (zoo.receipt)
    .zoo/partial/<sha256>    bytes of files that are being fetched, whole or not; survive any kill
    .zoo/partial/<sha256>.ranges    which bytes are there, if they did not come in order (zoo.spans)
    .zoo/staging/<path>      verified files on their way to their place, for a moment
    .zoo/removing.json       what `zoo remove` is deleting (zoo.transfer.remove)
    .zoo/removed/<path>      model folders on their way out, for a moment
    .zoo/lock, .zoo/owner    who is working here
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from zoo.digests import DigestCache, hash_files
from zoo.errors import Conflict, DiskError, UnsafePath
from zoo.events import Progress, Silent
from zoo.lock import LockedFile
from zoo.paths import STATE_DIRECTORY, resolve_inside
from zoo.receipt import Receipt, ReceiptFile, load_receipt
from zoo.report.sizes import human_bytes
from zoo.spans import SLOT_BYTES, State, read_record

PARTIAL_DIRECTORY = "partial"
STAGING_DIRECTORY = "staging"
REMOVED_DIRECTORY = "removed"

ETAG_SUFFIX = ".etag"
"""Beside a partial file: the validator that the server gave with its first bytes."""

RANGES_SUFFIX = ".ranges"
"""Beside a partial file with holes: which bytes are there."""

PARTIAL_SUFFIXES = (ETAG_SUFFIX, RANGES_SUFFIX, RANGES_SUFFIX + ".new")
"""What may lie beside a partial file."""

SPACE_MARGIN = 16 << 20
"""Bytes left free for directories, the receipt and the file system's own books."""

_NOT_OURS = frozenset({".DS_Store", ".localized", "Thumbs.db", "desktop.ini"})
"""What file managers leave behind. No engine reads it, so it is not worth a warning."""


@dataclass(frozen=True, slots=True)
class FolderFile:
    """One thing that lies in a folder.

    Attributes:
        size: bytes.
        sha256, xxh3: digests of the bytes, proven; None where nobody needed to read them.
        regular: a real file; False for symbolic links, sockets and devices.
    """

    size: int
    sha256: str | None = None
    xxh3: str | None = None
    regular: bool = True


@dataclass(frozen=True)
class FolderState:
    """Everything a plan needs to know about a folder.

    Attributes:
        files: by bundle path.
        folders: bundle paths of the folders in it.
        receipt: what is installed there.
        partials: bytes of interrupted fetches by name (`partial_name`).
    """

    files: Mapping[str, FolderFile]
    folders: frozenset[str]
    receipt: Receipt
    partials: Mapping[str, int]


def list_folder(folder: Path) -> tuple[dict[str, FolderFile], frozenset[str]]:
    """Files (without digests) and folders under `folder`, which need not exist.

    Raises:
        DiskError: a folder cannot be read.
    """
    files: dict[str, FolderFile] = {}
    folders: set[str] = set()
    pending = [("", folder)]
    while pending:
        prefix, place = pending.pop()
        try:
            with os.scandir(place) as entries:
                found = list(entries)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DiskError(f"{place}: cannot be read: {error.strerror}") from None
        for entry in found:
            if (
                entry.name in _NOT_OURS
                or entry.name.startswith("._")
                or (not prefix and entry.name == STATE_DIRECTORY)
            ):
                continue
            # Names that are not UTF-8 cannot be bundle paths; they only have to be printable.
            path = prefix + os.fsencode(entry.name).decode("utf-8", "backslashreplace")
            if entry.is_dir(follow_symlinks=False):
                folders.add(path)
                pending.append((path + "/", place / entry.name))
            else:
                size = entry.stat(follow_symlinks=False).st_size
                files[path] = FolderFile(size, regular=entry.is_file(follow_symlinks=False))
    return files, frozenset(folders)


def read_state(
    folder: Path,
    wanted: Iterable[LockedFile | ReceiptFile],
    *,
    cache: DigestCache | None = None,
    progress: Progress | None = None,
) -> FolderState:
    """What lies in `folder`, with digests of everything that could be a wanted file.

    A file is read if its size is that of a wanted file with a known digest, wherever in the folder it lies: bytes
    that moved to another path need not travel again.

    Args:
        folder: an installed folder; need not exist.
        wanted: the files a plan is about to be made for.
        cache: remembered digests; None reads every byte.
        progress: told about bytes as they are read.

    Raises:
        InvalidDocument, UnsafePath: a damaged or hostile receipt.
        DiskError: something cannot be read.
    """
    progress = progress or Silent()
    check_state_directory(folder)
    files, folders = list_folder(folder)
    sizes = {file.size for file in wanted if file.sha256 is not None}
    chosen = {folder / path: path for path, file in files.items() if file.regular and file.size in sizes}
    if chosen:
        progress.start("on this disk", sum(files[path].size for path in chosen.values()))
        found = hash_files(chosen, cache=cache, on_bytes=lambda count: progress.advance("on this disk", count))
        progress.finish("on this disk")
        for place, digests in found.items():
            files[chosen[place]] = FolderFile(digests.size, digests.sha256, digests.xxh3)
    return FolderState(files, folders, load_receipt(folder), _partials(folder))


def _partials(folder: Path) -> dict[str, int]:
    try:
        with os.scandir(partial_directory(folder)) as entries:
            return {
                entry.name: arrived_bytes(Path(entry.path))
                for entry in entries
                if entry.is_file(follow_symlinks=False) and not entry.name.endswith(PARTIAL_SUFFIXES)
            }
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DiskError(f"{partial_directory(folder)}: cannot be read: {error.strerror}") from None


def arrived_bytes(partial: Path) -> int:
    """How many bytes of an interrupted fetch are there; the file's size says so only if it has no holes.

    Raises:
        OSError: it cannot be read.
    """
    size = partial.lstat().st_size
    known = read_ranges(partial)
    return size if known is None else known.believed(boot_id()).within(0, size).total


@cache
def boot_id() -> str:
    """Which start of the machine this is; empty where the system does not tell (all but Linux)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def read_ranges(partial: Path, size: int | None = None) -> State | None:
    """What the record beside a partial file says.

    Args:
        partial: `.zoo/partial/<name>`.
        size: bytes the file will have, if known; a record of another size is not believed.

    Returns:
        None if there is no whole record: the file has no holes.

    Raises:
        OSError: it cannot be read.
    """
    place = partial.with_name(partial.name + RANGES_SUFFIX)
    try:
        if place.is_symlink():
            return None
        with place.open("rb") as file:
            return read_record(file.read(2 * SLOT_BYTES), size)
    except FileNotFoundError:
        return None


def partial_directory(folder: Path) -> Path:
    """Where bytes arrive."""
    return folder / STATE_DIRECTORY / PARTIAL_DIRECTORY


def staging_directory(folder: Path) -> Path:
    """Where verified files wait for the others of the same pull."""
    return folder / STATE_DIRECTORY / STAGING_DIRECTORY


def removed_directory(folder: Path) -> Path:
    """Where model folders go by one rename before their files are deleted."""
    return folder / STATE_DIRECTORY / REMOVED_DIRECTORY


def check_state_directory(folder: Path) -> None:
    """Refuse a state directory that is a symbolic link: zoo would write where the link leads.

    Raises:
        UnsafePath: naming the link.
    """
    state = folder / STATE_DIRECTORY
    for place in (state, state / PARTIAL_DIRECTORY, state / STAGING_DIRECTORY, state / REMOVED_DIRECTORY):
        if place.is_symlink():
            raise UnsafePath(f"{place}: is a symbolic link", hint="remove it; zoo keeps its state inside the folder")


def place_in(folder: Path, path: str) -> Path:
    """Where bundle path `path` lies in `folder`, provided no folder on the way is a symbolic link.

    Stricter than `resolve_inside`: a link to another folder of the same bundle stays inside, yet writing through it
    would change that other folder's files.

    Raises:
        UnsafePath: the path is unsafe, or leads through a symbolic link.
    """
    target = resolve_inside(folder, path)
    _refuse_links_above(folder, target, path, "written")
    return target


def found_in(folder: Path, path: str) -> Path:
    """Where something lies that `list_folder` found, whatever its name: an orphan need not have a bundle path's name.

    Raises:
        UnsafePath: since then a folder on the way has become a symbolic link.
    """
    target = folder / path
    if ".." in target.relative_to(folder).parts:
        raise UnsafePath(f"{folder}: {path!r} leaves the folder")
    _refuse_links_above(folder, target, path, "deleted")
    return target


def _refuse_links_above(folder: Path, target: Path, path: str, what: str) -> None:
    parent = target.parent
    while parent != folder:
        if parent.is_symlink():
            raise UnsafePath(f"{folder}: {path!r} would be {what} through the symbolic link {parent.name!r}")
        parent = parent.parent


def orphans(state: FolderState, wanted: Iterable[str] = ()) -> dict[str, FolderFile]:
    """Files that no installed entry owns and that are not among the `wanted` paths, by path."""
    owned = state.receipt.owners().keys() | set(wanted)
    return {path: file for path, file in sorted(state.files.items()) if path not in owned}


@contextmanager
def folder_lock(
    folder: Path, *, doing: str, on_wait: Callable[[str], None], timeout: float | None = None
) -> Iterator[None]:
    """Be the only zoo process that changes `folder`.

    Args:
        folder: made if missing.
        doing: what this process does, for others who wait.
        on_wait: told once who is in the way.
        timeout: seconds to wait; None waits until the other one is done.

    Raises:
        Conflict: somebody else still works there after `timeout`.
        DiskError: the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    check_state_directory(folder)
    owner = folder / STATE_DIRECTORY / "owner"
    lock = FileLock(folder / STATE_DIRECTORY / "lock")
    try:
        owner.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait(f"{folder}: waiting for {_read_owner(owner)}")
            lock.acquire(timeout=-1 if timeout is None else timeout)
        owner.write_text(f"process {os.getpid()} on {platform.node()} ({doing})\n")
    except Timeout:
        raise Conflict(f"{folder}: {_read_owner(owner)} works there", hint="try again when it is done") from None
    except OSError as error:
        raise DiskError(f"{error.filename or folder}: cannot be written: {error.strerror or error}") from None
    try:
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _read_owner(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()[:200] or "another process"
    except OSError:
        return "another process"


def free_bytes(folder: Path) -> int:
    """Bytes this user may still write on the disk that holds `folder` or will hold it."""
    place = folder
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def check_space(folder: Path, needed: int) -> None:
    """Refuse to start what cannot end well.

    Args:
        folder: where the bytes will be written.
        needed: bytes, without those already there.

    Raises:
        DiskError: saying how much is missing.
    """
    free = free_bytes(folder)
    if needed and free < needed + SPACE_MARGIN:
        raise DiskError(
            f"{folder}: {human_bytes(needed)} are needed, {human_bytes(free)} are free",
            hint="free some space, choose another disk with --models DIR, or leave parts out with --without",
        )
