"""Paths that come from manifests, locks, Hub listings and archives, none of which are trusted.

A bundle path is relative, uses `/`, is normalised, and means the same file on APFS, ext4 and NTFS: it has no `..`,
no drive letter, no control character, no name Windows reserves, and no other path of the same bundle differs from
it in letter case or Unicode normalisation alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path

from zoo.errors import UnsafePath

MODEL_SUFFIXES = (".mlpackage", ".mlmodelc")
"""Folders that are one model: all of it or nothing (DESIGN.md, "Rules that hold everywhere")."""

STATE_DIRECTORY = ".zoo"
"""zoo's own state inside an installed folder; no bundle file may live there."""

MAX_PATH_BYTES = 512
"""Well under PATH_MAX (1024 on Darwin) once the models directory is in front of it."""

_WINDOWS_RESERVED = frozenset(
    ["con", "prn", "aux", "nul", *(f"com{i}" for i in range(1, 10)), *(f"lpt{i}" for i in range(1, 10))]
)
_FORBIDDEN = frozenset('<>:"\\|?*')
"""Characters that NTFS and FAT refuse in names; `:` is also a drive letter or an alternate stream."""


def check_bundle_path(path: str, *, where: str) -> str:
    """Return `path` if it is a safe bundle path.

    Args:
        path: the path to check, with `/` separators.
        where: what the path was read from, for the message, e.g. `manifests/x.toml`.

    Raises:
        UnsafePath: naming `where`, the path and the reason.
    """
    reason = _reason_unsafe(path)
    if reason is not None:
        raise UnsafePath(f"{where}: path {path!r} {reason}")
    return path


@lru_cache(maxsize=16384)  # the paths of a zoo's bundles recur: in lock, plan and folder, and from entry to entry
def _reason_unsafe(path: str) -> str | None:
    if not path:
        return "is empty"
    if len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        return f"is longer than {MAX_PATH_BYTES} bytes"
    if path.startswith("/"):
        return "is absolute"
    if not (path.isascii() and path.isprintable()):  # what nearly every path is; the rest is looked at closely
        if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in path):
            return "has a control, formatting or surrogate character"
        if unicodedata.normalize("NFC", path) != path:
            return "is not in Unicode normal form C"
    bad = _FORBIDDEN.intersection(path)
    if bad:
        return f"has a character that not every file system takes: {' '.join(sorted(bad))}"
    for part in path.split("/"):
        reason = _reason_unsafe_part(part)
        if reason is not None:
            return reason
    if path.split("/", 1)[0].casefold() == STATE_DIRECTORY:
        return f"lies in {STATE_DIRECTORY}/, which belongs to zoo"
    return None


def _reason_unsafe_part(part: str) -> str | None:
    if part == "":
        return "has an empty part"
    if part in (".", ".."):
        return f"has a {part!r} part"
    if part != part.strip(" ") or part.endswith("."):
        return "has a part that starts or ends with a space, or ends with a dot"
    if part.split(".", 1)[0].casefold() in _WINDOWS_RESERVED:
        return f"has a part that Windows reserves: {part!r}"
    return None


def check_no_clashes(paths: Iterable[str], *, where: str) -> None:
    """Refuse two paths that are one file on some file system, or a file that is also a folder.

    Raises:
        UnsafePath: naming both paths.
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        key = path.casefold()
        if key in files:
            kind = "is listed twice" if files[key] == path else f"differs from {files[key]!r} in letter case only"
            raise UnsafePath(f"{where}: path {path!r} {kind}")
        files[key] = path
        name = path.rpartition("/")[0]
        while name:
            known = folders.setdefault(name.casefold(), name)
            if known != name:
                raise UnsafePath(f"{where}: folders {known!r} and {name!r} differ in letter case only")
            name = name.rpartition("/")[0]
    for key, folder in folders.items():
        if key in files:
            raise UnsafePath(f"{where}: {files[key]!r} is a file and {folder!r} a folder")


def resolve_inside(folder: Path, path: str) -> Path:
    """The place of bundle path `path` in `folder`, provided no symlink on the way leads out of `folder`.

    Neither the file nor its parent folders need to exist.

    Raises:
        UnsafePath: if the path is unsafe, or an existing parent is a symlink that leaves `folder`.
    """
    check_bundle_path(path, where=str(folder))
    target = folder / path
    root = folder.resolve()
    if not target.parent.resolve().is_relative_to(root):
        raise UnsafePath(
            f"{folder}: {path!r} would be written through a symbolic link that leaves the folder",
            hint="remove the link, or install into another folder",
        )
    return target


def model_folder(path: str) -> str | None:
    """The `.mlpackage` or `.mlmodelc` folder that bundle path `path` lies in, or None.

    The outermost one counts: a compiled model is one unit whatever it contains.
    """
    parts = path.split("/")
    for depth, part in enumerate(parts):
        if part.endswith(MODEL_SUFFIXES):
            return "/".join(parts[: depth + 1])
    return None


def strip_model_suffix(path: str) -> str:
    """`chunk1` for `chunk1.mlpackage`, `vision.ane` for `vision.ane.mlmodelc`; other paths unchanged."""
    for suffix in MODEL_SUFFIXES:
        if path.endswith(suffix):
            return path.removesuffix(suffix)
    return path


def matches_absent(path: str, patterns: Iterable[str]) -> bool:
    """Whether `path` is what a manifest's `absent` patterns name: a file, or part of a model of either kind."""
    name = strip_model_suffix(model_folder(path) or path)
    return any(path_pattern(pattern).fullmatch(name) for pattern in patterns)


@cache
def path_pattern(pattern: str) -> re.Pattern[str]:
    """What `pattern` matches, by `fullmatch`: itself, where `*` stands for any characters but `/`."""
    return re.compile("[^/]*".join(map(re.escape, pattern.split("*"))))
