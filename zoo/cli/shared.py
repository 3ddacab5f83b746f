"""`zoo shared`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.options import BuildOption, FormatOption, ModelsOption, OutputFormat, QuietOption, ZooOption
from zoo.cli.output import print_json, print_report, say


def shared(
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write a page with a map to look at.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Read the files on this disk instead of believing receipts and locks.")
    ] = False,
    zoo: ZooOption = None,
    models: ModelsOption = None,
    build: BuildOption = None,
    quiet: QuietOption = False,
    format: FormatOption = OutputFormat.text,  # noqa: A002 - the option's name
) -> None:
    """Show what the zoo stores more than once, on the Hub and on this disk, and what sharing it would save.

    Bytes are the same if their sha256 is. Files without a digest are counted as not known.

    \b
    Examples:
      zoo shared
      zoo shared --html shared.html
      zoo shared --full --format json
    """
    from zoo.catalog import load_catalog
    from zoo.digests import DigestCache
    from zoo.documents import write_atomically
    from zoo.locations import build_directory, models_directory, zoo_directory
    from zoo.plan.published import hub_holders, unpublished
    from zoo.plan.sharing import find_sharing
    from zoo.report.progress import progress_display
    from zoo.report.sharing import Section, shared_json, shared_text
    from zoo.stored import disk_holders, stored_folders

    catalog = load_catalog(zoo_directory(zoo))
    stored, notes = stored_folders(models_directory(models), build_directory(build), catalog)
    with DigestCache.default() as cache, progress_display("Reading", unit="bytes", quiet=quiet) as progress:
        on_disk = disk_holders(stored, cache=cache, full=full, progress=progress)
    sections = (
        Section("hub", find_sharing(hub_holders(catalog.entries))),
        Section("disk", find_sharing(on_disk)),
    )
    waiting = unpublished(catalog.entries)
    for note in notes:
        say(f"note: {note}; left out")
    if html is not None:
        from zoo.report.sharing_html import shared_html

        write_atomically(html, shared_html(sections, waiting).encode())
        say(f"written: {html}")
    if format is OutputFormat.json:
        print_json(shared_json(sections, waiting, notes))
    else:
        print_report(shared_text(sections, waiting))
