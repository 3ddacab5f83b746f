"""`zoo pull`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.consent import agree
from zoo.cli.fetching import How, fetch, providers
from zoo.cli.options import (
    BuildOption,
    DryRunOption,
    EndpointsOption,
    EntryArgument,
    FormatOption,
    FromOption,
    JobsOption,
    Link,
    LinkOption,
    ModelsOption,
    OnlyOption,
    OutputFormat,
    QuietOption,
    ReuseOption,
    WithoutOption,
    YesOption,
    ZooOption,
    names,
)
from zoo.cli.output import print_json, print_report, say
from zoo.errors import UsageError

if TYPE_CHECKING:
    from zoo.catalog import Catalog, Entry
    from zoo.plan.pull import PullPlan
    from zoo.selection import Selection
    from zoo.transfer.reuse import Provider


def pull(
    entry: EntryArgument,
    reuse: ReuseOption = False,
    from_: FromOption = None,
    only: OnlyOption = None,
    without: WithoutOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything, also if it is installed in part.")] = False,
    dest: Annotated[
        Path | None,
        typer.Option(
            "--dest",
            metavar="DIR",
            help="Install into exactly this folder.",
            show_default="the entry's under --models",
        ),
    ] = None,
    jobs: JobsOption = 4,
    link: LinkOption = Link.auto,
    endpoint: EndpointsOption = None,
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
      zoo pull gemma4-e4b --endpoint http://mirror.lan:8080,https://huggingface.co
    """
    from zoo.catalog import load_catalog
    from zoo.locations import models_directory, zoo_directory
    from zoo.transfer.prepare import published_lock
    from zoo.transfer.remote import resolve_endpoints

    selection = _selection(only, without, everything)
    endpoints = resolve_endpoints(names(endpoint))
    catalog = load_catalog(zoo_directory(zoo))
    found = catalog.get(entry)
    published_lock(found)
    place = models_directory(models)
    folder = dest if dest is not None else place / found.manifest.folder
    text = format is OutputFormat.text
    _run(
        _Order(catalog, found, folder, selection, providers(reuse, from_, place, build, folder)),
        How(endpoints, link.value, jobs, dry_run=dry_run, yes=yes, quiet=quiet, text=text),
    )


@dataclass(frozen=True)
class _Order:
    """What is wanted, and where."""

    catalog: Catalog
    entry: Entry
    folder: Path
    selection: Selection | None
    providers: list[Provider]


def _run(order: _Order, how: How) -> None:
    """Plan under the folder's lock, show the plan, carry it out, show what was done."""
    import contextlib

    from zoo.digests import DigestCache
    from zoo.folder import folder_lock
    from zoo.plan.pull import plan_json
    from zoo.report.progress import progress_display
    from zoo.report.pull import dry_run_text, plan_text, result_text
    from zoo.transfer.prepare import prepare_pull, wanted_paths
    from zoo.transfer.pull import recover_staging
    from zoo.transfer.remove import finish_removal

    folder = order.folder
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(DigestCache.default())
        if not how.dry_run:
            stack.enter_context(folder_lock(folder, doing=f"zoo pull {order.entry.id}", on_wait=say))
            recover_staging(folder, cache)
            finish_removal(folder, spare=wanted_paths(order.catalog, order.entry, order.selection, folder))
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
        result = fetch(plan, folder, how, cache)
    if how.text:
        print_report(result_text(plan, result))
    else:
        print_json({"plan": plan_json(plan, str(folder)), "result": result.as_json()})


def _selection(only: list[str] | None, without: list[str] | None, everything: bool) -> Selection | None:
    """What was chosen; None if nothing was said, which keeps what is installed."""
    from zoo.selection import Selection

    chosen = Selection(names(only), names(without))
    if everything and not chosen.everything:
        raise UsageError("--all does not go together with --only and --without")
    return chosen if everything or not chosen.everything else None


def _ask(plan: PullPlan, *, yes: bool) -> None:
    """Have it confirmed that something goes away."""
    from zoo.plan.pull import FORBIDDEN_STRANGER
    from zoo.report.text import plural

    if not plan.needs_consent:
        return
    foreign = sum(delete.reason == FORBIDDEN_STRANGER for delete in plan.deletes)
    whose = " that zoo did not install" if foreign == len(plan.deletes) else f", {foreign} not installed by zoo,"
    what = " and ".join(
        text
        for count, text in (
            (len(plan.deletes), f"delete {plural(len(plan.deletes), 'file')}" + (whose if foreign else "")),
            (len(plan.replaces), f"replace {plural(len(plan.replaces), 'file')} that zoo did not install"),
        )
        if count
    )
    agree(what, yes=yes)
