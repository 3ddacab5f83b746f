"""Options that several commands take, declared once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class OutputFormat(StrEnum):
    """How a report is written to standard output."""

    text = "text"
    json = "json"


class Link(StrEnum):
    """How bytes that are on this disk are put in place."""

    auto = "auto"
    clone = "clone"
    hardlink = "hardlink"
    copy = "copy"


ZooOption = Annotated[
    Path | None,
    typer.Option(
        "--zoo", metavar="DIR", help="Zoo directory: manifests and locks.", show_default="ZOO_DIR or ./manifests"
    ),
]
ModelsOption = Annotated[
    Path | None,
    typer.Option(
        "--models", metavar="DIR", help="Where models are installed.", show_default="ZOO_MODELS or user data"
    ),
]
BuildOption = Annotated[
    Path | None,
    typer.Option("--build", metavar="DIR", help="Where builds lie.", show_default="ZOO_BUILD or ./build"),
]
FormatOption = Annotated[
    OutputFormat, typer.Option("--format", help="Report as text for people or JSON for programs.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", "-n", help="Show the plan and change nothing.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting.")]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="NAME", help="Just this modality or component (repeatable, or a,b)."),
]
WithoutOption = Annotated[
    list[str] | None,
    typer.Option("--without", metavar="NAME", help="Leave out this modality or component (repeatable, or a,b)."),
]
EndpointOption = Annotated[
    str | None,
    typer.Option("--endpoint", metavar="URL", help="Hub to talk to.", show_default="HF_ENDPOINT or the public Hub"),
]
EndpointsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--endpoint",
        metavar="URL",
        help="Hub to talk to; more are mirrors, tried in order (repeatable, or a,b).",
        show_default="HF_ENDPOINT or the public Hub",
    ),
]
FolderOption = Annotated[
    Path | None,
    typer.Option("--folder", metavar="DIR", help="This folder instead of the installed models."),
]
LinkOption = Annotated[
    Link, typer.Option("--link", help="How bytes on this disk are put in place; auto takes the cheapest safe way.")
]
JobsOption = Annotated[
    int, typer.Option("--jobs", "-j", min=1, max=32, help="Connections: files at once, or parts of a large one.")
]
ReuseOption = Annotated[
    bool,
    typer.Option(
        "--reuse", help="Take bytes from other installed models, builds and the Hugging Face cache on this disk."
    ),
]
FromOption = Annotated[
    list[Path] | None,
    typer.Option("--from", metavar="DIR", help="Take bytes from files below DIR, or from FILE.zip (repeatable)."),
]


def complete_entry(incomplete: str) -> list[str]:
    """Ids that start with what was typed, by file name alone: completion must be quick and never fail."""
    from zoo.locations import zoo_directory

    return sorted(file.stem for file in zoo_directory().glob("*.toml") if file.stem.startswith(incomplete))


EntryArgument = Annotated[
    str,
    typer.Argument(metavar="ENTRY", help="An entry of the zoo, see `zoo ls`.", autocompletion=complete_entry),
]


def names(given: list[str] | None) -> tuple[str, ...]:
    """Repeated and comma-separated values of one option, in order."""
    return tuple(word for value in given or () for word in value.split(",") if word)
