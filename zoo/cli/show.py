"""`zoo show`."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.cli.options import EntryArgument, FormatOption, OutputFormat, ZooOption
from zoo.cli.output import print_json, print_report


def show(
    entry: EntryArgument,
    files: Annotated[bool, typer.Option("--files", help="List every file with its size and digest.")] = False,
    tree: Annotated[
        bool, typer.Option("--tree", help="Show the folder as a tree, and who else has the same bytes.")
    ] = False,
    zoo: ZooOption = None,
    format: FormatOption = OutputFormat.text,  # noqa: A002 - the option's name
) -> None:
    """Show what an entry consists of, and where its bytes come from.

    \b
    Examples:
      zoo show gemma4-e4b-multimodal
      zoo show gemma4-e4b --files
      zoo show gemma4-e4b --tree
      zoo show gemma4-e4b --format json
    """
    from zoo.catalog import load_catalog
    from zoo.locations import zoo_directory
    from zoo.report.entries import show_json, show_text
    from zoo.report.tree import tree_text

    catalog = load_catalog(zoo_directory(zoo))
    found = catalog.get(entry)
    if format is OutputFormat.json:
        print_json(show_json(found))
    elif tree:
        print_report(tree_text(found, catalog))
    else:
        print_report(show_text(found, files=files))
