"""What a folder of results says: by operation and by test file, as JSON and as tables."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.coremltools_suite.runner import lines

# How a test ended, seen from the runtime.
AGREES = "agrees"
"""It asked for predictions and passed."""
DISAGREES = "disagrees"
"""It got all the predictions it asked for, and failed afterwards."""
REFUSED = "refused"
"""The runtime raised an error, and the test failed."""
REWORDED = "reworded"
"""The runtime raised an error where the test wants one, but the test looks for the words of Apple's."""
CRASHED = "crashed"
"""The process died."""
UNASKED = "unasked"
"""It passed without a prediction: it is about conversion."""
BEFORE = "before"
"""It failed before it asked for a prediction: this coremltools does not convert with this torch."""
SKIPPED = "skipped"
"""It was skipped, or is expected to fail."""

OUTCOMES = (AGREES, DISAGREES, REFUSED, REWORDED, CRASHED, UNASKED, BEFORE, SKIPPED)
ASKED = (AGREES, DISAGREES, REFUSED, CRASHED)

FEW_SPACINGS = 2.0**-8
"""Four times the spacing of fp16 numbers, relative to the smallest that have it."""

_HALF_DATA = re.compile(r"float16|dtype=fp16|_fp16\[")
_RELATIVE = re.compile(r"Max relative difference among violations: ([0-9.e+-]+)")


def outcome(line: Mapping[str, Any]) -> str:
    """One of `OUTCOMES` for a line of results."""
    if line["outcome"] == "crashed":
        return CRASHED
    if line["outcome"] == "skipped":
        return SKIPPED
    if line["outcome"] == "passed":
        return AGREES if line["predictions"] else UNASKED
    if line["errors"]:
        return REWORDED if "Regex pattern did not match" in line["reason"] else REFUSED
    return DISAGREES if line["predictions"] else BEFORE


def is_rounding(line: Mapping[str, Any]) -> bool:
    """Whether a disagreement is less than fp16 can say.

    Where a test of an `fp32` program has fp16 inputs, outputs or weights, it still compares with a tolerance of 1e-5,
    which is far below the rounding of those.
    """
    found = _RELATIVE.search(line["reason"])
    return found is not None and float(found[1]) <= FEW_SPACINGS and _HALF_DATA.search(line["test"]) is not None


@dataclass
class Tally:
    """Counts of outcomes."""

    counts: Counter[str] = field(default_factory=Counter)

    def row(self, names: Sequence[str]) -> list[str]:
        """The counts as words, nothing for 0."""
        return [str(self.counts[name]) if self.counts[name] else "" for name in names]


@dataclass(frozen=True)
class Report:
    """A whole run.

    Attributes:
        totals: tests by outcome.
        functions: test functions in the files run, tests in them, and how many of those were chosen.
        operations: by kind of operation, tests whose programs have it and that asked for predictions.
        files: by file of tests.
        failures: tests that disagree or were refused: name, outcome, whether it is rounding, and what was said.
        skips: reasons for skipping, by number.
    """

    totals: Mapping[str, int]
    functions: Mapping[str, int]
    operations: Mapping[str, Mapping[str, int]]
    files: Mapping[str, Mapping[str, int]]
    failures: Sequence[Mapping[str, Any]]
    skips: Mapping[str, int]


def build(out: Path) -> Report:
    """The report on a folder of results; the last result of a test counts."""
    tests: dict[str, dict[str, Any]] = {}
    functions: dict[str, tuple[int, int]] = {}
    for line in lines(out):
        if "test" in line:
            tests[line["test"]] = {"errors": [], "reason": "", **line}
        elif "function" in line:
            functions[line["function"]] = (line["tests"], line["chosen"])
    operations: dict[str, Tally] = defaultdict(Tally)
    files: dict[str, Tally] = defaultdict(Tally)
    failures, skips = [], Counter[str]()
    for name, line in sorted(tests.items()):
        kind = outcome(line)
        files[name.split("::")[0]].counts[kind] += 1
        if kind in ASKED:
            for operation in set(line["ops"]) - {"const"}:
                operations[operation].counts[kind] += 1
        if kind in {DISAGREES, REFUSED, CRASHED}:
            said = line["errors"][-1] if kind == REFUSED else line["reason"]
            failures.append({"test": name, "outcome": kind, "rounding": is_rounding(line), "said": said})
        if kind == SKIPPED:
            skips[_reason(line["reason"])] += 1
    return Report(
        totals=dict(Counter(outcome(line) for line in tests.values())),
        functions={
            "functions": len(functions),
            "tests": sum(number for number, _ in functions.values()),
            "chosen": sum(chosen for _, chosen in functions.values()),
        },
        operations={name: dict(tally.counts) for name, tally in sorted(operations.items())},
        files={name: dict(tally.counts) for name, tally in sorted(files.items())},
        failures=failures,
        skips=dict(skips.most_common()),
    )


def _reason(text: str) -> str:
    """A skip's reason without what differs between two tests."""
    return re.sub(r"^(Skipped|XFailed): ", "", text)[:100] or "expected to fail"


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain data."""
    return asdict(report)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    written = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*written, *(f"| {' | '.join(row)} |" for row in rows)])


def as_markdown(report: Report) -> str:
    """The tables of docs/runtime.md: tests by outcome, and by operation as far as they asked for predictions."""
    counts = [[name, str(report.totals.get(name, 0)), MEANINGS[name]] for name in OUTCOMES]
    occurring = [name for name in ASKED if any(name in tally for tally in report.operations.values())]
    cells = [[f"`{name}`", *Tally(Counter(tally)).row(occurring)] for name, tally in report.operations.items()]
    height = -(-len(cells) // COLUMNS)
    columns = [cells[i : i + height] for i in range(0, len(cells), height)]
    blank = [""] * (1 + len(occurring))
    rows = [[cell for column in columns for cell in (column[i] if i < len(column) else blank)] for i in range(height)]
    head = ["operation", *occurring] * len(columns)
    return "\n\n".join([table(["outcome", "tests", "meaning"], counts), table(head, rows)])


COLUMNS = 3
"""Of the table of operations."""

MEANINGS = {
    AGREES: "asked for predictions, and found in them what they should be",
    DISAGREES: "got the predictions, and did not",
    REFUSED: "the runtime raised an error where the test wanted none, or another one",
    REWORDED: "an error was wanted and came, but not in the words of Apple's framework",
    CRASHED: "the process died",
    UNASKED: "passed without asking: about conversion only",
    BEFORE: "failed before asking: this coremltools does not convert it with this torch, or lacks a library",
    SKIPPED: "skipped by the suite itself, expected to fail, or for neural networks",
}
