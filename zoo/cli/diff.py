"""`zoo diff`."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.cli.options import FormatOption, OutputFormat, QuietOption, ZooOption
from zoo.cli.output import print_json, print_report
from zoo.errors import CheckFailed


def diff(
    here: Annotated[str, typer.Argument(metavar="A", help="An entry, a lock file or a folder.")],
    there: Annotated[
        str | None,
        typer.Argument(metavar="[B]", help="What to compare it with.", show_default="the lock of folder A"),
    ] = None,
    files: Annotated[bool, typer.Option("--files", help="List every path that differs.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 unless both are the same.")] = False,
    zoo: ZooOption = None,
    quiet: QuietOption = False,
    format: FormatOption = OutputFormat.text,  # noqa: A002 - the option's name
) -> None:
    """Compare two entries, two locks, or a folder and its lock, in bytes.

    Nothing counts as the same because of its name or size; files without a digest are not known.

    \b
    Examples:
      zoo diff gemma4-e4b gemma4-e4b-multimodal
      zoo diff old.lock.json gemma4-e4b --files
      zoo diff build/gemma4-e4b
    """
    from zoo.catalog import load_catalog
    from zoo.digests import DigestCache
    from zoo.locations import zoo_directory
    from zoo.plan.diff import diff as compare
    from zoo.report.diff import diff_json, diff_text
    from zoo.report.progress import progress_display
    from zoo.sides import find_side, own_lock, read_sides

    catalog = load_catalog(zoo_directory(zoo))
    one = find_side(here, catalog)
    other = own_lock(one, catalog) if there is None else find_side(there, catalog)
    if one.folder is not None or other.folder is not None:
        with DigestCache.default() as cache, progress_display("Reading", unit="bytes", quiet=quiet) as progress:
            one, other = read_sides(one, other, cache=cache, progress=progress)
    found = compare(one.files, other.files)
    if format is OutputFormat.json:
        print_json(diff_json(one, other, found))
    else:
        print_report(diff_text(one, other, found, files=files))
    if check and not found.same:
        raise CheckFailed(f"{one.name} and {other.name} are not the same")
