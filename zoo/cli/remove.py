"""`zoo remove`."""

from __future__ import annotations

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
    complete_entry,
)
from zoo.cli.output import print_json, print_report, say

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from zoo.plan.remove import RemovePlan


def remove(
    entries: Annotated[
        list[str], typer.Argument(metavar="ENTRY...", help="Installed entries.", autocompletion=complete_entry)
    ],
    folder: FolderOption = None,
    models: ModelsOption = None,
    zoo: ZooOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    format: FormatOption = OutputFormat.text,  # noqa: A002 - the option's name
) -> None:
    """Remove installed entries from this disk: only the files that no other installed entry needs.

    Shows what goes, and asks. If it is interrupted, run it again.

    \b
    Examples:
      zoo remove gemma4-e4b-multimodal --dry-run
      zoo remove gemma4-e4b gemma4-e4b-multimodal --yes
    """
    from contextlib import ExitStack

    from zoo.report.deletions import gone_text
    from zoo.transfer.remove import carry_out_removal

    where = _where(entries, folder, models, zoo)
    text = format is OutputFormat.text
    with ExitStack() as stack:
        jobs = [_prepare(stack, entries, place, dry_run=dry_run) for place in where]
        if text or not (yes or dry_run):
            # Nobody is asked about what they were not shown, not even beside a report for programs.
            _show(jobs, print_report if text else say)
        count, freed = sum(len(job.plan.deletes) for job in jobs), sum(job.freed for job in jobs)
        if not dry_run:
            if count:
                agree(_order(jobs), yes=yes)
            for job in jobs:
                if job.plan.entries:
                    carry_out_removal(job.plan, job.folder)
    if not text:
        print_json(_report(jobs, dry_run=dry_run))
    elif jobs:
        print_report(gone_text(count, freed, dry_run=dry_run))


@dataclass(frozen=True)
class _Job:
    """What is to be done in one folder, and what an interrupted removal had left to do."""

    folder: Path
    plan: RemovePlan
    freed: int
    finished: list[str]


def _prepare(stack: ExitStack, entries: list[str], folder: Path, *, dry_run: bool) -> _Job:
    """Lock the folder for as long as `stack` lives, finish what was interrupted there, and plan."""
    from zoo.folder import folder_lock
    from zoo.plan.remove import plan_remove
    from zoo.transfer.remove import finish_removal, freed_bytes, removal_state

    finished: list[str] = []
    if not dry_run:
        stack.enter_context(folder_lock(folder, doing="zoo remove", on_wait=say))
        finished = finish_removal(folder)
    plan = plan_remove(entries, removal_state(folder))
    return _Job(folder, plan, freed_bytes(folder, plan.deletes), finished)


def _show(jobs: list[_Job], tell: Callable[[str], None]) -> None:
    from zoo.report.deletions import remove_text
    from zoo.report.text import plural

    for job in jobs:
        if job.finished:
            tell(f"{job.folder}: finished an interrupted removal: deleted {plural(len(job.finished), 'file')}")
        if job.plan.entries:
            tell(remove_text(job.plan, str(job.folder), job.freed))


def _report(jobs: list[_Job], *, dry_run: bool) -> dict[str, Any]:
    from zoo.plan.remove import remove_plan_json

    plans = [remove_plan_json(job.plan, str(job.folder)) | {"freed_bytes": job.freed} for job in jobs]
    if dry_run:
        return {"plan": plans}
    deleted = sum(len(job.plan.deletes) + len(job.finished) for job in jobs)
    return {"plan": plans, "result": {"deleted": deleted, "freed_bytes": sum(job.freed for job in jobs)}}


def _order(jobs: list[_Job]) -> str:
    from zoo.report.sizes import human_bytes
    from zoo.report.text import plural

    deletes = [action for job in jobs for action in job.plan.deletes]
    names = " and ".join(entry for job in jobs for entry in job.plan.entries)
    size = human_bytes(sum(action.size for action in deletes))
    return f"remove {names}: delete {plural(len(deletes), 'file')} ({size})"


def _where(entries: list[str], folder: Path | None, models: Path | None, zoo: Path | None) -> list[Path]:
    """The folders to work in, each once and in a fixed order, so that two removals never wait for each other."""
    from zoo.cli.installed import places_of
    from zoo.transfer.prune import folders_with_state
    from zoo.transfer.remove import pending_removals

    places = places_of(folder, models)
    around = [folder] if folder is not None else folders_with_state(places.root)
    known = {**places.entries, **pending_removals(around)}
    for entry in entries:
        if entry not in known:
            say(f"note: {places.missing(entry, zoo)}; nothing to do for it")
    return sorted({known[entry] for entry in entries if entry in known})
