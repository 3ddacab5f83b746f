"""`zoo sideload`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.options import FormatOption, ModelsOption, OutputFormat, QuietOption, ZooOption
from zoo.cli.output import print_json, print_report, say
from zoo.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from zoo.lock import Lock
    from zoo.plan.device_commands import Target
    from zoo.plan.sideload import Copied, SideloadPlan
    from zoo.transfer.sideload import Bundle

DEFAULT_APP = "com.example.CoreMLLLMChat"
"""Bundle identifier of the public chat app that the bundles are made for."""


@dataclass(frozen=True)
class _How:
    """The options that say how."""

    run: bool
    listing: Path | None
    trust_size: bool
    everything: bool
    allow_orphans: bool
    quiet: bool
    text: bool


def sideload(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="An installed folder, or its name; or a build with its lock.")
    ],
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="ID", help="Identifier, UDID or name of the device; never guessed."),
    ] = None,
    app: Annotated[str, typer.Option("--app", metavar="BUNDLE_ID", help="The app on it.")] = DEFAULT_APP,
    name: Annotated[
        str | None,
        typer.Option("--as", metavar="NAME", help="Folder on the device.", show_default="the manifest's"),
    ] = None,
    lock: Annotated[
        Path | None, typer.Option("--lock", metavar="FILE", help="The lock of FOLDER, if it has no receipt.")
    ] = None,
    run: Annotated[bool, typer.Option("--run", help="Copy, then list again and compare.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Print the commands only; the default.")] = False,
    trust_size: Annotated[
        bool, typer.Option("--trust-size", help="Keep what has the right size on the device, unproven.")
    ] = False,
    everything: Annotated[bool, typer.Option("--full", help="Copy every file, whatever is there.")] = False,
    allow_orphans: Annotated[
        bool, typer.Option("--allow-orphans", help="Copy although files that are not of the bundle stay there.")
    ] = False,
    listing: Annotated[
        Path | None,
        typer.Option("--listing", metavar="FILE", help="Plan from a saved listing of the device, without Xcode."),
    ] = None,
    models: ModelsOption = None,
    zoo: ZooOption = None,
    quiet: QuietOption = False,
    format: FormatOption = OutputFormat.text,  # noqa: A002 - the option's name
) -> None:
    """Copy a bundle into an app on an iPhone or iPad, with Xcode's devicectl.

    Prints what would be copied and the commands; --run copies. Nothing on the device is ever deleted or emptied.

    \b
    Examples:
      zoo sideload gemma4-e4b --device 00008140-0012345678901234
      zoo sideload gemma4-e4b --device "Ada's iPhone" --run
      zoo sideload build/gemma4-e4b --device ID --app com.example.Chat --run
    """
    _check_options(run=run, dry_run=dry_run, listing=listing, trust_size=trust_size, everything=everything)
    place = _folder(folder, models)
    how = _How(run, listing, trust_size, everything, allow_orphans, quiet, format is OutputFormat.text)
    _sideload(place, lock, _Names(device, app, name, zoo), how)


@dataclass(frozen=True)
class _Names:
    """What the command line says about where to."""

    device: str | None
    app: str
    folder: str | None
    zoo: Path | None


def _check_options(*, run: bool, dry_run: bool, listing: Path | None, trust_size: bool, everything: bool) -> None:
    if run and dry_run:
        raise UsageError("--run and --dry-run do not go together")
    if run and listing is not None:
        raise UsageError("--run needs the device itself, not a saved listing", hint="leave out --listing")
    if trust_size and everything:
        raise UsageError("--trust-size and --full do not go together")


def _folder(given: Path, models: Path | None) -> Path:
    from zoo.locations import models_directory

    installed = models_directory(models) / given
    for place in (given, installed):
        if place.is_dir():
            return place
    raise UsageError(f"{given}: no such folder, neither here nor in {installed.parent}", hint="zoo pull ENTRY")


def _sideload(place: Path, lock_file: Path | None, names: _Names, how: _How) -> None:
    """Name the target, prove the folder, ask the device, plan, print; with --run copy and check."""
    import contextlib

    from zoo.locations import cache_directory
    from zoo.plan.device_commands import Target, check_target
    from zoo.plan.sideload import plan_json
    from zoo.report.sideload import commands_text, plan_text
    from zoo.transfer.sideload import device_lock, find_lock, ledger_path, load_ledger

    lock = find_lock(place, lock_file)
    folder = names.folder if names.folder is not None else _device_folder(place, lock, names.zoo)
    if names.device is not None:
        # A bad name is said before anything is asked or read.
        check_target(Target(names.device, names.app, folder))
    target = check_target(Target(_device(names.device, how), names.app, folder))
    bundle = _read(place, lock, quiet=how.quiet)
    absent = _absent(bundle.entries, names.zoo)
    ledger_file = ledger_path(cache_directory(), target)
    with contextlib.ExitStack() as stack:
        if how.run:
            stack.enter_context(device_lock(cache_directory(), target))
        ledger = load_ledger(ledger_file, target)
        plan = _plan(bundle, target, ledger, how, absent)
        if how.text:
            print_report(plan_text(plan))
        if not how.run:
            print_report(commands_text(plan)) if how.text else print_json({"plan": plan_json(plan)})
            return
        _refuse_orphans(plan, how)
        _run(plan, ledger_file, ledger, how)


def _device_folder(place: Path, lock: Lock | None, zoo: Path | None) -> str:
    """The folder that the manifest of the entry names; an installed folder already has that name."""
    from zoo.catalog import load_catalog
    from zoo.errors import ZooError
    from zoo.locations import zoo_directory

    if lock is None:
        return place.resolve().name
    try:
        return load_catalog(zoo_directory(zoo)).get(lock.entry).manifest.folder
    except ZooError as error:
        raise UsageError(
            f"which folder on the device is {lock.entry} for? {error.message}", hint="say it: --as NAME"
        ) from None


def _device(given: str | None, how: _How) -> str:
    """The identifier of the device that was named."""
    from zoo.transfer.device import choose_device, list_devices

    if how.listing is not None:
        if given is None:
            raise UsageError("--listing needs --device ID: the commands must name the device")
        return given
    return choose_device(list_devices(), given).identifier


def _read(place: Path, lock: Lock | None, *, quiet: bool) -> Bundle:
    from zoo.digests import DigestCache
    from zoo.report.progress import progress_display
    from zoo.report.sideload import names_text
    from zoo.report.text import plural
    from zoo.transfer.sideload import read_bundle

    with DigestCache.default() as cache, progress_display("Reading", unit="bytes", quiet=quiet) as progress:
        bundle = read_bundle(place, lock, cache=cache, progress=progress)
    if bundle.strangers:
        count = plural(len(bundle.strangers), "file")
        say(f"note: {count} here belong to no entry and are not copied: {names_text(bundle.strangers)}")
    return bundle


def _absent(entries: Iterable[str], zoo: Path | None) -> tuple[str, ...]:
    """What the manifests of the entries say must not lie beside them; a bundle can be copied without manifests."""
    from zoo.catalog import load_catalog
    from zoo.errors import ZooError
    from zoo.locations import zoo_directory
    from zoo.transfer.verify import absent_patterns

    try:
        catalog = load_catalog(zoo_directory(zoo))
    except ZooError as error:
        say(f"note: {error.message}; what must not be on the device is not known")
        return ()
    return tuple(pattern for entry in entries for pattern in absent_patterns(entry, catalog))


def _plan(
    bundle: Bundle, target: Target, ledger: Mapping[str, Copied], how: _How, absent: tuple[str, ...]
) -> SideloadPlan:
    from zoo.plan.sideload import SideloadRequest, plan_sideload
    from zoo.transfer.device import list_target, load_listing

    request = SideloadRequest(
        target=target,
        source=str(bundle.folder),
        entries=bundle.entries,
        files=bundle.files,
        whole_models=bundle.whole_models,
        trust_size=how.trust_size,
        everything=how.everything,
        absent=absent,
    )
    listing = load_listing(how.listing, target) if how.listing is not None else list_target(target)
    return plan_sideload(request, listing, ledger)


def _refuse_orphans(plan: SideloadPlan, how: _How) -> None:
    from zoo.plan.sideload import plan_json
    from zoo.report.sideload import names_text
    from zoo.report.text import plural

    if not plan.orphans or how.allow_orphans:
        return
    if not how.text:
        print_json({"plan": plan_json(plan)})
    count = len(plan.orphans)
    raise CheckFailed(
        f"{plural(count, 'file')} on the device {'is' if count == 1 else 'are'} not of the bundle and would stay:"
        f" {names_text(orphan.path for orphan in plan.orphans)}",
        hint="remove the app from the device and install it again (its documents go with it),"
        " or copy nevertheless with --allow-orphans",
    )


def _run(plan: SideloadPlan, ledger_file: Path, ledger: Mapping[str, Copied], how: _How) -> None:
    from zoo.plan.sideload import plan_json
    from zoo.report.progress import progress_display
    from zoo.report.sideload import printable, result_text
    from zoo.transfer.sideload import carry_out

    with progress_display("Copying", unit="bytes", quiet=how.quiet) as progress:
        result = carry_out(plan, ledger_file, ledger, progress=progress)
    if how.text:
        print_report(result_text(plan, result))
    else:
        misfits = [{"path": misfit.path, "problem": misfit.problem} for misfit in result.misfits]
        copied = sum(copy.size for copy in result.copied)
        print_json(
            {
                "plan": plan_json(plan),
                "result": {"good": not misfits, "copied_bytes": copied, "problems": misfits, "compared_by": "size"},
            }
        )
    if result.misfits:
        first = result.misfits[0]
        raise CheckFailed(
            f"{len(result.misfits)} of {len(plan.request.files)} files are not on the device as copied,"
            f" first {first.path}: {printable(first.problem)}",
            hint="run the same command again; if it stays so, look with the listing command that a dry run prints",
        )
