"""`zoo verify`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.options import FormatOption, ModelsOption, OutputFormat, QuietOption, ZooOption, complete_entry
from zoo.cli.output import print_json, print_report, say
from zoo.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from zoo.catalog import Catalog
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

    The first time every byte is read; after that only files that changed. `zoo repair` brings back what is wrong;
    `zoo pull` also deletes what must not be there.

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
            verdicts = [verify_lock(folder, lock, reading, _catalog(zoo))]
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
    _raise_if_bad(verdicts, folder, installed=lock is None)


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


def _catalog(zoo: Path | None) -> Catalog | None:
    """The catalog, for what must not lie beside the lock's files; a lock does without one."""
    from zoo.catalog import load_catalog
    from zoo.errors import ZooError
    from zoo.locations import zoo_directory

    with contextlib.suppress(ZooError):
        return load_catalog(zoo_directory(zoo))
    return None


def _raise_if_bad(verdicts: list[Verdict], folder: Path | None, *, installed: bool) -> None:
    from zoo.report.verify import bad_line, way_out

    bad = [verdict for verdict in verdicts if not verdict.good]
    if not bad:
        return
    by_hand = "delete what must not be there" if any(verdict.forbidden for verdict in bad) else None
    raise CheckFailed(bad_line(bad), hint=way_out(bad, folder) if installed else by_hand)
