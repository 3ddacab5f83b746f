from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from zoo.cli.main import COMMANDS, command_function, make_app

NAMES = [name for name, _ in COMMANDS]
OVERVIEW_COLUMNS = 60
"""What fits beside the longest name on a terminal of eighty columns."""


def test_every_module_with_a_command_is_in_the_overview() -> None:
    import zoo.cli

    folder = Path(inspect.getfile(zoo.cli)).parent
    modules = {file.stem for file in folder.glob("*.py")}
    commands = {name for name in modules if f"def {name}(" in (folder / f"{name}.py").read_text(encoding="utf-8")}
    assert commands - {"main"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_help_of_each_has_examples_of_itself(name: str) -> None:
    text = command_function(name).__doc__ or ""
    assert "Examples:" in text
    assert f"  zoo {name}" in text.split("Examples:")[1]


def test_the_overview_fits_a_terminal() -> None:
    assert all(len(summary) <= OVERVIEW_COLUMNS and summary.endswith(".") for _, summary in COMMANDS)


def test_one_command_is_declared_the_others_are_names() -> None:
    lean = typer.main.get_command(make_app(["--version", "pull", "x"]))
    full = typer.main.get_command(make_app([], every=True))
    assert list(lean.commands) == list(full.commands) == NAMES  # type: ignore[attr-defined]
    for name in NAMES:
        options = [parameter.name for parameter in full.commands[name].params]  # type: ignore[attr-defined]
        declared = [parameter.name for parameter in lean.commands[name].params]  # type: ignore[attr-defined]
        assert declared == (options if name == "pull" else [])


@pytest.mark.parametrize(("words", "answers"), [("zoo pull --re", ["--reuse"]), ("zoo show ti", ["tiny", "tiny-x"])])
def test_the_shell_completes_options_and_entries(tmp_path: Path, words: str, answers: list[str]) -> None:
    for entry in ("tiny", "tiny-x", "other"):
        (tmp_path / f"{entry}.toml").touch()
    completing = {"_ZOO_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "2", "ZOO_DIR": str(tmp_path)}
    script = "import sys; sys.argv = ['zoo']; from zoo.cli.main import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **completing}, capture_output=True, text=True, timeout=60
    )
    assert result.stdout.split() == answers
