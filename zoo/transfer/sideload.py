"""Carries a sideload plan out: reads the folder here, runs the copies, lists again, remembers what was copied.

The ledger, one JSON file per device, app and folder in the cache directory, says which bytes zoo copied and what the
device listed right after. It can be deleted at any time; then everything is copied once more.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from zoo.digests import DigestCache
from zoo.documents import canonical_json, write_atomically
from zoo.errors import CheckFailed, Conflict, DiskError, ZooError
from zoo.events import Progress
from zoo.folder import read_state
from zoo.lock import Lock, LockedFile, Sha256, Size, load_lock
from zoo.paths import model_folder
from zoo.plan.device_commands import Target, check_copy, copy_seconds
from zoo.plan.sideload import (
    BundleFile,
    Copied,
    Copy,
    DeviceListing,
    Misfit,
    SideloadPlan,
    check_arrived,
)
from zoo.plan.verify import judge
from zoo.receipt import ReceiptFile, load_receipt, receipt_path
from zoo.report.text import plural
from zoo.transfer.device import list_target, run_devicectl

LEDGER_SCHEMA = 1


@dataclass(frozen=True)
class Bundle:
    """What a folder here holds, read and proven.

    Attributes:
        folder: absolute.
        entries: which entries the files are of.
        files: every file of them, sorted by path.
        whole_models: model folders that hold nothing else than their files.
        strangers: files in the folder that are of no entry; they stay here.
    """

    folder: Path
    entries: tuple[str, ...]
    files: tuple[BundleFile, ...]
    whole_models: frozenset[str]
    strangers: tuple[str, ...]


def find_lock(folder: Path, given: Path | None) -> Lock | None:
    """The lock that says what belongs into `folder`: the given one, or the one that a build has beside it.

    None for an installed folder, whose receipt says it.

    Raises:
        CheckFailed: nothing says what belongs there.
    """
    if given is not None:
        return load_lock(given)
    if receipt_path(folder).is_file():
        return None
    beside = folder.parent / f"{folder.name}.lock.json"
    if beside.is_file():
        return load_lock(beside)
    raise CheckFailed(
        f"{folder}: no receipt is in it and no lock beside it, so nobody knows what belongs to the bundle",
        hint="zoo pull ENTRY installs one; for another folder give --lock FILE",
    )


def read_bundle(folder: Path, lock: Lock | None, *, cache: DigestCache | None, progress: Progress) -> Bundle:
    """Read a folder and prove that it is what its lock or its receipt says.

    Raises:
        CheckFailed: files are missing or wrong here; they are not worth copying.
        InvalidDocument, UnsafePath, DiskError: a damaged receipt, or something cannot be read.
    """
    wanted: dict[str, LockedFile | ReceiptFile]
    if lock is not None:
        entries: tuple[str, ...] = (lock.entry,)
        wanted = {file.path: file for file in lock.files}
    else:
        receipt = load_receipt(folder)
        entries = tuple(sorted(receipt.entries))
        wanted = {file.path: file for installed in receipt.entries.values() for file in installed.files}
    if not wanted:
        raise CheckFailed(f"{folder}: no entry is installed there", hint="zoo pull ENTRY")
    state = read_state(folder, wanted.values(), cache=cache, progress=progress)
    verdict = judge(" and ".join(entries), str(folder), wanted.values(), state)
    if not verdict.good:
        first = verdict.findings[0]
        raise CheckFailed(
            f"{folder}: {plural(len(verdict.findings), 'file')} not as locked, first {first.path}: {first.problem}",
            hint="repair it first: zoo pull ENTRY; `zoo verify --folder` names every file",
        )
    models = {model for path in wanted if (model := model_folder(path)) is not None}
    return Bundle(
        folder=folder.resolve(),
        entries=entries,
        files=tuple(BundleFile(path, wanted[path].size, wanted[path].sha256) for path in sorted(wanted)),
        whole_models=frozenset(model for model in models if _is_exact(folder, model, set(wanted))),
        strangers=tuple(sorted(state.files.keys() - wanted.keys())),
    )


def _is_exact(folder: Path, model: str, wanted: set[str]) -> bool:
    """Whether copying the model folder copies its files and nothing else, not even what a file manager left."""
    found = set()
    for place, directories, names in os.walk(folder / model):
        for name in (*directories, *names):
            path = Path(place) / name
            mode = path.lstat().st_mode
            if not stat.S_ISDIR(mode):
                found.add(path.relative_to(folder).as_posix())
    return found == {path for path in wanted if model_folder(path) == model}


class _LedgerFile(msgspec.Struct, frozen=True, kw_only=True):
    size: Size
    sha256: Sha256
    modified: str


class _Ledger(msgspec.Struct, frozen=True, kw_only=True):
    schema: int
    device: str
    app: str
    folder: str
    files: dict[str, _LedgerFile]


def ledger_path(cache: Path, target: Target) -> Path:
    """Where it is remembered what zoo copied to the target."""
    name = hashlib.sha256("\0".join((target.device, target.app, target.folder)).encode()).hexdigest()[:32]
    return cache / "sideload" / f"{name}.json"


def load_ledger(path: Path, target: Target) -> dict[str, Copied]:
    """What zoo copied to the target; nothing if that is not known. A damaged ledger only costs another copy."""
    try:
        ledger = msgspec.json.decode(path.read_bytes(), type=_Ledger)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    if (ledger.schema, ledger.device, ledger.app, ledger.folder) != (
        LEDGER_SCHEMA,
        target.device,
        target.app,
        target.folder,
    ):
        return {}
    return {name: Copied(file.size, file.sha256, file.modified) for name, file in ledger.files.items()}


def save_ledger(path: Path, target: Target, files: Mapping[str, Copied]) -> None:
    """Write the ledger atomically."""
    ledger = _Ledger(
        schema=LEDGER_SCHEMA,
        device=target.device,
        app=target.app,
        folder=target.folder,
        files={
            name: _LedgerFile(size=file.size, sha256=file.sha256, modified=file.modified)
            for name, file in files.items()
        },
    )
    write_atomically(path, canonical_json(msgspec.to_builtins(ledger)))


@contextlib.contextmanager
def device_lock(cache: Path, target: Target) -> Iterator[None]:
    """Be the only zoo process that copies to the device.

    Raises:
        Conflict: another one does.
        DiskError: the cache cannot be written.
    """
    from filelock import FileLock, Timeout

    name = hashlib.sha256(target.device.encode()).hexdigest()[:32]
    place = cache / "sideload" / f"{name}.lock"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place)
        lock.acquire(timeout=0)
    except Timeout:
        raise Conflict(
            f"another zoo process copies to {target.device}", hint="wait until it is done; two would mix bundles"
        ) from None
    except OSError as error:
        raise DiskError(f"{place}: cannot be written: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class SideloadResult:
    """What was done.

    Attributes:
        copied: the copies that were carried out.
        misfits: files that are not on the device as they should be.
        listing: what the device lists afterwards.
    """

    copied: tuple[Copy, ...]
    misfits: tuple[Misfit, ...]
    listing: DeviceListing


def carry_out(
    plan: SideloadPlan, ledger_file: Path, ledger: Mapping[str, Copied], *, progress: Progress
) -> SideloadResult:
    """Run the copies one after the other, list again and compare; remember what arrived.

    If a copy fails, what arrived before it is remembered, so that the next run goes on from there.

    Args:
        plan: what to do.
        ledger_file: where it is remembered.
        ledger: what is remembered now.
        progress: told about each copy when it is done; the tool does not say how far it is.

    Raises:
        MissingExtra, DeviceError: the tool is not there, or a command failed.
        DiskError: the ledger cannot be written.
    """
    target = plan.request.target
    commands = plan.commands
    for command in commands:
        check_copy(command, target)
    coming = {path for copy in plan.copies for path in copy.files}
    remembered = {path: copied for path, copied in ledger.items() if path not in coming}
    if plan.copies:
        # From the first byte on nobody knows what lies there; a kill must not leave the old entry behind.
        save_ledger(ledger_file, target, remembered)
    done: list[Copy] = []
    try:
        for copy, command in zip(plan.copies, commands, strict=True):
            progress.start(copy.path, copy.size)
            run_devicectl(command, seconds=copy_seconds(copy.size))
            progress.advance(copy.path, copy.size)
            progress.finish(copy.path, "copied")
            done.append(copy)
    except BaseException:
        if done:
            # The failure at hand matters more than one in asking what arrived before it.
            with contextlib.suppress(ZooError):
                _remember(plan, done, list_target(target), ledger_file, remembered)
        raise
    listing = list_target(target)
    _remember(plan, done, listing, ledger_file, remembered)
    return SideloadResult(tuple(done), check_arrived(plan.request.files, listing), listing)


def _remember(
    plan: SideloadPlan,
    done: list[Copy],
    listing: DeviceListing,
    ledger_file: Path,
    remembered: Mapping[str, Copied],
) -> None:
    """Enter what was copied and is listed with its size."""
    brought = {path for copy in done for path in copy.files}
    new = dict(remembered)
    for file in plan.request.files:
        found = listing.files.get(file.path)
        if (
            file.path in brought
            and file.sha256 is not None
            and found is not None
            and found.size == file.size
            and found.modified is not None
        ):
            new[file.path] = Copied(file.size, file.sha256, found.modified)
    if new != dict(remembered):
        save_ledger(ledger_file, plan.request.target, new)
