"""Tells what happens: numbered chapters, each command as a person would type it, then its own output."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from zoo.errors import CheckFailed
from zoo.report.sizes import human_seconds
from zoo.report.text import paint


@dataclass
class Narrator:
    """Prints chapters and runs commands.

    Attributes:
        chapters: how many there will be.
        environment: of every command.
        cwd: paths below it are shown relative to it.
    """

    chapters: int
    environment: dict[str, str]
    cwd: Path
    _chapter: int = field(default=0, init=False)

    def chapter(self, title: str) -> None:
        """Begin the next chapter."""
        self._chapter += 1
        heading = f"{self._chapter}/{self.chapters}  {title}"
        print(f"\n{paint(heading, 'bold')}\n{paint('─' * len(heading), 'dim')}", flush=True)

    def tell(self, text: str) -> None:
        """A sentence between commands."""
        print(text, flush=True)

    def move_to(self, environment: dict[str, str]) -> None:
        """From here on, commands run with these variables changed."""
        self.environment = self.environment | environment

    def zoo(self, *arguments: str, expect: int = 0) -> float:
        """Run a `zoo` command with its output on this terminal; return the seconds it took.

        Raises:
            CheckFailed: it ended with another exit code than `expect`.
        """
        return self.run([sys.executable, "-m", "zoo.cli.start", *arguments], shown=("zoo", *arguments), expect=expect)

    def run(self, command: list[str], *, shown: tuple[str, ...], expect: int = 0) -> float:
        """Run any command; see `zoo`."""
        print(paint(f"$ {' '.join(self._short(word) for word in shown)}", "cyan"), flush=True)
        started = time.monotonic()
        code = subprocess.run(command, env=self.environment, cwd=self.cwd, check=False).returncode
        seconds = time.monotonic() - started
        if code != expect:
            raise CheckFailed(
                f"`{' '.join(shown)}` ended with exit code {code}, expected {expect}",
                hint="the lines above say why; docs/exit-codes.md has the table",
            )
        note = f"exit code {code}, as it should be, " if expect else ""
        print(paint(f"  {note}{human_seconds(seconds)}\n", "dim"), flush=True)
        return seconds

    def _short(self, word: str) -> str:
        return word.replace(f"{self.cwd}/", "")
