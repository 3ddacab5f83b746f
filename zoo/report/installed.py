"""What `zoo ls --installed` says: what is on this disk, by receipts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zoo.catalog import Catalog
from zoo.lock import lock_digest
from zoo.paths import model_folder
from zoo.plan.absent import forbidden
from zoo.receipt import Installed
from zoo.report.sizes import human_bytes
from zoo.report.text import columns, paint, plural

Freshness = Literal["current", "outdated", "no lock", "not in this zoo"]
"""Whether the zoo's lock is still the one that was installed from."""


@dataclass(frozen=True, slots=True)
class Installation:
    """One installed entry.

    Attributes:
        entry: its id.
        folder: where it lies.
        installed: its part of the folder's receipt.
        freshness: its lock against the zoo's.
        missing: owned files that are not there, or have another size. Digests are `zoo verify`'s work.
        forbidden: files and model folders that must not lie in its folder, because the app would take them.
        shared_with: other entries installed in the same folder.
    """

    entry: str
    folder: Path
    installed: Installed
    freshness: Freshness
    missing: tuple[str, ...]
    forbidden: tuple[str, ...]
    shared_with: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of the files it owns."""
        return sum(file.size for file in self.installed.files)

    @property
    def parts(self) -> str:
        """`all`, or the selection it was installed with."""
        words = [*(f"only {name}" for name in self.installed.only), *(f"no {name}" for name in self.installed.without)]
        return ", ".join(words) or "all"


def freshness(entry: str, installed: Installed, catalog: Catalog) -> Freshness:
    """Compare what was installed with what the zoo says now.

    Raises:
        InvalidDocument, UnsafePath: the zoo's lock is damaged.
    """
    found = next((candidate for candidate in catalog.entries if candidate.id == entry), None)
    if found is None:
        return "not in this zoo"
    if found.lock is None:
        return "no lock"
    return "current" if lock_digest(found.lock) == installed.lock else "outdated"


def missing_files(folder: Path, installed: Installed) -> tuple[str, ...]:
    """Owned files that are not regular files of the recorded size; nothing is read."""
    return tuple(file.path for file in installed.files if not _is_there(folder / file.path, file.size))


def forbidden_in(folder: Path, absent: Sequence[str]) -> tuple[str, ...]:
    """Files and model folders in `folder` that match the `absent` patterns of a manifest; nothing is read.

    Raises:
        DiskError: a folder cannot be read.
    """
    from zoo.folder import list_folder  # plain `zoo ls` lists no folder and should not wait for it

    if not absent:
        return ()
    return tuple(dict.fromkeys(model_folder(path) or path for path in forbidden(absent, *list_folder(folder))))


def _is_there(path: Path, size: int) -> bool:
    try:
        return path.is_file() and not path.is_symlink() and path.stat().st_size == size
    except OSError:
        return False


def installed_json(models: Path, found: Iterable[Installation]) -> dict[str, Any]:
    """`zoo ls --installed --format json`."""
    return {
        "models": str(models),
        "entries": [
            {
                "id": one.entry,
                "folder": str(one.folder),
                "files": len(one.installed.files),
                "bytes": one.size,
                "only": list(one.installed.only),
                "without": list(one.installed.without),
                "state": one.freshness,
                "missing": list(one.missing),
                "must_be_absent": list(one.forbidden),
                "shares_folder_with": list(one.shared_with),
            }
            for one in found
        ],
    }


def installed_text(models: Path, found: Iterable[Installation]) -> str:
    """`zoo ls --installed` for people."""
    listed = list(found)
    if not listed:
        return f"nothing is installed in {models}; `zoo pull ENTRY` brings something"
    rows = [
        (
            one.entry,
            one.folder.name,
            one.parts,
            human_bytes(one.size),
            f"{len(one.installed.files):,}",
            one.freshness,
            paint(_trouble(one), "red") if one.missing or one.forbidden else "",
        )
        for one in listed
    ]
    header = ("ENTRY", "FOLDER", "PARTS", "SIZE", "FILES", "LOCK", "")
    lines = [columns(rows, header=header, align="<<<>><<"), ""]
    # An owned file counts once, however many entries of its folder own it.
    owned = {(one.folder, file.path): file.size for one in listed for file in one.installed.files}
    summary = f"{plural(len(listed), 'entry', 'entries')} in {models}, {human_bytes(sum(owned.values()))}"
    lines.append(paint(summary, "dim"))
    lines += [
        f"{paint('note:', 'yellow')} {one.entry}: `zoo pull {one.entry}` {'repairs' if one.missing else 'updates'} it"
        for one in listed
        if one.missing or one.freshness == "outdated"
    ]
    lines += [
        f"{paint('note:', 'yellow')} {one.entry}: {', '.join(one.forbidden)} must not be in its folder, the app would"
        f" take it; `zoo verify {one.entry}` says what to do"
        for one in listed
        if one.forbidden
    ]
    return "\n".join(lines)


def _trouble(one: Installation) -> str:
    missing = f"{plural(len(one.missing), 'file')} missing" if one.missing else ""
    unwanted = f"{len(one.forbidden)} must not be there" if one.forbidden else ""
    return ", ".join(text for text in (missing, unwanted) if text)
