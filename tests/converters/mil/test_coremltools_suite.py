"""A slice of `python -m tests.coremltools_suite`: a few of coremltools' own tests with this runtime's answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.coremltools_suite import report
from tests.coremltools_suite.names import RESULTS
from tests.coremltools_suite.runner import Options, package_root, run_files

pytestmark = pytest.mark.convert

FILES = (
    "iOS14/test_control_flow.py",
    "iOS17/test_image_resizing.py",
    "iOS18/test_states.py",
    "iOS18/test_transformers.py",
)


def test_coremltools_own_tests_find_what_they_expect(tmp_path: Path) -> None:
    folder = package_root() / "converters/mil/mil/ops/tests"
    code = run_files([folder / name for name in FILES], Options(tmp_path, per_function=1), deadline=1e12)
    output = (tmp_path / "output.txt").read_text()
    found = report.build(tmp_path)
    assert (code, found.failures) == (0, []), output[-2000:]
    assert found.totals[report.AGREES] > 15
    assert {"while_loop", "list_write", "resize", "scaled_dot_product_attention", "read_state"} <= set(
        found.operations
    )


def _line(**fields: Any) -> dict[str, Any]:
    return {"outcome": "failed", "predictions": 1, "loads": 1, "ops": ["add"], "errors": [], "reason": "", **fields}


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (_line(outcome="passed"), report.AGREES),
        (_line(outcome="passed", predictions=0), report.UNASKED),
        (_line(), report.DISAGREES),
        (_line(predictions=0), report.BEFORE),
        (_line(errors=["x"]), report.REFUSED),
        (_line(errors=["x"], reason="AssertionError: Regex pattern did not match."), report.REWORDED),
        (_line(outcome="crashed"), report.CRASHED),
        (_line(outcome="skipped", reason="Skipped: needs a phone"), report.SKIPPED),
    ],
)
def test_how_a_test_ended(line: dict[str, Any], wanted: str) -> None:
    assert report.outcome(line) == wanted


def test_the_last_result_counts_and_cut_off_lines_do_not(tmp_path: Path) -> None:
    written = [
        {"function": "f.py::a", "tests": 9, "chosen": 2},
        {"test": "f.py::a[dtype=fp16]", **_line(reason="Max relative difference among violations: 0.0004")},
        {"test": "f.py::a[2]", **_line()},
        {"test": "f.py::a[2]", **_line(outcome="passed", ops=["add", "const", "mul"])},
    ]
    (tmp_path / RESULTS).write_text("\n".join(map(json.dumps, written)) + '\n{"begun": "f.p')
    found = report.build(tmp_path)
    assert found.functions == {"functions": 1, "tests": 9, "chosen": 2}
    assert found.totals == {report.AGREES: 1, report.DISAGREES: 1}
    assert found.operations == {"add": {report.AGREES: 1, report.DISAGREES: 1}, "mul": {report.AGREES: 1}}
    assert [failure["rounding"] for failure in found.failures] == [True]
    assert "| agrees | 1 |" in report.as_markdown(found)
