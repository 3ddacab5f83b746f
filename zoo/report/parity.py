"""What `zoo parity` found, for people. Drawn from the report's document alone; see docs/parity.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo.report.text import columns, paint, plural

Document = Mapping[str, Any]
"""`converters.parity.report.Report.to_json()`."""


def parity_text(report: Document) -> str:
    """A line for each check with its nearest measure, then what was left out."""
    rows = []
    for check in report["checks"]:
        verdict = "ok" if check["passed"] else paint("WRONG", "red")
        rows.append([verdict, check["name"], _told(check), check["says"]])
    lines = [columns(rows, header=["", "check", "found", "what"])]
    lines += [f"left out: {reason}" for reason in report["left_out"]]
    lines.append(parity_summary(report))
    return "\n".join(lines)


def parity_summary(report: Document) -> str:
    """One line."""
    wrong = [check["name"] for check in report["checks"] if not check["passed"]]
    whose = "the bundle's values" if report["reference"] == "bundle's values" else "the checkpoint's own values"
    count = plural(len(report["checks"]), "check")
    if wrong:
        return f"{count} with {whose} ({report['execution']}), {len(wrong)} not passed: {', '.join(wrong)}"
    return f"{count} passed with {whose} ({report['execution']})"


def _told(check: Document) -> str:
    if check["problem"]:
        return str(check["problem"])
    failed = [measure for measure in check["measures"] if not measure["passed"]]
    return "; ".join(map(_measure, failed or [_nearest(check)])) if check["measures"] else ""


def _nearest(check: Document) -> Document:
    """The measure that is nearest to its limit."""

    def share(measure: Document) -> float:
        worst, limit = measure["worst"], measure["limit"]
        if worst is None:
            return float("inf")
        return worst / limit if limit else float(worst)

    found: Document = max(check["measures"], key=share)
    return found


def _measure(measure: Document) -> str:
    worst = "not a number" if measure["worst"] is None else f"{measure['worst']:.3g}"
    limit = "" if measure["limit"] is None else f" of {measure['limit']:.3g}"
    where = f" ({measure['where']})" if measure["where"] and not measure["passed"] else ""
    return f"{measure['name']} {worst}{limit}{where}"
