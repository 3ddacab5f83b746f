"""The `zoo` command. Each command is a module of this package that parses, calls and renders; no logic here."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from zoo import __version__
from zoo.cli import (
    build,
    demo,
    diff,
    lock,
    ls,
    prune,
    pull,
    push,
    remove,
    repair,
    serve,
    shared,
    show,
    sideload,
    swift,
    verify,
)
from zoo.cli.output import print_error, say
from zoo.errors import INTERRUPTED_EXIT_CODE, DiskError, ZooError

app = typer.Typer(
    name="zoo",
    help="Build, checksum, publish and fetch Core ML bundles of large language models.",
    epilog="Start with `zoo ls`, or see everything work with `zoo demo`. Exit codes: docs/exit-codes.md.",
    no_args_is_help=True,
    # Rich help costs half of the start-up budget; errors are rendered by `main`.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("ls", ls.ls),
    ("show", show.show),
    ("diff", diff.diff),
    ("shared", shared.shared),
    ("build", build.build),
    ("lock", lock.lock),
    ("verify", verify.verify),
    ("push", push.push),
    ("pull", pull.pull),
    ("repair", repair.repair),
    ("remove", remove.remove),
    ("prune", prune.prune),
    ("sideload", sideload.sideload),
    ("swift", swift.swift),
    ("serve", serve.serve),
    ("demo", demo.demo),
)
for _name, _function in COMMANDS:
    app.command(_name)(_function)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"zoo {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Show the version."),
) -> None:
    del version


def main() -> None:
    """Run the command line and turn every error a person can cause into one line and an exit code."""
    try:
        app()
    except ZooError as error:
        if os.environ.get("ZOO_TRACEBACK"):
            raise
        print_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("interrupted; what was verified is kept, run the same command again")
        sys.exit(INTERRUPTED_EXIT_CODE)
    except BrokenPipeError:
        # The reader of our output went away (`zoo ls | head`); close quietly, as other tools do.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO):
            raise
        print_error(DiskError(f"{error.filename or 'disk'}: {error.strerror}"))
        sys.exit(DiskError.exit_code)


if __name__ == "__main__":
    main()
