"""The receipt of an installed folder: which entries are installed there and which files each owns.

Written last, atomically. No receipt entry, not installed - whatever files lie there.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from zoo.documents import canonical_json, decode, parse_json, read_bytes, write_atomically
from zoo.lock import Sha256, Size, Xxh3
from zoo.manifest import EntryId, Struct
from zoo.paths import STATE_DIRECTORY, check_bundle_path

RECEIPT_SCHEMA = 1
RECEIPT_NAME = "receipt.json"


class ReceiptFile(Struct, frozen=True, kw_only=True, gc=False):
    """A file as it was when it was installed. `sha256` is None if it came from a provisional lock."""

    path: str
    size: Size
    sha256: Sha256 | None = None
    xxh3: Xxh3 | None = None


class Installed(Struct, frozen=True, kw_only=True):
    """One installed entry.

    Attributes:
        lock: `lock_digest` of the lock it was installed from.
        only, without: the selection it was installed with.
        files: every file the entry owns here, sorted by path.
    """

    lock: Sha256
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    files: tuple[ReceiptFile, ...]


class Receipt(Struct, frozen=True, kw_only=True, omit_defaults=False):
    """All entries installed in one folder, by id."""

    schema: int = RECEIPT_SCHEMA
    entries: dict[EntryId, Installed] = {}

    def owners(self) -> dict[str, tuple[str, ...]]:
        """For every owned path the entries that own it."""
        owners: dict[str, tuple[str, ...]] = {}
        for entry, installed in sorted(self.entries.items()):
            for file in installed.files:
                owners[file.path] = (*owners.get(file.path, ()), entry)
        return owners

    def with_entry(self, entry: str, installed: Installed) -> Receipt:
        """A copy in which `entry` is installed as given."""
        return Receipt(entries={**self.entries, entry: installed})

    def without_entry(self, entry: str) -> Receipt:
        """A copy in which `entry` is not installed."""
        return Receipt(entries={name: kept for name, kept in self.entries.items() if name != entry})


def receipt_path(folder: Path) -> Path:
    """Where the receipt of an installed folder lies."""
    return folder / STATE_DIRECTORY / RECEIPT_NAME


def load_receipt(folder: Path) -> Receipt:
    """The receipt of `folder`; an empty one if nothing is installed there.

    Raises:
        InvalidDocument, UnsafePath: a damaged or hostile receipt.
        DiskError: it cannot be read.
    """
    path = receipt_path(folder)
    if not path.is_file():
        return Receipt()
    data = parse_json(read_bytes(path), where=str(path))
    receipt = decode(data, Receipt, where=str(path), schema=RECEIPT_SCHEMA)
    for installed in receipt.entries.values():
        for file in installed.files:
            check_bundle_path(file.path, where=str(path))
    return receipt


def save_receipt(folder: Path, receipt: Receipt) -> None:
    """Write the receipt atomically.

    Raises:
        DiskError: no space or no permission.
    """
    write_atomically(receipt_path(folder), canonical_json(msgspec.to_builtins(receipt)))
