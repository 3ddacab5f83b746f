"""Assembles a bundle from cached steps by links, beside the old one, and swaps it in when it is complete.

`<build>/<id>/` is generated: files that no step owns do not survive, which the plan says beforehand. The lock beside
it, `<build>/<id>.lock.json`, also tells zoo that the folder is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from zoo.build.cache import CachedStep, StepFile, regular_files, remove_tree
from zoo.build.graph import Graph
from zoo.build.plan import BuildPlan
from zoo.digests import DigestCache, Digests, hash_files
from zoo.errors import Conflict, DiskError, ZooError
from zoo.exchange import exchange
from zoo.links import place
from zoo.lock import Lock, LockedFile, is_weight, load_lock, lock_path, make_lock, save_lock
from zoo.manifest import manifest_digest
from zoo.paths import STATE_DIRECTORY, resolve_inside


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file of the bundle: where, whose, and the cached file with its bytes."""

    path: str
    component: str
    file: StepFile
    source: Path


@dataclass(frozen=True, slots=True)
class Assembly:
    """What a build folder is to become, and how far it is from that.

    Attributes:
        folder: `<build>/<id>`.
        wanted: every file, sorted by path.
        lock: the lock that will lie beside the folder.
        current: the folder and the lock are as they should be.
        removed: files in the folder that no step owns, with their sizes.
    """

    folder: Path
    wanted: tuple[Wanted, ...]
    lock: Lock
    current: bool
    removed: tuple[tuple[str, int], ...]


def plan_assembly(plan: BuildPlan, outputs: Mapping[str, CachedStep], build: Path, digests: DigestCache) -> Assembly:
    """Compare the build folder with what the steps give.

    Args:
        plan: the build.
        outputs: by step id, for every step of the plan.
        build: the directory that builds lie in.
        digests: remembers unchanged files.

    Raises:
        Conflict: the folder exists and is not a build.
    """
    folder = build / plan.graph.entry.id
    refuse_foreign(folder)
    wanted = tuple(sorted(_wanted(plan.graph, outputs), key=lambda item: item.path))
    lock = _make_lock(plan, wanted)
    return Assembly(
        folder=folder,
        wanted=wanted,
        lock=lock,
        current=not _beside(folder).exists() and is_current(folder, wanted, lock, digests),
        removed=unowned_files(folder, {item.path for item in wanted}),
    )


def refuse_foreign(folder: Path) -> None:
    """Refuse to replace a folder that `zoo build` did not make.

    Raises:
        Conflict: naming the folder.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_symlink() or not folder.is_dir():
        raise Conflict(f"{folder}: not a folder, so the build cannot go there", hint="choose another with --out DIR")
    if (folder / STATE_DIRECTORY).exists():
        raise Conflict(f"{folder}: models are installed there", hint="choose another folder with --out DIR")
    if any(folder.iterdir()) and not lock_path(folder.parent, folder.name).is_file():
        raise Conflict(
            f"{folder}: has files but no {folder.name}.lock.json beside it, so it is not a build",
            hint="choose another folder with --out DIR, or move it away",
        )


def unowned_files(folder: Path, owned: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """Files in the build folder that no step owns, with sizes in bytes, sorted."""
    if not folder.is_dir():
        return ()
    keep = set(owned)
    found = ((path.relative_to(folder).as_posix(), path.lstat().st_size) for path in regular_files(folder))
    return tuple(sorted((path, size) for path, size in found if path not in keep))


def _wanted(graph: Graph, outputs: Mapping[str, CachedStep]) -> Iterable[Wanted]:
    for placement in graph.placements:
        cached = outputs[placement.step.id]
        for file in cached.record.files:
            yield Wanted(placement.place(file.path), placement.part.name, file, cached.path_of(file))


def _make_lock(plan: BuildPlan, wanted: Iterable[Wanted]) -> Lock:
    entry = plan.graph.entry
    files = [
        LockedFile(
            path=item.path,
            component=item.component,
            size=item.file.size,
            sha256=item.file.sha256,
            xxh3=item.file.xxh3,
        )
        for item in wanted
    ]
    return make_lock(entry.id, manifest_digest(entry.manifest), files, provenance(plan))


def provenance(plan: BuildPlan) -> dict[str, str]:
    """How the bytes came to be: recipe and library versions, digests of the checkpoint; no times, no paths."""
    import hashlib
    import json

    source = plan.graph.entry.manifest.checkpoint
    tensors = json.dumps(dict(plan.tensors), sort_keys=True).encode()
    said = {
        "checkpoint.config.sha256": plan.config_sha256,
        "checkpoint.tensors.sha256": hashlib.sha256(tensors).hexdigest(),
    }
    if source is not None:
        said["checkpoint.repo"] = source.repo
    for planned in plan.steps:
        said[f"recipe.{planned.step.recipe.name}"] = str(planned.step.recipe.version)
        said |= {f"library.{name}": version for name, version in planned.inputs.libraries.items()}
    return said


def is_current(folder: Path, wanted: tuple[Wanted, ...], lock: Lock, digests: DigestCache) -> bool:
    """Whether a folder and the lock beside it are exactly this bundle. Reads what is not known to be unchanged."""
    if not folder.is_dir():
        return False
    try:
        if load_lock(lock_path(folder.parent, lock.entry)) != lock:
            return False
    except ZooError:
        return False
    paths = {folder / item.path: item for item in wanted}
    if set(regular_files(folder)) != set(paths):
        return False
    if any(path.is_symlink() or path.stat().st_size != item.file.size for path, item in paths.items()):
        return False
    found = hash_files(paths, cache=digests)
    return all(found[path].xxh3 == item.file.xxh3 for path, item in paths.items())


def assemble(
    assembly: Assembly,
    digests: DigestCache,
    check: Callable[[Path], None],
    on_bytes: Callable[[int], None] = lambda _count: None,
) -> None:
    """Make the build folder and its lock what `assembly` says. The old build stays usable until the swap.

    Args:
        assembly: what is to be.
        digests: remembers the new files.
        check: is given the new folder before it takes its place; raises if it is not good.
        on_bytes: told as files are placed.

    Raises:
        ZooError: `check` refused; the old build is untouched.
        DiskError: no space or no permission; the old build is untouched.
        Conflict: the folder is not a build.
    """
    folder = assembly.folder
    beside = _beside(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            _recover(folder)
            refuse_foreign(folder)
            remove_tree(beside)
            _fill(beside, assembly.wanted, digests, on_bytes)
            check(beside)
            # First the lock, which marks the folder as a build; until the swap, `zoo verify` names what differs.
            save_lock(lock_path(folder.parent, folder.name), assembly.lock)
            _swap(beside, folder)
            remove_tree(beside)
    except OSError as error:
        raise DiskError(
            f"{folder}: cannot be assembled: {error.strerror}", hint="the old build is untouched"
        ) from None


def _fill(folder: Path, wanted: Iterable[Wanted], digests: DigestCache, on_bytes: Callable[[int], None]) -> None:
    folder.mkdir()
    first: dict[str, Path] = {}
    for item in wanted:
        target = resolve_inside(folder, item.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Identical files of one bundle become links of one cached file, whichever steps made them.
        source = first.setdefault(item.file.sha256, item.source)
        place(source, target, bulk=is_weight(item.path))
        digests.trust(target, Digests(item.file.size, item.file.sha256, item.file.xxh3))
        on_bytes(item.file.size)


def _swap(new: Path, current: Path) -> None:
    """Put `new` in the place of `current`; what was there is at `new` afterwards."""
    if not current.exists():
        new.rename(current)
    elif not exchange(new, current):
        # No atomic exchange on this file system: for an instant the old build is under a third name only.
        aside = _aside(current)
        current.rename(aside)
        new.rename(current)
        aside.rename(new)


def _beside(folder: Path) -> Path:
    """Where a build is put together; a build that was killed after the swap leaves the old one there."""
    return folder.with_name(f".{folder.name}.new")


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _recover(folder: Path) -> None:
    """Undo a swap that was killed halfway."""
    aside = _aside(folder)
    if aside.is_dir() and not folder.exists():
        aside.rename(folder)
    remove_tree(aside)
