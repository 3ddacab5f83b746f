"""`zoo push`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.options import (
    BuildOption,
    DryRunOption,
    EndpointOption,
    EntryArgument,
    FormatOption,
    OutputFormat,
    QuietOption,
    YesOption,
    ZooOption,
    names,
)
from zoo.cli.output import print_json, print_report, say

if TYPE_CHECKING:
    from zoo.catalog import Catalog, Entry
    from zoo.lock import Lock
    from zoo.transfer.push import Prepared


def push(
    entry: EntryArgument,
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
    Files that a sibling repo has are copied by the Hub itself.

    \b
    Examples:
      zoo push gemma4-e4b --dry-run
      zoo push gemma4-e4b-multimodal
      zoo push gemma4-e4b --repo me/gemma-4-E4B-coreml --private
    """
    from zoo.catalog import load_catalog
    from zoo.digests import DigestCache
    from zoo.locations import build_directory, zoo_directory
    from zoo.report.progress import progress_display
    from zoo.report.push import push_json, push_text, pushed_text
    from zoo.transfer.hub import HubClient
    from zoo.transfer.push import PushOptions, execute, prepare

    catalog = load_catalog(zoo_directory(zoo))
    found = catalog.get(entry)
    lock = _built(build_directory(build), found)
    if not (dry_run or pr):
        _check_writable(catalog)
    hub = found.manifest.hub
    options = PushOptions(
        repo=repo or _repo_of(found),
        branch=branch or (hub.revision if hub is not None else "main"),
        pull_request=pr,
        private=True if private else None,
        delete=delete,
        overwrite_card=card,
        copy_from=names(copy_from),
        copy=not no_copy,
        message=message,
    )
    as_json = format is OutputFormat.json
    with progress_display("Looking", unit="bytes", quiet=quiet) as progress:
        client = HubClient(endpoint, progress=progress)
        prepared = prepare(client, catalog, found, lock, build_directory(build) / found.id, options)
    if not as_json:
        print_report(push_text(prepared, found.id))
    if dry_run:
        if as_json:
            print_json(push_json(prepared, found.id, None))
        return
    if not yes:
        _ask(prepared)
    with progress_display("Pushing", unit="bytes", quiet=quiet) as progress, DigestCache.default() as cache:
        client.progress = progress
        pushed = execute(client, prepared, entry=found, cache=cache, progress=progress)
    if as_json:
        print_json(push_json(prepared, found.id, pushed))
    else:
        print_report(pushed_text(pushed, prepared, str(found.lock_file)))


def _built(directory: object, entry: Entry) -> Lock:
    """The lock beside the build, if it is about this manifest."""
    from pathlib import Path

    from zoo.errors import CheckFailed, InvalidDocument
    from zoo.lock import load_lock, lock_path
    from zoo.manifest import manifest_digest

    assert isinstance(directory, Path)
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


def _ask(prepared: Prepared) -> None:
    """Deleting needs a yes."""
    import sys

    from zoo.errors import UsageError
    from zoo.plan.actions import totals
    from zoo.report.text import plural

    deletions = totals(prepared.plan.actions).get("delete")
    if deletions is None:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody to ask about the deletions", hint="give --yes")
    say(f"delete {plural(deletions.count, 'file')} from {prepared.plan.repo}?")
    typer.confirm("go on", abort=True, err=True)
