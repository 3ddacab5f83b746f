"""Where the command begins."""

from __future__ import annotations

import subprocess
import sys

import pytest

from zoo import __version__
from zoo.cli.start import GARBAGE_THRESHOLD


@pytest.mark.parametrize(("word", "code"), [("--version", 0), ("nonsense", 2)])
def test_python_does_not_look_for_garbage(word: str, code: int) -> None:
    script = (
        "import atexit, gc, sys\n"
        f"sys.argv = ['zoo', {word!r}]\n"
        "atexit.register(lambda: print(gc.get_threshold()[0], gc.get_freeze_count() > 0))\n"
        "from zoo.cli.start import main\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert result.returncode == code
    assert result.stdout.endswith(f"{GARBAGE_THRESHOLD} True\n")
    assert (__version__ in result.stdout) == (code == 0)
