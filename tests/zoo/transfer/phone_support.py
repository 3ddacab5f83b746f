"""Puts the pretended phone of `tests/data/devicectl/xcrun` in front of the path."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "data" / "devicectl"


def put_xcrun(directory: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `text`, lines of Python, the `xcrun` that is found first.

    The interpreter is named outright: a `python3` that is looked up may be a slow shell script.
    """
    tool = directory / "bin" / "xcrun"
    tool.parent.mkdir(parents=True, exist_ok=True)
    tool.write_text(f"#!{sys.executable} -IS\n{text}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")


def put_phone(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A phone in `directory`, with the app installed; returns the app's data container."""
    put_xcrun(directory, (DATA / "xcrun").read_text(), monkeypatch)
    monkeypatch.setenv("FAKE_PHONE", str(directory))
    monkeypatch.setenv("FAKE_ANSWERS", str(DATA))
    container = directory / "container"
    (container / "Documents").mkdir(parents=True)
    return container
