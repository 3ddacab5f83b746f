"""`zoo compile`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.options import DryRunOption, FormatOption, OutputFormat, QuietOption
from zoo.cli.output import print_json, print_report, say

if TYPE_CHECKING:
    from zoo.lock import Lock

DEFAULT_JOBS = 2
"""The compiler itself uses several threads; two at once fill the gaps between them."""


def compile(  # noqa: A001 - the command's name
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A build: a bundle of packages with its lock beside it.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where compiled bundles lie; then `zoo push --build DIR`.")
    ] = Path("compiled"),
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, max=32, help="Packages at once.")] = DEFAULT_JOBS,
    force: Annotated[bool, typer.Option("--force", help="Compile again what was compiled before.")] = False,
    dry_run: DryRunOption = False,
    format: FormatOption = OutputFormat.text,  # noqa: A002 - the option's name
    quiet: QuietOption = False,
) -> None:
    """Compile the packages of a build to .mlmodelc, on a Mac with Xcode.

    The build is checked against its lock first. Each package is compiled once, also when several bundles have it.
    The compiled bundle lies in its own folder with its own lock; everything but the models is linked, not copied.

    \b
    Examples:
      zoo compile build/gemma4-e4b
      zoo compile build/gemma4-e4b-multimodal --dry-run
      zoo push gemma4-e4b --build compiled
    """
    from zoo.build.cache import StepCache
    from zoo.compile.compiler import HINT, compiler_version
    from zoo.compile.run import carry_out, check_source, make_plan, plan_json
    from zoo.digests import DigestCache
    from zoo.locations import cache_directory
    from zoo.report.compile import plan_text, result_text
    from zoo.report.progress import progress_display

    lock = _lock_beside(folder)
    version = compiler_version()
    with DigestCache.default() as digests:
        cache = StepCache(cache_directory() / "compiled", digests)
        plan = make_plan(lock, version, cache, force=force)
        if dry_run:
            if format is OutputFormat.json:
                print_json(plan_json(plan))
            else:
                print_report(plan_text(plan))
                if version is None:
                    say(HINT)
            return
        with progress_display("Checking the build", unit="bytes", quiet=quiet) as progress:
            check_source(folder, lock, digests, progress)
        total = sum(package.size for package in plan.to_compile)
        with progress_display("Compiling", unit="bytes", total=total, quiet=quiet) as progress:
            result = carry_out(plan, folder, out, cache, jobs=jobs, progress=progress)
    if format is OutputFormat.json:
        print_json(result.to_json())
    else:
        print_report(result_text(result))


def _lock_beside(folder: Path) -> Lock:
    from zoo.errors import InvalidDocument
    from zoo.lock import load_lock, lock_path

    place = folder.absolute()
    path = lock_path(place.parent, place.name)
    if not place.is_dir() or not path.is_file():
        raise InvalidDocument(
            f"{folder}: not a build: it must be a folder with {place.name}.lock.json beside it",
            hint="zoo build ENTRY makes build/ENTRY",
        )
    lock = load_lock(path)
    if lock.entry != place.name:
        raise InvalidDocument(f"{path}: entry: expected {place.name!r}, found {lock.entry!r}")
    return lock
