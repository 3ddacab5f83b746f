"""`zoo swift`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.options import DryRunOption, FormatOption, OutputFormat, ZooOption, complete_entry
from zoo.cli.output import print_json, print_report, say


class AccessLevel(StrEnum):
    """Swift access levels a catalog can have."""

    public = "public"
    package = "package"
    internal = "internal"


def swift(
    entries: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ENTRY]...", autocompletion=complete_entry, help="Entries to list; every locked one by default."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where the files are written.")] = Path(),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 if the files are stale.")] = False,
    access: Annotated[AccessLevel, typer.Option(help="Access level of the Swift declarations.")] = AccessLevel.public,
    prefix: Annotated[str, typer.Option(help="What the Swift types are called after.")] = "Zoo",
    runtime: Annotated[
        bool, typer.Option("--runtime/--no-runtime", help="With the planner and the downloader, in Swift.")
    ] = True,
    drop_in: Annotated[
        bool, typer.Option("--drop-in", help="Just the lists for the downloader that the app has: ZooDropIn.swift.")
    ] = False,
    package: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A Swift package, with catalog.json as a resource.", show_default=False),
    ] = None,
    dry_run: DryRunOption = False,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Hub the app fetches from.", show_default="the public Hub")
    ] = None,
    zoo: ZooOption = None,
    format: FormatOption = OutputFormat.text,  # noqa: A002 - the option's name
) -> None:
    """Write the app's catalog (picker, files, sizes, digests, URLs) and the Swift that plans and fetches.

    \b
    Examples:
      zoo swift --out App/Sources/Models
      zoo swift gemma4-e4b gemma4-e4b-multimodal --access internal
      zoo swift --out App/Sources/Models --check
      zoo swift --package ../ZooModels
      zoo swift --drop-in --out Sources/CoreMLLLM
    """
    from zoo.catalog import load_catalog
    from zoo.errors import CheckFailed, UsageError
    from zoo.locations import zoo_directory
    from zoo.swift.files import (
        chosen_entries,
        excerpt,
        generate,
        generate_drop_in,
        generate_package,
        left_out,
        write_changed,
    )

    if package is not None and (drop_in or out != Path()):
        other = "--drop-in" if drop_in else "--out"
        raise UsageError(f"--package makes a package of its own; {other} does not go with it")
    catalog = load_catalog(zoo_directory(zoo))
    chosen = chosen_entries(catalog, entries or [], unlocked=drop_in)
    if drop_in:
        files = generate_drop_in(chosen, endpoint=endpoint, access=access.value, prefix=prefix)
    else:
        make = generate if package is None else generate_package
        files = make(chosen, endpoint=endpoint, access=access.value, prefix=prefix, runtime=runtime)
    target = package or out
    stale = write_changed(target, files, write=False)
    changes = {name: excerpt(target / name, files[name]) for name in stale}
    if not (check or dry_run):
        write_changed(target, files, write=True)
    missing = () if entries else left_out(catalog, chosen)
    zipped = [entry.id for entry in chosen if not drop_in and entry.lock is not None and entry.lock.archive]
    report = {
        "entries": [entry.id for entry in chosen],
        "left_out": [entry.id for entry in missing],
        "in_archives": zipped,
        "files": [
            {
                "path": str(target / name),
                "bytes": len(data),
                "changed": name in stale,
                "difference": changes.get(name, []),
            }
            for name, data in files.items()
        ],
        "written": not (check or dry_run),
    }
    if format is OutputFormat.json:
        print_json(report)
    else:
        for name, data in files.items():
            verb = ("would change" if check or dry_run else "written") if name in stale else "unchanged"
            print_report(f"{target / name}  {len(data):,} bytes  {verb}")
            if check and name in stale:
                print_report("\n".join(f"  {line}" for line in changes[name]))
        if zipped:
            say(f"listed with their zip file, which the generated downloader does not fetch: {', '.join(zipped)}")
        if missing:
            say(f"left out, because they have no lock: {', '.join(entry.id for entry in missing)}")
    if check and stale:
        again = "zoo swift" + (" --drop-in" if drop_in else "") + (" --package" if package else " --out")
        raise CheckFailed(
            f"{', '.join(str(target / name) for name in stale)}: not what the locks say",
            hint=f"run `{again} {target}` and commit the result",
        )
