"""The link ladder: a file that already exists somewhere on this disk is cloned, else hard-linked, else copied.

A clone (APFS `clonefile`, Linux `FICLONE`) shares blocks until somebody writes, so it is always safe. A hard link is
the same file under two names: safe only for bulk weights that nobody edits in place, and only while zoo itself never
writes through one (it never does: it writes beside and replaces).
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from zoo.errors import DiskError

LinkKind = Literal["clone", "hardlink", "copy"]
LinkMode = Literal["auto", "clone", "hardlink", "copy"]

FICLONE = 0x40049409
"""ioctl request of linux/fs.h: _IOW(0x94, 9, int). `fcntl.FICLONE` exists from Python 3.12 only."""

MINIMUM_HARDLINK_BYTES = 1 << 20
"""Below a mebibyte a copy costs nothing, and small files (JSON) are the ones somebody edits in place."""

_UNSUPPORTED = frozenset(
    {
        errno.EOPNOTSUPP,
        errno.ENOTSUP,
        errno.EXDEV,
        errno.EINVAL,
        errno.ENOTTY,
        errno.ENOSYS,
        errno.EPERM,
        errno.EMLINK,
    }
)
"""Errors that mean "not on this file system", after which the next rung is tried."""


def place(source: Path, target: Path, *, mode: LinkMode = "auto", bulk: bool) -> LinkKind:
    """Make `target` have the bytes of `source`, replacing it in one step; return the rung that worked.

    Args:
        source: an existing regular file whose bytes were proven.
        target: where they are wanted; its folder exists.
        mode: `auto` is the ladder; the others force one rung (`clone` and `hardlink` fail where they cannot work).
        bulk: whether the file is bulk data nobody edits (`zoo.lock.is_weight`), so that a hard link is allowed.

    Raises:
        DiskError: no space, no permission, or the forced rung does not work here.
    """
    beside = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        beside.unlink(missing_ok=True)
        kind = _climb(source, beside, mode, bulk)
        beside.replace(target)
        # Renaming one hard link onto another of the same file is a no-op in POSIX and leaves both names.
        beside.unlink(missing_ok=True)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise DiskError(f"{target}: cannot be made from {source}: {error.strerror or error}") from None
    return kind


def _climb(source: Path, beside: Path, mode: LinkMode, bulk: bool) -> LinkKind:
    size = source.stat().st_size
    rungs: dict[LinkKind, Callable[[Path, Path], None]] = {
        "clone": clone,
        "hardlink": _hardlink,
        "copy": _copy,
    }
    if mode != "auto":
        wanted: list[LinkKind] = [mode]
    elif bulk and size >= MINIMUM_HARDLINK_BYTES:
        wanted = ["clone", "hardlink", "copy"]
    else:
        wanted = ["clone", "copy"]
    for kind in wanted:
        try:
            rungs[kind](source, beside)
        except OSError as error:
            beside.unlink(missing_ok=True)
            if error.errno not in _UNSUPPORTED or kind == wanted[-1]:
                raise
        else:
            return kind
    raise AssertionError("the last rung returns or raises")


def clone(source: Path, target: Path) -> None:
    """Make `target`, which must not exist, share the blocks of `source` copy-on-write.

    Raises:
        OSError: with an errno that says so where the file system cannot.
    """
    if sys.platform == "darwin":
        libc = ctypes.CDLL("libSystem.dylib", use_errno=True)
        if libc.clonefile(os.fsencode(source), os.fsencode(target), 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(target))
    elif sys.platform == "linux":
        import fcntl

        with source.open("rb") as reader, target.open("xb") as writer:
            fcntl.ioctl(writer.fileno(), FICLONE, reader.fileno())
            os.fchmod(writer.fileno(), 0o644)
    else:
        raise OSError(errno.ENOTSUP, "no copy-on-write clone on this system", str(target))


def _hardlink(source: Path, target: Path) -> None:
    os.link(source, target, follow_symlinks=False)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    target.chmod(0o644)
