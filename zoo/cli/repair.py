"""`zoo repair`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.fetching import How, fetch, providers
from zoo.cli.options import (
    BuildOption,
    DryRunOption,
    EndpointsOption,
    FolderOption,
    FormatOption,
    FromOption,
    JobsOption,
    Link,
    LinkOption,
    ModelsOption,
    OutputFormat,
    QuietOption,
    ReuseOption,
    ZooOption,
    complete_entry,
    names,
)
from zoo.cli.output import print_json, print_report, say
from zoo.errors import CheckFailed

if TYPE_CHECKING:
    from zoo.catalog import Catalog
    from zoo.digests import DigestCache
    from zoo.plan.verify import Verdict
    from zoo.transfer.pull import PullResult
    from zoo.transfer.repair import Repair
    from zoo.transfer.reuse import Provider


def repair(
    entries: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ENTRY]...",
            autocompletion=complete_entry,
            help="Entries to repair.",
            show_default="all that are installed",
        ),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Read every byte, also of files that did not change since the last time.")
    ] = False,
    reuse: ReuseOption = False,
    from_: FromOption = None,
    jobs: JobsOption = 4,
    link: LinkOption = Link.auto,
    endpoint: EndpointsOption = None,
    folder: FolderOption = None,
    models: ModelsOption = None,
    build: BuildOption = None,
    zoo: ZooOption = None,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    format: FormatOption = OutputFormat.text,  # noqa: A002 - the option's name
) -> None:
    """Verify installed entries and bring back just the files that are wrong, as they were installed.

    Nothing is updated and nothing is deleted; `zoo pull` does that.

    \b
    Examples:
      zoo repair
      zoo repair gemma4-e4b --full --dry-run
      zoo repair --reuse
    """
    from zoo.cli.installed import places_of, usable_catalog
    from zoo.locations import models_directory
    from zoo.transfer.remote import resolve_endpoints

    text = format is OutputFormat.text
    how = How(resolve_endpoints(names(endpoint)), link.value, jobs, dry_run=dry_run, quiet=quiet, text=text)
    places = places_of(folder, models)
    for entry in entries or ():
        if entry not in places.entries:
            raise CheckFailed(places.missing(entry, zoo), hint=f"zoo pull {entry}")
    by_folder: dict[Path, list[str]] = {}
    for entry in entries or places.entries:
        by_folder.setdefault(places.entries[entry], []).append(entry)
    if not by_folder:
        say(f"nothing is installed in {places.root}")
    catalog = usable_catalog(zoo)
    reports = []
    for where, chosen in sorted(by_folder.items()):
        sources = providers(reuse, from_, models_directory(models), build, where)
        reports.append(_repair_folder(_Order(where, tuple(chosen), full, catalog, sources), how))
    if not text:
        print_json({"good": all(one["good"] for one, _ in reports), "folders": [one for one, _ in reports]})
    _raise_if_unwanted([verdict for _, verdicts in reports for verdict in verdicts], folder)


def _raise_if_unwanted(verdicts: list[Verdict], folder: Path | None) -> None:
    """Say what stays although it must not be there: a repair deletes nothing."""
    from zoo.report.verify import bad_line, way_out

    left = [replace(verdict, findings=verdict.forbidden) for verdict in verdicts if verdict.forbidden]
    if left:
        raise CheckFailed(bad_line(left), hint=way_out(left, folder))


@dataclass(frozen=True)
class _Order:
    """What is to be repaired."""

    folder: Path
    entries: tuple[str, ...]
    full: bool
    catalog: Catalog | None
    providers: list[Provider]


def _repair_folder(order: _Order, how: How) -> tuple[dict[str, Any], tuple[Verdict, ...]]:
    """Verify, show, fetch, verify again; returns the folder's part of the JSON report, and what was found."""
    from zoo.digests import DigestCache
    from zoo.folder import folder_lock
    from zoo.plan.pull import plan_json
    from zoo.transfer.pull import recover_staging
    from zoo.transfer.remove import finish_removal

    folder = order.folder
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(DigestCache.default())
        if not how.dry_run:
            stack.enter_context(folder_lock(folder, doing="zoo repair", on_wait=say))
            recover_staging(folder, cache)
            finish_removal(folder)
        found = _look(order, how, cache)
        report: dict[str, Any] = {
            "folder": str(folder),
            "good": all(verdict.good for verdict in found.verdicts),
            "entries": [verdict.as_json() for verdict in found.verdicts],
        }
        _show(found, folder, how)
        if found.plan is None:
            return report, found.verdicts
        report["plan"] = plan_json(found.plan, str(folder))
        if how.dry_run:
            return report, found.verdicts
        result = fetch(found.plan, folder, how, cache)
        _check_again(order, cache)
    _show_result(found, result, how)
    good = not any(verdict.forbidden for verdict in found.verdicts)
    return report | {"good": good, "result": result.as_json()}, found.verdicts


def _look(order: _Order, how: How, cache: DigestCache) -> Repair:
    from zoo.report.progress import progress_display
    from zoo.transfer.repair import prepare_repair
    from zoo.transfer.verify import Reading

    with progress_display("Reading", unit="bytes", quiet=how.quiet) as progress:
        return prepare_repair(
            order.folder,
            order.entries,
            order.catalog,
            Reading(cache, order.full, progress),
            providers=order.providers,
        )


def _check_again(order: _Order, cache: DigestCache) -> None:
    from zoo.transfer.verify import Reading, verify_folder

    verdicts: list[Verdict] = verify_folder(order.folder, order.entries, order.catalog, Reading(cache))
    wrong = [finding.path for verdict in verdicts for finding in verdict.wrong]
    if wrong:
        raise CheckFailed(
            f"{order.folder}: {wrong[0]} is wrong again", hint="somebody else is changing it, or the disk is failing"
        )


def _show(found: Repair, folder: Path, how: How) -> None:
    from zoo.report.pull import dry_run_text, plan_text
    from zoo.report.repair import wrong_text

    for remark in found.remarks:
        say(f"note: {remark}")
    if not how.text:
        return
    print_report(wrong_text(found.verdicts))
    if found.plan is not None:
        print_report(plan_text(found.plan, str(folder)))
        if how.dry_run:
            print_report(dry_run_text(found.plan))


def _show_result(found: Repair, result: PullResult, how: How) -> None:
    from zoo.report.pull import result_text

    if how.text and found.plan is not None:
        print_report(result_text(found.plan, result))
