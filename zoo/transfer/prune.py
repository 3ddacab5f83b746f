"""Reads what lies around in folders and in the step cache, and deletes what a plan says."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from zoo.build.cache import StepCache, regular_files, remove_tree
from zoo.catalog import Catalog
from zoo.errors import DiskError, ZooError
from zoo.folder import (
    PARTIAL_SUFFIXES,
    FolderFile,
    FolderState,
    arrived_bytes,
    check_state_directory,
    list_folder,
    partial_directory,
    read_state,
    removed_directory,
    staging_directory,
)
from zoo.lock import Lock
from zoo.paths import STATE_DIRECTORY
from zoo.plan.actions import Delete
from zoo.plan.prune import Leftovers, PrunePlan, PruneRequest, plan_prune, processes_named
from zoo.receipt import receipt_path
from zoo.transfer.deleting import delete_file, delete_files, discard_removed
from zoo.transfer.remove import removal_path


def folders_with_state(models: Path) -> list[Path]:
    """The folders under `models` that zoo has worked in, whether or not something is installed there.

    Raises:
        DiskError: `models` cannot be read.
    """
    try:
        return (
            sorted(path for path in models.iterdir() if (path / STATE_DIRECTORY).is_dir()) if models.is_dir() else []
        )
    except OSError as error:
        raise DiskError(f"{models}: cannot be read: {error.strerror}") from None


def prepare_prune(
    folder: Path, catalog: Catalog | None, *, keep: Iterable[str] = (), partials: bool = False
) -> PrunePlan:
    """Look at a folder and decide what goes. The caller holds its lock, unless nothing will be deleted.

    Args:
        folder: where zoo has worked.
        catalog: says which interrupted fetches are still wanted; None keeps all.
        keep: patterns of paths that stay.
        partials: interrupted fetches go too, even if they could be continued.

    Raises:
        InvalidDocument, UnsafePath, DiskError: the receipt is damaged or hostile, or something cannot be read.
    """
    state = read_state(folder, ())
    request = PruneRequest(
        locks=_locks(folder, state, catalog),
        keep=tuple(keep),
        partials=partials,
        alive=frozenset(filter(_is_alive, processes_named(state.files))),
    )
    return plan_prune(state, _leftovers(folder), request)


def carry_out_prune(plan: PrunePlan, folder: Path) -> list[str]:
    """Delete what the plan says and return the paths that are gone. The caller holds the folder's lock.

    Raises:
        DiskError: no permission.
        UnsafePath: a folder on the way has become a symbolic link.
    """
    check_state_directory(folder)
    own = tuple(action.path for action in plan.deletes if action.path.startswith(f"{STATE_DIRECTORY}/"))
    try:
        gone = delete_files(folder, [action.path for action in plan.deletes if action.path not in set(own)])
        for path in own:
            delete_file(folder / STATE_DIRECTORY, folder / path)
        discard_removed(folder)
    except OSError as error:
        raise DiskError(f"{error.filename or folder}: cannot be deleted: {error.strerror or error}") from None
    return [*gone, *own]


def _locks(folder: Path, state: FolderState, catalog: Catalog | None) -> tuple[Lock, ...] | None:
    """Locks of the entries that may be installed in `folder`; of all entries if nothing says which."""
    if catalog is None:
        return None
    here = {entry.id for entry in catalog.in_folder(folder.resolve().name)} | state.receipt.entries.keys()
    chosen = [entry for entry in catalog.entries if entry.id in here] or catalog.entries
    try:
        return tuple(lock for entry in chosen if (lock := entry.lock) is not None)
    except ZooError:
        return None


def _leftovers(folder: Path) -> Leftovers:
    staged, _ = list_folder(staging_directory(folder))
    removed, _ = list_folder(removed_directory(folder))
    state = folder / STATE_DIRECTORY
    temporary = {
        path.relative_to(folder).as_posix(): path.lstat().st_size
        for path in (*state.glob(".*.new"), removal_path(folder))
        if path.is_file()
    }
    temporary |= {
        f"{removed_directory(folder).relative_to(folder).as_posix()}/{path}": file.size
        for path, file in removed.items()
    }
    partials, _ = list_folder(partial_directory(folder))
    return Leftovers(
        partials={name: _partial_size(partial_directory(folder) / name, file) for name, file in partials.items()},
        staged={path: file.size for path, file in staged.items()},
        temporary=temporary,
        installed=receipt_path(folder).is_file(),
    )


def _partial_size(place: Path, file: FolderFile) -> int:
    """Bytes on disk: a file whose parts come out of order is shorter than its size says."""
    return arrived_bytes(place) if file.regular and not place.name.endswith(PARTIAL_SUFFIXES) else file.size


def _is_alive(process: int) -> bool:
    if os.name == "nt":
        # There, signal 0 is Ctrl-C.
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def prepare_cache_prune(steps: StepCache) -> PrunePlan:
    """What killed builds left in the step cache; what a running build works on is not seen."""
    actions = [
        Delete(
            path.relative_to(steps.directory).as_posix(),
            sum(file.lstat().st_size for file in regular_files(path)),
            "left by a build that was killed",
        )
        for path in _dead_steps(steps)
    ]
    return PrunePlan(tuple(actions))


def carry_out_cache_prune(plan: PrunePlan, steps: StepCache) -> list[str]:
    """Delete what the plan says, unless a build works on it by now; return the paths that are gone.

    Raises:
        DiskError: no permission.
    """
    from filelock import Timeout

    gone = []
    for action in plan.deletes:
        path = steps.directory / action.path
        try:
            with steps.lock(_step_key(path)).acquire(blocking=False):
                remove_tree(path)
                gone.append(action.path)
        except Timeout:
            continue
    return gone


def _dead_steps(steps: StepCache) -> list[Path]:
    """Outputs in the making, and ones whose removal was cut short, that nobody works on."""
    unfinished = [path for path in steps.directory.glob("tmp/*-*") if path.is_dir()]
    broken = [path for path in steps.directory.glob("??/*") if path.is_dir() and not (path / "step.json").is_file()]
    return [path for path in sorted((*unfinished, *broken)) if not _is_locked(steps, path)]


def _is_locked(steps: StepCache, path: Path) -> bool:
    from filelock import Timeout

    key = _step_key(path)
    if not (steps.directory / "locks" / f"{key}.lock").exists():
        return False
    try:
        with steps.lock(key).acquire(blocking=False):
            return False
    except Timeout:
        return True


def _step_key(path: Path) -> str:
    return path.name.partition("-")[0]
