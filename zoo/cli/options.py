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
EntryArgument = Annotated[str, typer.Argument(metavar="ENTRY", help="An entry of the zoo, see `zoo ls`.")]


def names(given: list[str] | None) -> tuple[str, ...]:
    """Repeated and comma-separated values of one option, in order."""
    return tuple(word for value in given or () for word in value.split(",") if word)
