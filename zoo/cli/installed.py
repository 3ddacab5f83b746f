"""Which installed entries a command is about: those under the models directory, or those of one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.cli.output import say
from zoo.errors import CheckFailed, ZooError

if TYPE_CHECKING:
    from zoo.catalog import Catalog


@dataclass(frozen=True)
class Places:
    """Installed entries and the folder of each.

    Attributes:
        root: the models directory, or the one folder.
        entries: folder by entry.
    """

    root: Path
    entries: dict[str, Path]

    def missing(self, entry: str, zoo: Path | None) -> str:
        """The sentence that an entry is not installed.

        Raises:
            UnknownEntry: the zoo has no such entry either: a spelling mistake.
        """
        catalog = usable_catalog(zoo)
        if catalog is not None:
            catalog.get(entry)
        return f"{entry} is not installed in {self.root}"


def places_of(folder: Path | None, models: Path | None) -> Places:
    """Look what is installed.

    Args:
        folder: this folder alone (`--folder`).
        models: else every folder under it (`--models`).

    Raises:
        CheckFailed: nothing was ever installed in `folder`.
        InvalidDocument, DiskError: a receipt is damaged, or something cannot be read.
    """
    from zoo.locations import models_directory
    from zoo.receipt import load_receipt, receipt_path
    from zoo.transfer.verify import installed_entries

    if folder is None:
        place = models_directory(models)
        return Places(place, installed_entries(place))
    if not receipt_path(folder).is_file():
        raise CheckFailed(f"{folder}: nothing is installed there", hint="install it with `zoo pull ENTRY --dest DIR`")
    return Places(folder, dict.fromkeys(load_receipt(folder).entries, folder))


def usable_catalog(zoo: Path | None) -> Catalog | None:
    """The catalog, or None and a note if there is none: receipts say what is installed.

    Raises:
        InvalidDocument: the zoo directory was named and is not one.
    """
    from zoo.catalog import load_catalog
    from zoo.locations import zoo_directory

    try:
        return load_catalog(zoo_directory(zoo))
    except ZooError as error:
        if zoo is not None:
            raise
        say(f"note: {error.message}; going by receipts alone")
        return None
