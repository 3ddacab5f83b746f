"""`zoo prune`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.consent import agree
from zoo.cli.options import (
    DryRunOption,
    FolderOption,
    FormatOption,
    ModelsOption,
    OutputFormat,
    YesOption,
    ZooOption,
    names,
)
from zoo.cli.output import print_json, print_report, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo.plan.prune import PrunePlan


def prune(
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="PATTERN", help="Leave paths like this, e.g. 'notes/*' (repeatable, or a,b)."),
    ] = None,
    partials: Annotated[
        bool, typer.Option("--partials", help="Interrupted fetches too, even if a pull could continue them.")
    ] = False,
    cache: Annotated[bool, typer.Option("--cache", help="What killed builds left in the step cache, too.")] = False,
    folder: FolderOption = None,
    models: ModelsOption = None,
    zoo: ZooOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    format: FormatOption = OutputFormat.text,  # noqa: A002 - the option's name
) -> None:
    """Delete what nobody needs: files no entry owns, fetches nobody continues, leftovers of dead processes.

    Shows all of it, and asks. What an installed entry owns never goes.

    \b
    Examples:
      zoo prune --dry-run
      zoo prune --keep 'notes/*' --yes
      zoo prune --partials --cache
    """
    from zoo.plan.prune import prune_plan_json
    from zoo.report.deletions import gone_text, prune_text

    text = format is OutputFormat.text
    with ExitStack() as stack:
        jobs = _in_folders(stack, folder, models, zoo, names(keep), partials=partials, dry_run=dry_run)
        if cache:
            jobs.append(_in_cache(stack))
        if text or not (yes or dry_run):
            # Nobody is asked about what they were not shown, not even beside a report for programs.
            tell = print_report if text else say
            for job in jobs:
                if job.plan.actions:
                    tell(prune_text(job.plan, str(job.place), job.freed))
        deletes = [action for job in jobs for action in job.plan.deletes]
        freed = sum(job.freed for job in jobs)
        gone = 0
        if not dry_run and deletes:
            agree(_order(len(deletes), sum(action.size for action in deletes)), yes=yes)
            gone = sum(len(job.carry_out(job.plan)) for job in jobs if job.plan.deletes)
    if not text:
        plans = [prune_plan_json(job.plan, str(job.place)) | {"freed_bytes": job.freed} for job in jobs]
        result: dict[str, Any] = {} if dry_run else {"result": {"deleted": gone, "freed_bytes": freed}}
        print_json({"plan": plans, **result})
    elif not deletes:
        print_report("nothing to delete")
    else:
        print_report(gone_text(len(deletes) if dry_run else gone, freed, dry_run=dry_run))


@dataclass(frozen=True)
class _Job:
    """What goes in one place, and who deletes it."""

    place: Path
    plan: PrunePlan
    freed: int
    carry_out: Callable[[PrunePlan], list[str]]


def _in_folders(
    stack: ExitStack,
    folder: Path | None,
    models: Path | None,
    zoo: Path | None,
    keep: tuple[str, ...],
    *,
    partials: bool,
    dry_run: bool,
) -> list[_Job]:
    from functools import partial

    from zoo.cli.installed import usable_catalog
    from zoo.errors import CheckFailed
    from zoo.folder import folder_lock
    from zoo.locations import models_directory
    from zoo.paths import STATE_DIRECTORY
    from zoo.transfer.prune import carry_out_prune, folders_with_state, prepare_prune
    from zoo.transfer.remove import freed_bytes

    if folder is not None and not (folder / STATE_DIRECTORY).is_dir():
        raise CheckFailed(f"{folder}: zoo has never worked there", hint="name a folder that something is installed in")
    places = [folder] if folder is not None else folders_with_state(models_directory(models))
    catalog = usable_catalog(zoo) if places else None
    jobs = []
    for place in places:
        if not dry_run:
            stack.enter_context(folder_lock(place, doing="zoo prune", on_wait=say))
        plan = prepare_prune(place, catalog, keep=keep, partials=partials)
        jobs.append(_Job(place, plan, freed_bytes(place, plan.deletes), partial(carry_out_prune, folder=place)))
    return jobs


def _in_cache(stack: ExitStack) -> _Job:
    from functools import partial

    from zoo.build.cache import StepCache
    from zoo.digests import DigestCache
    from zoo.locations import cache_directory
    from zoo.transfer.prune import carry_out_cache_prune, prepare_cache_prune

    steps = StepCache(cache_directory() / "steps", stack.enter_context(DigestCache.default()))
    plan = prepare_cache_prune(steps)
    return _Job(steps.directory, plan, plan.size, partial(carry_out_cache_prune, steps=steps))


def _order(count: int, size: int) -> str:
    from zoo.report.sizes import human_bytes
    from zoo.report.text import plural

    return f"delete {plural(count, 'file')} ({human_bytes(size)})"
