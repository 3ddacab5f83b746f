"""`zoo check`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.options import ZooOption, complete_entry, names
from zoo.cli.output import print_json, print_report
from zoo.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from zoo.catalog import Entry


class CheckFormat(StrEnum):
    """How findings are written to standard output."""

    text = "text"
    json = "json"
    sarif = "sarif"


def check(
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="A bundle: a build, or a folder of installed models.")
    ] = None,
    entry: Annotated[
        list[str] | None,
        typer.Option(
            "--entry",
            metavar="ENTRY",
            autocompletion=complete_entry,
            help="What the folder is meant to hold: also name files that are not part of it and change what the app"
            " does (repeatable, or a,b).",
            show_default="what its receipt, or the lock beside it, says",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings, too.")] = False,
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="RULE", help="Leave a rule or a group of rules out (repeatable, or a,b)."),
    ] = None,
    list_rules: Annotated[
        bool, typer.Option("--rules", "--list-rules", help="Explain every rule instead of checking.")
    ] = False,
    zoo: ZooOption = None,
    format: Annotated[  # noqa: A002 - the option's name
        CheckFormat, typer.Option("--format", help="Report as text for people, or as JSON or SARIF for programs.")
    ] = CheckFormat.text,
) -> None:
    """Check a bundle without running it; exit with 1 if it has errors.

    Reads the models' programs, the tables and the configuration, and looks for what does not fit together, for what
    the app would do differently than intended, and for patterns that are known to fail on a device. Needs neither the
    checkpoint nor a Mac. Every finding says how to mend it.

    \b
    Examples:
      zoo check build/gemma4-e4b-multimodal
      zoo check build/gemma4-e4b --strict --ignore device.compile-budget
      zoo check build/gemma4-e4b --format sarif > check.sarif
      zoo check --rules
    """
    from zoo.check import check_folder, rules
    from zoo.report.check import check_json, check_sarif, check_summary, check_text, rules_json, rules_text

    if list_rules:
        if folder is not None or format is CheckFormat.sarif:
            raise UsageError("--rules takes no FOLDER, and text or json as --format")
        if format is CheckFormat.json:
            print_json(rules_json(rules()))
        else:
            print_report(rules_text(rules()))
        return
    if folder is None:
        raise UsageError("which folder?", hint="zoo check build/gemma4-e4b, or zoo check --rules")
    report = check_folder(folder, _entries(folder, names(entry), zoo), ignore=names(ignore))
    if format is CheckFormat.sarif:
        print_json(check_sarif(report, rules()))
    elif format is CheckFormat.json:
        print_json(check_json(report))
    else:
        print_report(check_text(report))
    failing = ("error", "warning") if strict else ("error",)
    if any(finding.severity in failing for finding in report.findings):
        raise CheckFailed(f"{folder}: {check_summary(report.findings)}")


def _entries(folder: Path, given: tuple[str, ...], zoo: Path | None) -> tuple[Entry, ...]:
    from zoo.catalog import load_catalog
    from zoo.check import known_entries
    from zoo.cli.installed import usable_catalog
    from zoo.locations import zoo_directory

    if given:
        catalog = load_catalog(zoo_directory(zoo))
        return tuple(catalog.get(name) for name in given)
    usable = usable_catalog(zoo)
    return known_entries(folder, usable) if usable is not None else ()
