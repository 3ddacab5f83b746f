"""Two names exchanged in one step, so that whoever looks sees the one or the other and never neither."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

RENAME_EXCHANGE = 2  # linux/fs.h
RENAME_SWAP = 2  # Darwin's sys/stdio.h
AT_FDCWD = -100  # linux/fcntl.h


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names atomically; False where the system or the file system cannot."""
    first, second = os.fsencode(one), os.fsencode(other)
    try:
        libc = ctypes.CDLL("libSystem.dylib" if sys.platform == "darwin" else None, use_errno=True)
        if sys.platform == "darwin":
            return bool(libc.renamex_np(first, second, RENAME_SWAP) == 0)
        return bool(libc.renameat2(AT_FDCWD, first, AT_FDCWD, second, RENAME_EXCHANGE) == 0)
    except (AttributeError, OSError, TypeError):  # an old C library, or Windows
        return False
