"""`zoo swift`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zoo.cli.options import DryRunOption, FormatOption, OutputFormat, ZooOption, complete_entry
from zoo.cli.output import print_json, print_report, say

if TYPE_CHECKING:
    from zoo.report.swift import SwiftReport
    from zoo.swift.source import Access

Mode = Literal["files", "drop-in", "package"]


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
    from zoo.errors import CheckFailed, UsageError
    from zoo.swift.files import write_changed

    if package is not None and (drop_in or out != Path()):
        other = "--drop-in" if drop_in else "--out"
        raise UsageError(f"--package makes a package of its own; {other} does not go with it")
    mode: Mode = "package" if package is not None else "drop-in" if drop_in else "files"
    style = _Style(mode, endpoint, access.value, prefix, runtime)
    report = _generate(zoo, entries or [], style, package or out, write=not (check or dry_run))
    if report.written:
        write_changed(report.target, dict(report.files), write=True)
    if format is OutputFormat.json:
        print_json(report.as_json())
    else:
        print_report(report.text(show_differences=check))
        for remark in report.remarks():
            say(remark)
    if check and report.differences:
        again = "zoo swift" + (" --drop-in" if drop_in else "") + (" --package" if package else " --out")
        raise CheckFailed(
            f"{', '.join(str(report.target / name) for name in report.differences)}: not what the locks say",
            hint=f"run `{again} {report.target}` and commit the result",
        )


@dataclass(frozen=True)
class _Style:
    """How the Swift is to look."""

    mode: Mode
    endpoint: str | None
    access: Access
    prefix: str
    runtime: bool


def _generate(zoo: Path | None, entries: list[str], style: _Style, target: Path, *, write: bool) -> SwiftReport:
    from zoo.catalog import load_catalog
    from zoo.locations import zoo_directory
    from zoo.report.swift import SwiftReport
    from zoo.swift import files as swift_files

    catalog = load_catalog(zoo_directory(zoo))
    drop_in = style.mode == "drop-in"
    chosen = swift_files.chosen_entries(catalog, entries, unlocked=drop_in)
    if drop_in:
        made = swift_files.generate_drop_in(chosen, endpoint=style.endpoint, access=style.access, prefix=style.prefix)
    else:
        make = swift_files.generate if style.mode == "files" else swift_files.generate_package
        made = make(chosen, endpoint=style.endpoint, access=style.access, prefix=style.prefix, runtime=style.runtime)
    stale = swift_files.write_changed(target, made, write=False)
    return SwiftReport(
        target=target,
        files=made,
        differences={name: swift_files.excerpt(target / name, made[name]) for name in stale},
        entries=tuple(entry.id for entry in chosen),
        left_out=() if entries else tuple(entry.id for entry in swift_files.left_out(catalog, chosen)),
        in_archives=() if drop_in else tuple(entry.id for entry in chosen if entry.lock and entry.lock.archive),
        written=write,
    )
