"""Where the command `zoo` begins: before anything else is imported, Python is kept from looking for garbage."""

from __future__ import annotations

import gc

GARBAGE_THRESHOLD = 50_000
"""Allocations between looks for garbage (700 by default): starting up makes thousands of objects and no garbage."""


def main() -> None:
    """Run the command line."""
    gc.set_threshold(GARBAGE_THRESHOLD)
    from zoo.cli.main import main as run

    try:
        run()
    finally:
        gc.freeze()  # what is left goes with the process; looking for garbage in it would take 10 ms


if __name__ == "__main__":
    main()
