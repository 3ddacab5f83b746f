"""`zoo push`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.options import (
    BuildOption,
    DryRunOption,
    EndpointOption,
    FormatOption,
    OutputFormat,
    QuietOption,
    YesOption,
    ZooOption,
    complete_entry,
    names,
)
from zoo.cli.output import print_json, print_report, say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zoo.catalog import Catalog, Entry
    from zoo.lock import Lock
    from zoo.plan.push import PushPlan
    from zoo.transfer.hub import HubClient
    from zoo.transfer.push_family import Build, Done, FamilyMember


def push(
    entry: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ENTRY...",
            help="Entries of the zoo, see `zoo ls`; several are planned together.",
            autocompletion=complete_entry,
            show_default=False,
        ),
    ] = None,
    family: Annotated[
        str | None, typer.Option("--family", metavar="NAME", help="All published entries of a family, together.")
    ] = None,
    build: BuildOption = None,
    repo: Annotated[
        str | None, typer.Option(metavar="NS/NAME", help="Repo to publish to.", show_default="the manifest's")
    ] = None,
    branch: Annotated[
        str | None, typer.Option(metavar="NAME", help="Branch to publish on.", show_default="the manifest's")
    ] = None,
    pr: Annotated[bool, typer.Option("--pr", help="Open a pull request instead; the lock is not changed.")] = False,
    private: Annotated[bool, typer.Option("--private", help="If the repo is new, make it private.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Delete files of the repo that no lock knows.")] = False,
    card: Annotated[bool, typer.Option("--card", help="Replace a README or NOTICE written by hand.")] = False,
    copy_from: Annotated[
        list[str] | None,
        typer.Option("--copy-from", metavar="NS/NAME", help="Another repo that may have the bytes (repeatable)."),
    ] = None,
    no_copy: Annotated[bool, typer.Option("--no-copy", help="Upload what other repos have, too.")] = False,
    message: Annotated[str | None, typer.Option("--message", "-m", metavar="TEXT", help="Commit message.")] = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    endpoint: EndpointOption = None,
    format: FormatOption = OutputFormat.text,  # noqa: A002 - the option's name
    quiet: QuietOption = False,
    zoo: ZooOption = None,
) -> None:
    """Publish a build on the Hub, sending only bytes that the Hub does not have.

    Everything goes into one commit, which is read back and compared; then the entry's lock is pinned to it.
    Files that a sibling repo has are copied by the Hub itself. Several entries are planned together: what they share
    is sent once.

    \b
    Examples:
      zoo push gemma4-e4b --dry-run
      zoo push gemma4-e4b-multimodal
      zoo push --family gemma4-e4b
      zoo push gemma4-e4b --repo me/gemma-4-E4B-coreml --private
    """
    from zoo.catalog import load_catalog
    from zoo.errors import UsageError
    from zoo.locations import build_directory, zoo_directory
    from zoo.transfer.push_family import Build
    from zoo.transfer.push_look import PushOptions

    catalog = load_catalog(zoo_directory(zoo))
    chosen = _chosen(catalog, entry or [], family)
    if repo is not None and len(chosen) > 1:
        raise UsageError(f"--repo is one repo for {len(chosen)} entries", hint="push them one by one")
    directory = build_directory(build)
    locks = [_built(directory, found) for found in chosen]
    if not (dry_run or pr):
        _check_writable(catalog)
    asked = PushOptions(
        repo="",
        pull_request=pr,
        private=True if private else None,
        delete=delete,
        overwrite_card=card,
        copy_from=names(copy_from),
        copy=not no_copy,
        message=message,
    )
    builds = [
        Build(
            found,
            lock,
            directory / found.id,
            replace(asked, repo=repo or _repo_of(found), branch=branch or _branch_of(found)),
        )
        for found, lock in zip(chosen, locks, strict=True)
    ]
    how = _How(as_json=format is OutputFormat.json, dry_run=dry_run, yes=yes, quiet=quiet)
    if family is None and len(builds) == 1:
        _push_one(endpoint, catalog, builds[0], how)
    else:
        _push_together(endpoint, catalog, builds, how, family)


@dataclass(frozen=True)
class _How:
    """How the command is to behave, whatever is pushed."""

    as_json: bool
    dry_run: bool
    yes: bool
    quiet: bool


def _chosen(catalog: Catalog, entries: Sequence[str], family: str | None) -> list[Entry]:
    """The entries that were named, each once; of a family those that have a repo."""
    from zoo.errors import UsageError

    found = [catalog.get(name) for name in dict.fromkeys(entries)]
    if family is not None:
        for member in catalog.family(family):
            if member.manifest.hub is None:
                say(f"{member.id} is left out: it is not published anywhere")
            elif member.id not in entries:
                found.append(member)
    if not found:
        raise UsageError("nothing to push", hint="name an entry, or a family that is published with --family NAME")
    return found


def _push_one(endpoint: str | None, catalog: Catalog, build: Build, how: _How) -> None:
    from zoo.digests import DigestCache
    from zoo.report.progress import progress_display
    from zoo.report.push import push_json, push_text, pushed_text
    from zoo.transfer.hub import HubClient
    from zoo.transfer.push import execute
    from zoo.transfer.push_look import prepare

    found = build.entry
    with progress_display("Looking", unit="bytes", quiet=how.quiet) as progress:
        client = HubClient(endpoint, progress=progress)
        prepared = prepare(client, catalog, found, build.lock, build.folder, build.options)
    if not how.as_json:
        print_report(push_text(prepared, found.id))
    if how.dry_run:
        if how.as_json:
            print_json(push_json(prepared, found.id, None))
        return
    if not how.yes:
        _ask([prepared.plan])
    with progress_display("Pushing", unit="bytes", quiet=how.quiet) as progress, DigestCache.default() as cache:
        client.progress = progress
        pushed = execute(client, prepared, entry=found, cache=cache, progress=progress)
    if how.as_json:
        print_json(push_json(prepared, found.id, pushed))
    else:
        print_report(pushed_text(pushed, prepared, str(found.lock_file)))


def _push_together(
    endpoint: str | None, catalog: Catalog, builds: Sequence[Build], how: _How, name: str | None
) -> None:
    from zoo.errors import ZooError
    from zoo.report.progress import progress_display
    from zoo.report.push_family import family_json, family_text, interrupted_text
    from zoo.transfer.hub import HubClient
    from zoo.transfer.push_family import prepare_family

    with progress_display("Looking", unit="bytes", quiet=how.quiet) as progress:
        client = HubClient(endpoint, progress=progress)
        family = prepare_family(client, catalog, builds)
    if not how.as_json:
        print_report(family_text(family))
    if how.dry_run:
        if how.as_json:
            print_json(family_json(family, name=name))
        return
    if not how.yes:
        _ask([member.prepared.plan for member in family])
    done: list[Done] = []
    try:
        _carry_out(client, family, done, how)
    except BaseException as error:
        say(interrupted_text(family, done))
        if how.as_json and isinstance(error, ZooError):
            print_json(family_json(family, done, name=name, error=error))
        raise
    if how.as_json:
        print_json(family_json(family, done, name=name))


def _carry_out(client: HubClient, family: Sequence[FamilyMember], done: list[Done], how: _How) -> None:
    """Publish one entry after the other; `done` has those that are published, whatever happens."""
    from zoo.digests import DigestCache
    from zoo.report.progress import progress_display
    from zoo.report.push import pushed_text
    from zoo.transfer.push_family import check_builds, execute_next

    with DigestCache.default() as cache:
        with progress_display("Checking", unit="bytes", quiet=how.quiet) as progress:
            check_builds(family, cache=cache, progress=progress)
        for member in family:
            title = f"Pushing {member.entry.id}"
            with progress_display(title, unit="bytes", quiet=how.quiet) as progress:
                client.progress = progress
                done.append(execute_next(client, family, done, cache=cache, progress=progress))
            if not how.as_json:
                text = pushed_text(done[-1].pushed, done[-1].prepared, str(member.entry.lock_file))
                print_report(f"{member.entry.id}: {text}")


def _built(directory: Path, entry: Entry) -> Lock:
    """The lock beside the build, if it is about this manifest."""
    from zoo.errors import CheckFailed, InvalidDocument
    from zoo.lock import load_lock, lock_path
    from zoo.manifest import manifest_digest

    path = lock_path(directory, entry.id)
    if not path.is_file():
        raise InvalidDocument(
            f"{path}: there is no build of {entry.id} here",
            hint=f"run `zoo build {entry.id}` first, or say where builds lie with --build DIR",
        )
    lock = load_lock(path)
    if lock.entry != entry.id:
        raise InvalidDocument(f"{path}: entry: expected {entry.id!r}, found {lock.entry!r}")
    if lock.manifest != manifest_digest(entry.manifest):
        raise CheckFailed(
            f"{path}: the build was made from another version of the manifest",
            hint=f"run `zoo build {entry.id}` again",
        )
    return lock


def _repo_of(entry: Entry) -> str:
    from zoo.errors import UsageError

    if entry.manifest.hub is None:
        raise UsageError(f"{entry.id} is not published anywhere", hint="give a repo with --repo NS/NAME")
    return entry.manifest.hub.repo


def _branch_of(entry: Entry) -> str:
    return "main" if entry.manifest.hub is None else entry.manifest.hub.revision


def _check_writable(catalog: Catalog) -> None:
    """The lock is written last; find out first that it cannot be."""
    import os

    from zoo.errors import DiskError
    from zoo.locations import packaged_manifests

    packaged = packaged_manifests()
    inside_package = packaged.name == "_manifests" and catalog.directory.resolve() == packaged.resolve()
    if inside_package or not os.access(catalog.directory, os.W_OK):
        raise DiskError(
            f"{catalog.directory}: the lock could not be written here; nothing was sent",
            hint="copy the manifests to a folder of yours and give it with --zoo DIR",
        )


def _ask(plans: Sequence[PushPlan]) -> None:
    """Deleting needs a yes: one for everything."""
    import sys

    from zoo.errors import UsageError
    from zoo.plan.actions import totals
    from zoo.report.text import plural

    deletions = [
        f"{plural(total.count, 'file')} from {plan.repo} ({plan.branch})"
        for plan in plans
        if (total := totals(plan.actions).get("delete")) is not None
    ]
    if not deletions:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody to ask about the deletions", hint="give --yes")
    say(f"delete {', '.join(deletions)}?")
    typer.confirm("go on", abort=True, err=True)
