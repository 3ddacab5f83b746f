"""The command: `python -m tests.coremltools_suite run`, then `... report`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from tests.coremltools_suite.report import as_json, as_markdown, build
from tests.coremltools_suite.runner import Options, run_suite

EXAMPLES = """\
examples:
  python -m tests.coremltools_suite run --per-function 2 --minutes 60
  python -m tests.coremltools_suite run ops/tests/iOS18 test_torch_ops --text
  python -m tests.coremltools_suite report --format json
"""

DEFAULT_OUT = Path("build/coremltools-suite")


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line and does what it says."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.coremltools_suite",
        description="Runs the tests that come with coremltools, with converters.mil in place of Apple's framework.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="run tests that have no result yet; may be stopped and started again")
    run.add_argument("patterns", nargs="*", help="parts of file names; all files if none")
    run.add_argument("--per-function", type=int, default=0, help="most tests per parametrised function; 0 for all")
    run.add_argument("--minutes", type=float, default=float("inf"), help="stop after this time")
    run.add_argument("--text", action="store_true", help="write every package as MIL text first, and read that")
    run.add_argument("--fp16-only", action="store_true", help="as the suite runs by default: no fp32 programs")
    run.add_argument("--again", action="store_true", help="also run what failed before")
    run.set_defaults(do=_run)
    show = commands.add_parser("report", help="sum up the results")
    show.add_argument("--format", choices=("text", "json", "markdown"), default="text")
    show.set_defaults(do=_report)
    for command in (run, show):
        command.add_argument("--out", type=Path, default=DEFAULT_OUT, help=f"folder of results ({DEFAULT_OUT})")
    given = parser.parse_args(arguments)
    given.do(given)


def _run(given: argparse.Namespace) -> None:
    options = Options(
        out=given.out,
        patterns=tuple(given.patterns),
        per_function=given.per_function,
        seconds=60 * given.minutes,
        text=given.text,
        fp32=not given.fp16_only,
        again=given.again,
    )
    for line in run_suite(options):
        print(line, flush=True)


def _report(given: argparse.Namespace) -> None:
    report = build(given.out)
    if given.format == "json":
        print(json.dumps(as_json(report), indent=2))
    elif given.format == "markdown":
        print(as_markdown(report))
    else:
        for name, number in report.totals.items():
            print(f"{name:10} {number}")
        for failure in report.failures:
            mark = " (rounding)" if failure["rounding"] else ""
            print(f"{failure['outcome']}{mark}: {failure['test']}\n    {failure['said']}")


if __name__ == "__main__":
    main()
