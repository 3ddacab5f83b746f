"""Installed folders made by hand: files, and a receipt that says whose they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from zoo.receipt import Installed, Receipt, ReceiptFile, save_receipt


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put files into a folder."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def write_receipt(folder: Path, entries: Mapping[str, Iterable[str]]) -> None:
    """Say which entries are installed and which of the folder's files each owns."""

    def described(path: str) -> ReceiptFile:
        data = (folder / path).read_bytes()
        return ReceiptFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())

    save_receipt(
        folder,
        Receipt(
            entries={
                entry: Installed(lock="1" * 64, files=tuple(map(described, sorted(paths))))
                for entry, paths in entries.items()
            }
        ),
    )
