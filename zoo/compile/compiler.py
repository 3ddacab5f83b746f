"""Apple's compiler, `xcrun coremlcompiler`: its version, and one package at a time."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from zoo.errors import ConversionError

XCRUN = ("xcrun", "coremlcompiler")
VERSION_SECONDS = 60
HINT = "compiling needs a Mac with Xcode: copy the build folder and its lock there and run `zoo compile` again"
TEXT_PROGRAM = "model.mil"
TEXT_START = b"program("
"""How a program in text form begins. A serialised one, which an iPhone does not load, begins otherwise."""

LOG_LINES = 3
"""How much of what the compiler said an error repeats."""


def compiler_version() -> str | None:
    """What the compiler calls itself; None where there is none."""
    try:
        done = _run([*XCRUN, "version"], timeout=VERSION_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.split()
    return lines[-1] if done.returncode == 0 and lines else None


def compile_package(package: Path, output: Path) -> Path:
    """Compile one package.

    Args:
        package: `X.mlpackage`.
        output: a folder; receives `X.mlmodelc`.

    Raises:
        ConversionError: the compiler refused or crashed; the end of what it said.
    """
    try:
        done = _run([*XCRUN, "compile", str(package), str(output)])
    except OSError as error:
        raise ConversionError(f"{package.name}: xcrun: {error.strerror}", hint=HINT) from None
    compiled = output / f"{package.stem}.mlmodelc"
    if done.returncode != 0:
        raise ConversionError(f"{package}: coremlcompiler failed: {_tail(done.stderr or done.stdout)}")
    if not compiled.is_dir():
        raise ConversionError(f"{package}: coremlcompiler wrote no {compiled.name}")
    return compiled


def has_text_program(compiled: Path) -> bool | None:
    """Whether a compiled model has its program as text; None if it has none at all."""
    try:
        with (compiled / TEXT_PROGRAM).open("rb") as file:
            return file.read(len(TEXT_START)) == TEXT_START
    except OSError:
        return None


def _run(command: Sequence[str], timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        timeout=timeout,
        check=False,
    )


def _tail(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return " / ".join(lines[-LOG_LINES:]) or "it said nothing"
