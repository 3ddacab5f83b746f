"""`zoo lock`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.options import (
    DryRunOption,
    EndpointOption,
    EntryArgument,
    FormatOption,
    OutputFormat,
    QuietOption,
    ZooOption,
)
from zoo.cli.output import print_json, print_report

if TYPE_CHECKING:
    from zoo.catalog import Entry
    from zoo.events import Progress
    from zoo.transfer.locking import Locked


def lock(
    entry: EntryArgument,
    folder: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Lock the bundle in this folder, or in this FILE.zip."),
    ] = None,
    from_hub: Annotated[bool, typer.Option("--from-hub", help="Lock what the entry's repo or archive has.")] = False,
    revision: Annotated[
        str | None,
        typer.Option(metavar="REV", help="Branch, tag or commit for --from-hub.", show_default="the manifest's"),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 1 if the lock does not fit.")
    ] = False,
    ignore_extra: Annotated[
        bool, typer.Option("--ignore-extra", help="Leave out files that no component owns.")
    ] = False,
    dry_run: DryRunOption = False,
    endpoint: EndpointOption = None,
    format: FormatOption = OutputFormat.text,  # noqa: A002 - the option's name
    quiet: QuietOption = False,
    zoo: ZooOption = None,
) -> None:
    """Write the lock of an entry: which files it consists of, with sizes and digests.

    The bytes are those of a folder (every file is read once), or those of the entry's repo (sizes and digests come
    from the Hub's listing; only its small files are downloaded). The lock pins a commit, never a branch. An entry that
    is published as one zip file has it downloaded once; its lock pins the file and each member.

    \b
    Examples:
      zoo lock gemma4-e4b --from ./build/gemma4-e4b
      zoo lock gemma4-e4b --from-hub
      zoo lock qwen2.5-0.5b --from-hub
      zoo lock qwen2.5-0.5b --from ~/Downloads/qwen2.5-0.5b-coreml.zip
      zoo lock gemma4-e4b --check
      zoo lock gemma4-e4b --from-hub --check
    """
    from zoo.catalog import load_catalog
    from zoo.errors import UsageError
    from zoo.locations import zoo_directory
    from zoo.plan.lock import check_lock, difference
    from zoo.report.locking import lock_json, lock_text
    from zoo.report.progress import progress_display

    if folder is not None and from_hub:
        raise UsageError("give --from DIR or --from-hub, not both")
    if revision is not None and not from_hub:
        raise UsageError("--revision is for --from-hub")
    found = load_catalog(zoo_directory(zoo)).get(entry)
    old = found.lock
    fresh: Locked | None = None
    if folder is not None or from_hub:
        with progress_display("Locking", unit="bytes", quiet=quiet) as progress:
            fresh = _fresh(found, folder, revision, endpoint, progress, ignore_extra=ignore_extra)
    elif not check:
        raise UsageError(
            "say what to lock: --from DIR, or --from-hub", hint="--check alone looks at the lock as it is"
        )
    if check:
        check_lock(found, old, fresh.lock if fresh is not None else None)
        if format is OutputFormat.json:
            print_json({"entry": found.id, "lock": str(found.lock_file), "current": True})
        else:
            print_report(f"{found.lock_file}: current")
        return
    assert fresh is not None
    changed = _save(found, fresh, dry_run=dry_run)
    changes = difference(old, fresh.lock)
    if format is OutputFormat.json:
        print_json(lock_json(found, fresh, changes, changed=changed, dry_run=dry_run))
    else:
        print_report(lock_text(found, fresh, changes, changed=changed, dry_run=dry_run))


def _fresh(
    entry: Entry,
    folder: Path | None,
    revision: str | None,
    endpoint: str | None,
    progress: Progress,
    *,
    ignore_extra: bool,
) -> Locked:
    from zoo.digests import DigestCache
    from zoo.errors import UsageError
    from zoo.locations import archive_directory
    from zoo.transfer.archive_lock import lock_archive_file, lock_published_archive
    from zoo.transfer.locking import lock_folder

    if folder is None and entry.manifest.archive is not None:
        if revision is not None or endpoint is not None:
            raise UsageError(
                f"{entry.id} is published as an archive, which has no revisions and is on no Hub",
                hint="leave out --revision and --endpoint; ZOO_ARCHIVE_MIRROR names another place for archives",
            )
        return lock_published_archive(entry, archive_directory(), progress)
    if folder is None:
        from zoo.transfer.hub import HubClient
        from zoo.transfer.locking import lock_repo

        return lock_repo(HubClient(endpoint, progress=progress), entry, revision)
    with DigestCache.default() as cache:
        if folder.is_file():
            return lock_archive_file(entry, folder, cache=cache, progress=progress)
        return lock_folder(entry, folder, cache=cache, progress=progress, ignore_extra=ignore_extra)


def _save(entry: Entry, fresh: Locked, *, dry_run: bool) -> bool:
    """Write the lock, or say whether it would change."""
    from zoo.lock import dump_lock, save_lock

    if not dry_run:
        return save_lock(entry.lock_file, fresh.lock)
    return not entry.lock_file.is_file() or entry.lock_file.read_bytes() != dump_lock(fresh.lock)
