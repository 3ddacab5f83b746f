"""How long a look at the zoo takes, beside the stock client's.

python -m benchmarks.startup [ROUNDS]
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from benchmarks.measure import in_turn, run_once, table

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Run and print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    programs = Path(sys.executable).parent
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "zoo --help": [str(programs / "zoo"), "--help"],
        "zoo ls": [str(programs / "zoo"), "ls"],
        "hf --help": [str(programs / "hf"), "--help"],
    }
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    runs = in_turn(
        {name: partial(run_once, command, environment=environment, cwd=ROOT) for name, command in commands.items()},
        rounds,
    )
    print(table(runs))


if __name__ == "__main__":
    main()
