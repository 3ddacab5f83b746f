"""`zoo pull`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.options import (
    BuildOption,
    DryRunOption,
    EndpointOption,
    EntryArgument,
    FormatOption,
    ModelsOption,
    OnlyOption,
    OutputFormat,
    QuietOption,
    WithoutOption,
    YesOption,
    ZooOption,
    names,
)
from zoo.cli.output import print_json, print_report, say
from zoo.errors import UsageError

if TYPE_CHECKING:
    from zoo.catalog import Catalog, Entry
    from zoo.digests import DigestCache
    from zoo.links import LinkMode
    from zoo.plan.pull import PullPlan
    from zoo.selection import Selection
    from zoo.transfer.pull import PullResult
    from zoo.transfer.reuse import Provider


class Link(StrEnum):
    """How bytes that are on this disk are put in place."""

    auto = "auto"
    clone = "clone"
    hardlink = "hardlink"
    copy = "copy"


def pull(
    entry: EntryArgument,
    reuse: Annotated[
        bool, typer.Option("--reuse", help="Take bytes from other installed models and builds on this disk.")
    ] = False,
    from_: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="DIR", help="Take bytes from any files below DIR (repeatable)."),
    ] = None,
    only: OnlyOption = None,
    without: WithoutOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything, also if it is installed in part.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, max=32, help="Files at once.")] = 4,
    link: Annotated[
        Link, typer.Option("--link", help="How bytes on this disk are put in place; auto takes the cheapest safe way.")
    ] = Link.auto,
    endpoint: EndpointOption = None,
    models: ModelsOption = None,
    build: BuildOption = None,
    zoo: ZooOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    quiet: QuietOption = False,
    format: FormatOption = OutputFormat.text,  # noqa: A002 - the option's name
) -> None:
    """Bring an entry to this disk: only the bytes that are not here, every one of them verified.

    Run it again to continue after an interruption, to update, or to repair what `zoo verify` complains about.

    \b
    Examples:
      zoo pull gemma4-e4b
      zoo pull gemma4-e4b-multimodal --reuse
      zoo pull gemma4-e4b-multimodal --without audio --dry-run
      zoo pull gemma4-e4b --from ~/Downloads/gemma4-e4b
    """
    from zoo.catalog import load_catalog
    from zoo.locations import models_directory, zoo_directory
    from zoo.transfer.prepare import published_lock
    from zoo.transfer.remote import resolve_endpoint

    selection = _selection(only, without, everything)
    address = resolve_endpoint(endpoint)
    catalog = load_catalog(zoo_directory(zoo))
    found = catalog.get(entry)
    published_lock(found)
    place = models_directory(models)
    folder = place / found.manifest.folder
    _run(
        _Order(catalog, found, folder, selection, _providers(reuse, from_, place, build, folder)),
        _How(address, link.value, jobs, dry_run=dry_run, yes=yes, quiet=quiet, text=format is OutputFormat.text),
    )


@dataclass(frozen=True)
class _Order:
    """What is wanted, and where."""

    catalog: Catalog
    entry: Entry
    folder: Path
    selection: Selection | None
    providers: list[Provider]


@dataclass(frozen=True)
class _How:
    """The options that say how."""

    endpoint: str
    link: LinkMode
    jobs: int
    dry_run: bool
    yes: bool
    quiet: bool
    text: bool


def _run(order: _Order, how: _How) -> None:
    """Plan under the folder's lock, show the plan, carry it out, show what was done."""
    import contextlib

    from zoo.digests import DigestCache
    from zoo.folder import folder_lock
    from zoo.plan.pull import plan_json
    from zoo.report.progress import progress_display
    from zoo.report.pull import dry_run_text, plan_text, result_text
    from zoo.transfer.prepare import prepare_pull
    from zoo.transfer.pull import recover_staging

    folder = order.folder
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(DigestCache.default())
        if not how.dry_run:
            stack.enter_context(folder_lock(folder, doing=f"zoo pull {order.entry.id}", on_wait=say))
            recover_staging(folder, cache)
        with progress_display("Looking", unit="bytes", quiet=how.quiet) as progress:
            prepared = prepare_pull(
                order.catalog,
                order.entry,
                folder,
                selection=order.selection,
                providers=order.providers,
                cache=cache,
                progress=progress,
            )
        plan = prepared.plan
        for remark in prepared.remarks:
            say(f"note: {remark}")
        if how.text:
            print_report(plan_text(plan, str(folder)))
        if how.dry_run:
            print_report(dry_run_text(plan)) if how.text else print_json({"plan": plan_json(plan, str(folder))})
            return
        _ask(plan, yes=how.yes)
        result = _carry_out(plan, folder, how, cache)
    if how.text:
        print_report(result_text(plan, result))
    else:
        print_json({"plan": plan_json(plan, str(folder)), "result": result.as_json()})


def _carry_out(plan: PullPlan, folder: Path, how: _How, cache: DigestCache) -> PullResult:
    import contextlib

    from zoo.report.progress import progress_display
    from zoo.transfer.http import HttpFetcher
    from zoo.transfer.pull import carry_out
    from zoo.transfer.remote import hub_token

    fetcher = HttpFetcher(how.endpoint, token=hub_token() if plan.fetches else None)
    with contextlib.closing(fetcher), progress_display("Fetching", unit="bytes", quiet=how.quiet) as progress:
        return carry_out(
            plan,
            folder,
            fetcher=fetcher,
            stop=fetcher.stop,
            cache=cache,
            progress=progress,
            link=how.link,
            jobs=how.jobs,
        )


def _selection(only: list[str] | None, without: list[str] | None, everything: bool) -> Selection | None:
    """What was chosen; None if nothing was said, which keeps what is installed."""
    from zoo.selection import Selection

    chosen = Selection(names(only), names(without))
    if everything and not chosen.everything:
        raise UsageError("--all does not go together with --only and --without")
    return chosen if everything or not chosen.everything else None


def _providers(
    reuse: bool, from_: list[Path] | None, models: Path, build: Path | None, folder: Path
) -> list[Provider]:
    """Where else to look for bytes; the cheapest to prove come first."""
    from zoo.locations import build_directory
    from zoo.transfer.reuse import any_folder, installed_folders, local_builds

    providers: list[Provider] = []
    if reuse:
        providers += [installed_folders(models, but=folder), local_builds(build_directory(build))]
    return providers + [any_folder(directory) for directory in from_ or ()]


def _ask(plan: PullPlan, *, yes: bool) -> None:
    """Have it confirmed that something goes away."""
    import sys

    from zoo.report.text import plural

    if yes or not plan.needs_consent:
        return
    what = " and ".join(
        text
        for count, text in (
            (len(plan.deletes), f"delete {plural(len(plan.deletes), 'file')}"),
            (len(plan.replaces), f"replace {plural(len(plan.replaces), 'file')} that zoo did not install"),
        )
        if count
    )
    if not sys.stdin.isatty():
        raise UsageError(f"this would {what}", hint="add --yes to agree, or --dry-run to see the plan")
    if not typer.confirm(f"{what[0].upper()}{what[1:]}?", err=True):
        raise UsageError("nothing was changed")
