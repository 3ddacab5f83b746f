"""The stock client's cache as a place to take bytes from.

    models--<namespace>--<name>/blobs/<etag>    sha256 of large files, git's sha1 of small ones
    blobs/<2 hex>/<xet hash>                    shared by all repos; the entries above are then links to it

Read only: nothing is ever written, linked to by name, or removed there. A blob's name is a claim like any other; its
bytes are hashed before they are used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from zoo.transfer.reuse import Claim, Provider, Wanted

_REPO = re.compile(r"(models|datasets|spaces|kernels)--.+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")

SMALL_BYTES = 16 << 20
"""Blobs named by git's sha1 prove nothing about a sha256, so they are read; the Hub keeps larger files as LFS."""


def hub_cache_directory() -> Path:
    """Where the stock client caches, by its own variables (huggingface_hub/constants.py), read now."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if given := os.environ.get(name):
            return _expanded(given)
    home = os.environ.get("HF_HOME")
    if home is None:
        home = os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")  # noqa: PTH118 - not expanded yet
    return _expanded(home) / "hub"


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(path)))  # noqa: PTH111 - variables may expand to "~"


def hub_cache(directory: Path) -> Provider:
    """Claims of the blobs in a cache of the stock client; none if there is no such folder.

    Args:
        directory: `hub_cache_directory`.
    """

    def claims(wanted: Wanted) -> Iterable[Claim]:
        sizes = set(wanted.values())
        origin = "the Hugging Face cache"
        for repo in _names(directory):
            if not _REPO.fullmatch(repo):
                continue
            blobs = directory / repo / "blobs"
            for name in _names(blobs):
                if name in wanted:
                    yield Claim(blobs / name, name, origin)
                elif _SHA1.fullmatch(name) and (size := _size(blobs / name)) in sizes and size <= SMALL_BYTES:
                    yield Claim(blobs / name, None, origin)
        # What a deleted repo left behind here has no other name than its xet hash.
        for path in _shared(directory / "blobs"):
            if _size(path) in sizes:
                yield Claim(path, None, origin)

    return claims


def _shared(store: Path) -> Iterator[Path]:
    for prefix in _names(store):
        if len(prefix) == 2:
            yield from (store / prefix / name for name in _names(store / prefix) if _SHA256.fullmatch(name))


def _names(directory: Path) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir())
    except OSError:
        return []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
