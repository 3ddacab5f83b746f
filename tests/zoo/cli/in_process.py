"""Runs `zoo` in this process: a subprocess per command would spend its time importing the Hub's client."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import huggingface_hub.constants  # noqa: F401 - reads HF_ENDPOINT, before a test sets it

from zoo.hub_server.process import RunningHub

TOKEN = "hf_zoo_secret"


@dataclass(frozen=True)
class Result:
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


def environment(hub: RunningHub | None, directory: Path, token: str = TOKEN) -> dict[str, str]:
    """An empty home and a token, whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "ZOO_", "HUGGING"))}
    home = {"HOME": str(directory / "home"), "HF_HOME": str(directory / "hf"), "ZOO_CACHE": str(directory / "cache")}
    endpoint = {"HF_ENDPOINT": hub.endpoint} if hub is not None else {}
    return {**kept, **home, **endpoint, "HF_TOKEN": token}


def run_zoo(*arguments: str, cwd: Path, hub: RunningHub | None = None, token: str = TOKEN) -> Result:
    """Run a command as `zoo` would, in a folder, without anybody to ask."""
    from zoo.cli.main import main

    # The client has read HF_ENDPOINT already.
    endpoint = ["--endpoint", hub.endpoint] if hub is not None else []
    code = 0
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, environment(hub, cwd, token), clear=True),
        mock.patch.object(sys, "argv", ["zoo", *arguments, *endpoint]),
        Path(os.devnull).open() as nobody,
        mock.patch.object(sys, "stdin", nobody),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    result = Result(code, out.getvalue(), err.getvalue())
    assert not token or token not in result.stdout + result.stderr, "a token was printed"
    assert "Traceback" not in result.stderr, result.stderr
    return result
