"""What lies in a folder although an entry says it must not: the app's engine routes by which files exist. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from zoo.paths import matches_absent, model_folder


class Sized(Protocol):
    """A file of a folder, here or on a device."""

    @property
    def size(self) -> int | None:
        """Bytes; None if a listing does not say."""


def forbidden(
    patterns: Sequence[str], files: Mapping[str, Sized], folders: Iterable[str] = ()
) -> dict[str, int | None]:
    """Sizes of everything that must not be there, by path: files, and model folders without a file.

    Engines test some models by their folder alone, so an empty one counts too.

    Args:
        patterns: `Manifest.absent`.
        files: what lies in the folder.
        folders: the folders in it.
    """
    if not patterns:
        return {}
    found = {path: file.size for path, file in files.items() if matches_absent(path, patterns)}
    filled = {model_folder(path) for path in files}
    for folder in folders:
        if model_folder(folder) == folder and folder not in filled and matches_absent(folder, patterns):
            found[folder] = 0
    return dict(sorted(found.items()))
