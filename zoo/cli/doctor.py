"""`zoo doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.options import (
    BuildOption,
    FormatOption,
    ModelsOption,
    OutputFormat,
    QuietOption,
    ZooOption,
    complete_entry,
)
from zoo.cli.output import print_json, print_report
from zoo.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from zoo.doctor.facts import Undertaking


def doctor(
    entry: Annotated[
        str | None,
        typer.Argument(
            metavar="[ENTRY]",
            autocompletion=complete_entry,
            help="The build in mind: also check its checkpoint, and the memory and disk it takes.",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", metavar="DIR", help="The Hugging Face checkpoint to build from.")
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Leave the trial conversion out.")] = False,
    build: BuildOption = None,
    models: ModelsOption = None,
    zoo: ZooOption = None,
    quiet: QuietOption = False,
    format: FormatOption = OutputFormat.text,  # noqa: A002 - the option's name
) -> None:
    """Check that this machine can build, before any weight is loaded; exit with 1 if something stands in the way.

    Looks at the installed libraries, converts, saves and runs a very small model, and looks at memory, disks, and on
    a Mac at Apple's compiler. Every finding says how to mend it.

    \b
    Examples:
      zoo doctor
      zoo doctor gemma4-e4b --checkpoint gemma-4-E4B-it
      zoo doctor --fast --format json
    """
    from zoo.doctor.gather import gather
    from zoo.doctor.rules import examine
    from zoo.locations import build_directory, cache_directory, models_directory
    from zoo.report.doctor import doctor_json, doctor_summary, doctor_text
    from zoo.report.progress import progress_display

    if checkpoint is not None and entry is None:
        raise UsageError("--checkpoint needs an ENTRY", hint="zoo doctor gemma4-e4b --checkpoint DIR")
    places = {
        "builds": (build_directory(build), "ZOO_BUILD"),
        "step cache": (cache_directory(), "ZOO_CACHE"),
        "installed models": (models_directory(models), "ZOO_MODELS"),
    }
    undertaking = _undertaking(entry, checkpoint, zoo) if entry is not None else None
    with progress_display("Trying a small conversion", unit="steps", quiet=quiet or fast) as progress:
        progress.start("trial", 1)
        facts = gather(places, trial=not fast, undertaking=undertaking)
        progress.advance("trial", 1)
        progress.finish("trial")
    findings = examine(facts)
    if format is OutputFormat.json:
        print_json(doctor_json(facts, findings))
    else:
        print_report(doctor_text(facts, findings))
    if any(finding.severity == "problem" for finding in findings):
        raise CheckFailed(f"doctor: {doctor_summary(findings)}")


def _undertaking(entry: str, checkpoint: Path | None, zoo: Path | None) -> Undertaking:
    from zoo.build.graph import make_graph
    from zoo.build.run import checkpoint_directory
    from zoo.catalog import load_catalog
    from zoo.doctor.undertaking import consider
    from zoo.locations import zoo_directory

    graph = make_graph(load_catalog(zoo_directory(zoo)), entry)
    return consider(graph, checkpoint_directory(graph.entry.manifest, checkpoint))
