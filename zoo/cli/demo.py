"""`zoo demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.output import print_report


def demo(
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where it all happens; cleared if an earlier demo made it.")
    ] = Path("demo"),
) -> None:
    """See everything work on this machine: build, push, pull, verify, repair, swift.

    Makes a small Gemma 4 checkpoint with random weights, and needs no account, no Mac and no internet. Takes
    a few minutes, most of them real Core ML conversion.

    \b
    Examples:
      zoo demo
      zoo demo /tmp/zoo-demo
    """
    from zoo.demo.scenario import run_demo
    from zoo.demo.summary import summary_text

    summary = run_demo(directory)
    print_report("\n" + summary_text(summary))
