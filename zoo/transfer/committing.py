"""Moves what was staged into its place: a model folder in one step, whether it is new or replaces another."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from zoo.errors import UnsafePath
from zoo.exchange import exchange
from zoo.folder import list_folder, place_in, staging_directory
from zoo.paths import model_folder
from zoo.transfer.deleting import RECOGNITION_FILES


def commit_staged(folder: Path, paths: Iterable[str], going: Collection[str] = ()) -> None:
    """Move everything staged into place. The caller holds the folder's lock.

    Args:
        folder: an installed folder.
        paths: bundle paths of files that may lie under `.zoo/staging/`.
        going: paths that are deleted afterwards; those of a model folder that is replaced go with it.

    Raises:
        OSError: no permission; every model folder and every other file is the old one or the new one.
        UnsafePath: a folder on the way has become a symbolic link.
    """
    staging = staging_directory(folder)
    units: dict[str, list[str]] = {}
    for path in paths:
        if (staging / path).is_file():
            units.setdefault(model_folder(path) or path, []).append(path)
    touched: set[Path] = set()
    for unit, inside in sorted(units.items()):
        # Looked at once more: meanwhile somebody may have put a link there.
        whole = place_in(folder, unit)
        whole.parent.mkdir(parents=True, exist_ok=True)
        touched.add(whole.parent)
        if unit == inside[0]:
            (staging / unit).replace(whole)
        elif whole.is_symlink():
            raise UnsafePath(f"{folder}: {unit!r} would be written through a symbolic link")
        elif not whole.exists():
            _flush_below(staging / unit)
            (staging / unit).replace(whole)
        elif _complete(staging / unit, whole, {path.removeprefix(f"{unit}/") for path in going}):
            _flush_below(staging / unit)
            if not exchange(staging / unit, whole):
                touched |= _one_by_one(folder, inside)
        else:
            touched |= _one_by_one(folder, inside)
    for directory in touched:
        flush(directory)


def _complete(new: Path, old: Path, going: Collection[str]) -> bool:
    """Give the new model folder what stays of the old one, by links; False on a file system without them."""
    files, _ = list_folder(old)
    for path in files:
        if path in going or os.path.lexists(new / path):
            continue
        (new / path).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(old / path, new / path, follow_symlinks=False)
        except OSError:
            # Also a name that is not UTF-8, which the listing only describes.
            return False
    return True


def _one_by_one(folder: Path, paths: Iterable[str]) -> set[Path]:
    """Where folders cannot be exchanged: the files by which engines recognise a model come last."""
    staging = staging_directory(folder)
    touched = set()
    for path in sorted(paths, key=lambda path: (path.endswith(RECOGNITION_FILES), path)):
        target = place_in(folder, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        (staging / path).replace(target)
        touched.add(target.parent)
    return touched


def keep_installed(folder: Path, staged: Mapping[str, Path]) -> list[Path]:
    """Of what a killed pull had staged, drop other names of installed files; returns the rest.

    Args:
        folder: an installed folder.
        staged: places below `.zoo/staging/` by bundle path.
    """
    rest = []
    for path, place in staged.items():
        with suppress(OSError):
            if (folder / path).samefile(place):
                place.unlink()
                continue
        rest.append(place)
    return rest


def flush(path: Path) -> None:
    """Make a file's bytes or a directory's names outlive a power cut, where the file system can."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _flush_below(directory: Path) -> None:
    """The names in a folder and in those inside it."""
    for place, _, _ in os.walk(directory):
        flush(Path(place))
