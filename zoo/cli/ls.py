"""`zoo ls`."""

from __future__ import annotations

from zoo.cli.options import FormatOption, ModelsOption, OutputFormat, ZooOption
from zoo.cli.output import print_json, print_report


def ls(zoo: ZooOption = None, models: ModelsOption = None, format: FormatOption = OutputFormat.text) -> None:  # noqa: A002 - the option's name
    """List the entries of the zoo.

    \b
    Examples:
      zoo ls
      zoo ls --zoo ./manifests --format json
    """
    from zoo.catalog import load_catalog
    from zoo.locations import models_directory, zoo_directory
    from zoo.receipt import load_receipt
    from zoo.report.entries import list_json, list_text

    catalog = load_catalog(zoo_directory(zoo))
    place = models_directory(models)
    installed = {
        entry.id: entry.id in load_receipt(place / entry.manifest.folder).entries for entry in catalog.entries
    }
    if format is OutputFormat.json:
        print_json(list_json(catalog, installed))
    else:
        print_report(list_text(catalog, installed))
