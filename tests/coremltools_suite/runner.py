"""Runs the suite: one pytest per file of tests, whatever was recorded before left out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.coremltools_suite.names import RESULTS, SETTINGS

FOLDERS = (
    "converters/mil/mil/ops/tests",
    "converters/mil/frontend/torch",
    "converters/mil/frontend/milproto",
    "converters/mil/backend/mil",
    "converters/mil/mil",
    "converters/mil",
    "test/ml_program",
    "test/optimize/coreml",
    "test/blob",
)
"""Where the tests of mlprograms lie, most telling first; those of neural networks and TensorFlow are left out."""

LEFT_OUT = ("/tensorflow", "/backend/nn/", "/experimental/")

OWN_INI = Path(__file__).with_name("pytest.ini")


@dataclass(frozen=True)
class Options:
    """How much to run.

    Attributes:
        out: folder of the results; what is in it already is not run again.
        patterns: parts of file names to choose, all if empty.
        per_function: how many of a parametrised function's tests, 0 for all.
        seconds: when to stop.
        text: read every program from its text form.
        fp32: also run fp32 programs, which the suite does only if asked.
        again: also run what failed before.
    """

    out: Path
    patterns: tuple[str, ...] = ()
    per_function: int = 0
    seconds: float = float("inf")
    text: bool = False
    fp32: bool = True
    again: bool = False


def package_root() -> Path:
    """Where coremltools is installed.

    Raises:
        SystemExit: it is not.
    """
    spec = find_spec("coremltools")
    if spec is None or spec.origin is None:
        raise SystemExit("coremltools is not installed; the tests are part of it")
    return Path(spec.origin).parent


def files_to_run(root: Path, patterns: Sequence[str]) -> list[Path]:
    """The files to run, each once."""
    found: dict[Path, None] = {}
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("test_*.py")):
            name = path.relative_to(root).as_posix()
            if not any(part in f"/{name}" for part in LEFT_OUT):
                found.setdefault(path)
    return [path for path in found if not patterns or any(p in path.as_posix() for p in patterns)]


def run_suite(options: Options) -> Iterator[str]:
    """Runs file after file and says what it does.

    Yields:
        One line for each file.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    deadline = time.time() + options.seconds
    root = package_root()
    for path in files_to_run(root, options.patterns):
        if time.time() > deadline:
            yield "out of time; the same command goes on from here"
            return
        name = path.relative_to(root).as_posix()
        if _has_nothing_to_run(name, options):
            continue
        before = _results(options.out)
        crashes = 0
        while run_files([path], options, deadline) not in (0, 1, 2, 5) and crashes < 20:  # pytest's own exit codes
            crashes += _note_crash(options.out)
        if time.time() < deadline:
            _append(options.out, finished=name, per_function=options.per_function)
        yield f"{name}: {_results(options.out) - before} tests" + (f", {crashes} crashes" if crashes else "")


def run_files(paths: Sequence[Path], options: Options, deadline: float) -> int:
    """Runs files in one process; its exit code."""
    settings = options.out / SETTINGS
    skipped = recorded(options.out) - (failed(options.out) if options.again else set())
    settings.write_text(
        json.dumps(
            {
                "log": str(options.out.resolve() / RESULTS),
                "per_function": options.per_function,
                "done": sorted(skipped),
                "deadline": min(deadline, 1e12),
            }
        ),
        "utf-8",
    )
    environment = {
        **os.environ,
        "ZOO_SUITE_SETTINGS": str(settings.resolve()),
        "PYMIL_TEST_TARGETS": "mlprogram",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    if options.fp32:
        environment["INCLUDE_MIL_FP32_UNIT_TESTS"] = "1"
    if options.text:
        environment["ZOO_SUITE_TEXT"] = "1"
    command = [sys.executable, "-m", "pytest", "-c", str(OWN_INI), "-p", "tests.coremltools_suite.plugin"]
    with (options.out / "output.txt").open("a", encoding="utf-8") as output:
        finished = subprocess.run(
            [*command, f"--rootdir={package_root()}", *map(str, paths)],
            env=environment, stdout=output, stderr=output, check=False,
        )  # fmt: skip
    return finished.returncode


def lines(out: Path) -> list[dict[str, Any]]:
    """All lines of the results; the last one may be cut off where a process died."""
    file = out / RESULTS
    if not file.exists():
        return []
    found = []
    for line in file.read_text("utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def recorded(out: Path) -> set[str]:
    """Tests with a result."""
    return {line["test"] for line in lines(out) if "test" in line}


def _has_nothing_to_run(name: str, options: Options) -> bool:
    """Whether a file was run to its end before, and nothing of it is to be run again."""
    finished = {"finished": name, "per_function": options.per_function}
    return finished in lines(options.out) and not (
        options.again and any(test.startswith(f"{name}::") for test in failed(options.out))
    )


def _append(out: Path, **line: Any) -> None:
    with (out / RESULTS).open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")


def _results(out: Path) -> int:
    return sum("test" in line for line in lines(out))


def failed(out: Path) -> set[str]:
    """Tests whose last result is a failure."""
    last = {line["test"]: line["outcome"] for line in lines(out) if "test" in line}
    return {test for test, outcome in last.items() if outcome in {"failed", "crashed"}}


def _note_crash(out: Path) -> int:
    """Gives the test that was begun and not ended the outcome `crashed`; how many there were."""
    done = recorded(out)
    begun = [line["begun"] for line in lines(out) if "begun" in line and line["begun"] not in done]
    for test in begun[-1:]:
        _append(out, test=test, outcome="crashed", loads=0, predictions=0, ops=[])
    return max(len(begun[-1:]), 1)
