"""What holds for every test."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Before anything imports torch: on tiny tensors its threads only wait for each other, for minutes on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Time limits per example would make the outcome depend on how busy the machine is, and random examples on luck;
# `pytest --hypothesis-profile=search` searches afresh, and for longer.
settings.register_profile("unhurried", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=5_000, print_blob=True)
settings.load_profile("unhurried")

# A shell without job control starts background jobs with SIGINT ignored, and children inherit that; the tests that
# interrupt a command would then wait for nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


ROOT = Path(__file__).parent

TOGETHER = {
    "converters/check/": "bundles",
    "converters/parity/": "bundles",
    "converters/run/": "bundles",
    "zoo/faults/": "faults",
    "zoo/swift/": "swift",
}
"""Directories whose tests share what takes long to make; one process of `pytest -n` runs all of a group."""


@pytest.hookimpl(tryfirst=True)  # pytest-xdist looks at the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tell pytest-xdist (`--dist loadgroup`) which tests belong together: those of a file, or of a directory."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item.path.relative_to(ROOT).as_posix())))


def _group(path: str) -> str:
    return next((group for directory, group in TOGETHER.items() if path.startswith(directory)), path)
