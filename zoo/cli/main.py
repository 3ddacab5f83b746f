"""The `zoo` command. Each command is a module of this package that parses, calls and renders; no logic here."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

from zoo import __version__
from zoo.cli.output import print_error, say
from zoo.errors import INTERRUPTED_EXIT_CODE, DiskError, ZooError

COMMANDS: tuple[tuple[str, str], ...] = (
    ("ls", "List the entries of the zoo."),
    ("show", "Show what an entry consists of."),
    ("diff", "Compare entries, locks and folders, in bytes."),
    ("shared", "Show what is stored twice, and what sharing would save."),
    ("build", "Convert a checkpoint into a bundle."),
    ("synth", "Make a checkpoint of random weights, full size."),
    ("compile", "Compile a build's packages, on a Mac."),
    ("run", "Talk to a bundle, on any machine."),
    ("parity", "Prove that a bundle computes what its checkpoint does."),
    ("lock", "Write down which bytes an entry is."),
    ("verify", "Check that installed bytes are what their lock says."),
    ("check", "Check a bundle without running it."),
    ("push", "Publish a build, sending only what the Hub lacks."),
    ("pull", "Bring an entry to this disk, verified."),
    ("repair", "Bring back just the files that are wrong."),
    ("remove", "Remove entries, not what others need."),
    ("prune", "Delete what nobody needs."),
    ("sideload", "Copy a bundle into an app on a device."),
    ("swift", "Write the app's catalog: ZooCatalog.swift, catalog.json."),
    ("serve", "Serve a Hub from a folder."),
    ("doctor", "Check that this machine can build."),
    ("demo", "See everything work on this machine."),
)
"""Every command with what the overview says of it. The command `x` is the function `x` of the module `zoo.cli.x`."""

COMPLETING = "_ZOO_COMPLETE"
"""Set by the shell while it completes a command line."""


def command_function(name: str) -> Callable[..., Any]:
    """The function behind a command."""
    function: Callable[..., Any] = getattr(importlib.import_module(f"zoo.cli.{name}"), name)
    return function


def make_app(arguments: Sequence[str], *, every: bool = False) -> typer.Typer:
    """The command line as far as `arguments` need it.

    Declaring a command costs Typer several milliseconds, so just the one that is called is declared in full; the
    others are names in the overview.

    Args:
        arguments: what follows `zoo`.
        every: declare all commands in full, for completion and for tests.
    """
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
    app.callback()(_global_options)
    # The options before a command take no values, so the first other word is the command.
    called = next((word for word in arguments if not word.startswith("-")), None)
    for name, summary in COMMANDS:
        if every or name == called:
            app.command(name, short_help=summary)(command_function(name))
        else:
            app.command(name, short_help=summary)(_not_called)
    return app


def _not_called() -> None:
    raise AssertionError("the command that is called is declared in full")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"zoo {__version__}")
        raise typer.Exit


def _global_options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Show the version."),
) -> None:
    del version


def main() -> None:
    """Run the command line and turn every error a person can cause into one line and an exit code."""
    try:
        make_app(sys.argv[1:], every=COMPLETING in os.environ)()
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
