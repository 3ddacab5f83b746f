"""`zoo verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.options import FormatOption, ModelsOption, OutputFormat, QuietOption, ZooOption, complete_entry
from zoo.cli.output import print_json, print_report, say
from zoo.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from zoo.plan.verify import Verdict
    from zoo.transfer.verify import Reading


def verify(
    entries: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ENTRY]...",
            autocompletion=complete_entry,
            help="Entries to check.",
            show_default="all that are installed",
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="Check this folder instead of the installed models.")
    ] = None,
    lock: Annotated[
        Path | None, typer.Option("--lock", metavar="FILE", help="With --folder: check it against this lock.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Read every byte, also of files that did not change since the last time.")
    ] = False,
    models: ModelsOption = None,
    zoo: ZooOption = None,
    quiet: QuietOption = False,
    format: FormatOption = OutputFormat.text,  # noqa: A002 - the option's name
) -> None:
    """Check that installed bytes are what their lock says; exit with 1 if they are not.

    The first time every byte is read; after that only files that changed. `zoo pull` repairs what is wrong.

    \b
    Examples:
      zoo verify
      zoo verify gemma4-e4b --full
      zoo verify --folder build/gemma4-e4b --lock build/gemma4-e4b.lock.json
    """
    import time

    from zoo.digests import DigestCache
    from zoo.report.progress import progress_display
    from zoo.report.verify import verdicts_text
    from zoo.transfer.verify import Reading, verify_lock

    if lock is not None and (folder is None or entries):
        raise UsageError("--lock needs --folder DIR, and no ENTRY")
    begin = time.monotonic()
    with DigestCache.default() as cache, progress_display("Reading", unit="bytes", quiet=quiet) as progress:
        reading = Reading(cache, full, progress)
        if lock is not None and folder is not None:
            verdicts = [verify_lock(folder, lock, reading)]
        else:
            verdicts = _installed(entries or [], folder, models, zoo, reading)
    seconds = time.monotonic() - begin
    if format is OutputFormat.json:
        good = all(verdict.good for verdict in verdicts)
        print_json(
            {"good": good, "seconds": round(seconds, 3), "entries": [verdict.as_json() for verdict in verdicts]}
        )
    elif verdicts:
        print_report(verdicts_text(verdicts, seconds))
    _raise_if_bad(verdicts, repairable=lock is None)


def _installed(
    entries: list[str], folder: Path | None, models: Path | None, zoo: Path | None, reading: Reading
) -> list[Verdict]:
    from zoo.cli.installed import usable_catalog
    from zoo.locations import models_directory
    from zoo.receipt import receipt_path
    from zoo.transfer.verify import installed_entries, verify_folder

    catalog = usable_catalog(zoo)
    place = models_directory(models)
    if folder is not None:
        if not receipt_path(folder).is_file():
            raise CheckFailed(f"{folder}: nothing is installed there", hint="check it against a lock with --lock FILE")
        return verify_folder(folder, entries, catalog, reading)
    installed = installed_entries(place)
    for entry in entries:
        if entry not in installed:
            if catalog is not None:
                catalog.get(entry)
            raise CheckFailed(f"{entry} is not installed in {place}", hint=f"zoo pull {entry}")
    if not installed:
        say(f"nothing is installed in {place}")
    by_folder: dict[Path, list[str]] = {}
    for entry in entries or installed:
        by_folder.setdefault(installed[entry], []).append(entry)
    return [verdict for where, found in by_folder.items() for verdict in verify_folder(where, found, catalog, reading)]


def _raise_if_bad(verdicts: list[Verdict], *, repairable: bool) -> None:
    from zoo.report.text import plural

    bad = [verdict for verdict in verdicts if not verdict.good]
    if not bad:
        return
    count = len({(verdict.folder, finding.path) for verdict in bad for finding in verdict.findings})
    names = " and ".join(verdict.name for verdict in bad)
    hint = " && ".join(f"zoo pull {name}" for name in _repairers(bad)) if repairable else None
    raise CheckFailed(
        f"{names}: {plural(count, 'file')} {'is' if count == 1 else 'are'} not as locked",
        hint=hint and f"{hint} repairs just that",
    )


def _repairers(bad: list[Verdict]) -> list[str]:
    """Entries whose pulls repair everything; files of a shared folder need one of its entries only."""
    chosen = []
    covered: set[tuple[str, str]] = set()
    for verdict in sorted(bad, key=lambda verdict: -len(verdict.findings)):
        broken = {(verdict.folder, finding.path) for finding in verdict.findings}
        if not broken <= covered:
            chosen.append(verdict.name)
            covered |= broken
    return chosen
