"""What a person reads and sees of a parity run, from a document alone."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

from zoo.report.parity import parity_summary, parity_text
from zoo.report.parity_picture import parity_svg

SVG = "{http://www.w3.org/2000/svg}"


def measure(name: str, worst: float | None, limit: float | None, where: str = "") -> dict[str, Any]:
    passed = limit is None or (worst is not None and worst <= limit)
    return {"name": name, "worst": worst, "limit": limit, "where": where, "passed": passed}


def check(name: str, *measures: dict[str, Any], problem: str = "", **series: list[float | None]) -> dict[str, Any]:
    passed = not problem and all(item["passed"] for item in measures)
    return {
        "name": name,
        "kind": "whole",
        "says": f"what {name} is",
        "passed": passed,
        "problem": problem,
        "measures": list(measures),
        "series": series,
        "seconds": 0.1,
    }


def report(*checks: dict[str, Any]) -> dict[str, Any]:
    return {
        "folder": "build/<tiny>",
        "checkpoint": "tiny",
        "reference": "bundle's values",
        "execution": "mil, fp32 arithmetic",
        "tolerance": 1.0,
        "passed": all(item["passed"] for item in checks),
        "checks": list(checks),
        "left_out": ["a film: too long"],
    }


GOOD = check(
    "text",
    measure("hidden", 0.002, 0.01, "position 3"),
    measure("logit", 0.006, 0.012, "position 1"),
    hidden=[0.001, None, 0.002],
    logit=[0.0, 0.006, 0.001],
)
WRONG = check("rope", measure("cos_full", 1.9, 0.001, "from position 2 on"), measure("sin_full", 0.0, 0.001))
BROKEN = check("open", problem="chunk1: causal_mask_full is 40 wide")
NAN = check("image", measure("hidden", None, 0.01, "position 0"), hidden=[None, None])


def test_a_good_report() -> None:
    lines = parity_text(report(GOOD)).splitlines()
    assert lines[1].split() == ["ok", "text", "logit", "0.006", "of", "0.012", "what", "text", "is"]
    assert lines[2] == "left out: a film: too long"
    assert lines[3] == "1 check passed with the bundle's values (mil, fp32 arithmetic)"


def test_a_bad_report_says_what_and_where() -> None:
    text = parity_text(report(GOOD, WRONG, BROKEN, NAN))
    assert "cos_full 1.9 of 0.001 (from position 2 on)" in text
    assert "sin_full" not in text, "what is right need not be told"
    assert "causal_mask_full is 40 wide" in text
    assert "hidden not a number of 0.01 (position 0)" in text
    assert text.endswith("4 checks with the bundle's values (mil, fp32 arithmetic), 3 not passed: rope, open, image")


def test_the_picture() -> None:
    document = report(GOOD, WRONG, NAN)
    picture = ElementTree.fromstring(parity_svg(document))
    words = [label.text for label in picture.iter(f"{SVG}text")]
    assert words[:2] == ["build/<tiny> against tiny", parity_summary(document)]
    assert "text: what text is" in words
    assert not any("rope" in (word or "") for word in words[2:]), "it has nothing at every position"
    (line,) = picture.findall(f"{SVG}polyline")
    heights = [float(point.split(",")[1]) for point in line.get("points", "").split()]
    limits = [float(item.get("y1", "")) for item in picture.findall(f"{SVG}line")]
    assert heights[0] == max(heights), "zero lies on the lower edge"
    assert min(heights) > limits[0], "all of it is below the limit"
    assert len(picture.findall(f"{SVG}circle")) == 2, "a gap leaves single points"


def test_what_exceeds_the_limit_is_above_the_line() -> None:
    picture = ElementTree.fromstring(parity_svg(report(check("x", measure("hidden", 0.5, 0.01), hidden=[0.5, 0.5]))))
    (line,), (limit,) = picture.findall(f"{SVG}polyline"), picture.findall(f"{SVG}line")
    heights = [float(point.split(",")[1]) for point in line.get("points", "").split()]
    assert max(heights) < float(limit.get("y1", ""))
