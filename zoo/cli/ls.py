"""`zoo ls`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.options import FormatOption, ModelsOption, OutputFormat, ZooOption
from zoo.cli.output import print_json, print_report

if TYPE_CHECKING:
    from zoo.catalog import Catalog
    from zoo.report.installed import Installation


def ls(
    installed: Annotated[
        bool, typer.Option("--installed", help="Only what is on this disk: folder, parts, bytes, state.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", "-a", help="Also the entries that no picker shows.")] = False,
    zoo: ZooOption = None,
    models: ModelsOption = None,
    format: FormatOption = OutputFormat.text,  # noqa: A002 - the option's name
) -> None:
    """List the entries of the zoo.

    \b
    Examples:
      zoo ls
      zoo ls --installed
      zoo ls --zoo ./manifests --format json
    """
    from zoo.catalog import load_catalog
    from zoo.locations import models_directory, zoo_directory
    from zoo.receipt import load_receipt
    from zoo.report.entries import list_json, list_text
    from zoo.report.installed import installed_json, installed_text

    catalog = load_catalog(zoo_directory(zoo))
    place = models_directory(models)
    if installed:
        found = _installations(place, catalog)
        if format is OutputFormat.json:
            print_json(installed_json(place, found))
        else:
            print_report(installed_text(place, found))
        return
    there = {entry.id: entry.id in load_receipt(place / entry.manifest.folder).entries for entry in catalog.entries}
    if format is OutputFormat.json:
        print_json(list_json(catalog, there, hidden=every))
    else:
        print_report(list_text(catalog, there, hidden=every))


def _installations(models: Path, catalog: Catalog) -> list[Installation]:
    """Everything that receipts under `models` say is installed, in picker order, strangers last."""
    from zoo.receipt import load_receipt
    from zoo.report.installed import Installation, forbidden_in, freshness, missing_files
    from zoo.transfer.verify import absent_patterns, installed_entries

    order = {entry.id: number for number, entry in enumerate(catalog.entries)}
    found = []
    for name, folder in installed_entries(models).items():
        receipt = load_receipt(folder)
        record = receipt.entries[name]
        others = tuple(sorted(receipt.entries.keys() - {name}))
        missing = missing_files(folder, record)
        unwanted = forbidden_in(folder, absent_patterns(name, catalog))
        found.append(Installation(name, folder, record, freshness(name, record, catalog), missing, unwanted, others))
    return sorted(found, key=lambda one: (order.get(one.entry, len(order)), one.entry, str(one.folder)))
