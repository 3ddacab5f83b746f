"""Deletes files of an installed folder so that no half model is ever taken for a whole one."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from zoo.folder import check_state_directory, found_in, list_folder, removed_directory
from zoo.paths import model_folder

RECOGNITION_FILES = ("coremldata.bin", "Manifest.json")
"""The files by which engines recognise a model folder; the last to come and the first to go."""


def delete_files(folder: Path, paths: Iterable[str]) -> list[str]:
    """Delete files and the folders that are empty then; return the paths that are gone.

    A model folder of which nothing stays goes by one rename; of another one the files by which engines recognise it
    go first. The caller holds the folder's lock.

    Args:
        folder: an installed folder.
        paths: as `list_folder` gives them, or model folders without a file. What is not there any more is gone
            already.

    Raises:
        OSError: no permission; what was not deleted yet is whole.
        UnsafePath: a folder on the way has become a symbolic link.
    """
    check_state_directory(folder)
    units: dict[str, list[str]] = {}
    for path in paths:
        units.setdefault(model_folder(path) or path, []).append(path)
    targets = {path: found_in(folder, path) for group in units.values() for path in group}
    for unit, group in sorted(units.items()):
        whole = found_in(folder, unit)
        if whole.is_dir() and not whole.is_symlink() and _nothing_else(whole, unit, group):
            _move_away(folder, whole, unit)
            remove_empty_parents(folder, whole)
            continue
        for path in sorted(group, key=lambda path: (not path.endswith(RECOGNITION_FILES), path)):
            delete_file(folder, targets[path])
    discard_removed(folder)
    return sorted(targets)


def delete_file(folder: Path, target: Path) -> None:
    """Delete one file, and the folders below `folder` that are empty then."""
    target.unlink(missing_ok=True)
    remove_empty_parents(folder, target)


def remove_empty_parents(folder: Path, target: Path) -> None:
    """Remove the folders between `folder` and `target` that are empty."""
    parent = target.parent
    while parent != folder:
        try:
            parent.rmdir()
        except OSError:
            break
        parent = parent.parent


def discard_removed(folder: Path) -> None:
    """Delete model folders that are on their way out."""
    shutil.rmtree(removed_directory(folder), ignore_errors=True)


def _nothing_else(whole: Path, unit: str, going: list[str]) -> bool:
    files, _ = list_folder(whole)
    return {f"{unit}/{path}" for path in files} <= set(going)


def _move_away(folder: Path, whole: Path, unit: str) -> None:
    away = removed_directory(folder) / unit
    away.parent.mkdir(parents=True, exist_ok=True)
    if away.exists():
        shutil.rmtree(away)
    with suppress(FileNotFoundError):
        whole.rename(away)
