"""What `zoo check` says: as text, as JSON, and as SARIF for code review tools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import __version__
from zoo.report.text import Style, columns, paint, plural

if TYPE_CHECKING:
    from converters.check.rule import Finding, Rule, Severity
    from zoo.check import Report

_STYLES: dict[Severity, Style] = {"error": "red", "warning": "yellow", "note": "dim"}

SARIF_VERSION = "2.1.0"
SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
BASE = "BUNDLE"
"""What paths in a SARIF report are relative to."""


def check_text(report: Report) -> str:
    """Every finding with its evidence, and what to do below the last finding of each rule."""
    known = f", entries {', '.join(report.entries)}" if report.entries else ""
    looked = f"{plural(report.models, 'model')} and {plural(report.files, 'file')}"
    lines = [paint(f"{report.folder}: engine {report.engine}, {looked}{known}", "bold")]
    for number, finding in enumerate(report.findings):
        mark = paint(f"{finding.severity:<7}", _STYLES[finding.severity])
        place = f"{finding.file}: " if finding.file else ""
        lines.append(f"{mark}  {finding.rule}  {place}{finding.message}")
        if finding.evidence:
            lines.append(f"{'':9}{paint(finding.evidence, 'dim')}")
        after = report.findings[number + 1 : number + 2]
        if not after or (after[0].rule, after[0].remedy) != (finding.rule, finding.remedy):
            lines.append(f"{'':9}{paint('->', 'cyan')} {finding.remedy}")
    lines.append(check_summary(report.findings))
    return "\n".join(lines)


def check_summary(findings: Sequence[Finding]) -> str:
    """How many of what kind."""
    counts = Counter(finding.severity for finding in findings)
    said = [plural(counts[kind], kind) for kind in _STYLES if counts[kind]]
    return ", ".join(said) or "nothing found"


def check_json(report: Report) -> dict[str, Any]:
    """For programs; see docs/check.md."""
    counts = Counter(finding.severity for finding in report.findings)
    return {
        "folder": report.folder,
        "entries": list(report.entries),
        "engine": report.engine,
        "models": report.models,
        "files": report.files,
        "good": not counts["error"],
        "counts": {kind: counts[kind] for kind in _STYLES},
        "findings": [
            {
                "rule": finding.rule,
                "severity": finding.severity,
                "file": finding.file or None,
                "message": finding.message,
                "evidence": finding.evidence or None,
                "remedy": finding.remedy,
            }
            for finding in report.findings
        ],
    }


def check_sarif(report: Report, rules: Sequence[Rule]) -> dict[str, Any]:
    """A SARIF 2.1.0 log with one run: all rules, and a result for each finding.

    Findings about a model folder have the folder as their location, those about the whole bundle the bundle.
    """
    index = {rule.id: number for number, rule in enumerate(rules)}
    driver = {
        "name": "zoo check",
        "semanticVersion": __version__,
        "rules": [_sarif_rule(rule) for rule in rules],
    }
    run = {
        "tool": {"driver": driver},
        "originalUriBaseIds": {BASE: {"uri": f"{Path(report.folder).absolute().as_uri()}/"}},
        "invocations": [{"executionSuccessful": True}],
        "results": [_sarif_result(finding, index[finding.rule]) for finding in report.findings],
        "properties": {"engine": report.engine, "entries": list(report.entries)},
    }
    return {"$schema": SARIF_SCHEMA, "version": SARIF_VERSION, "runs": [run]}


def _sarif_rule(rule: Rule) -> dict[str, Any]:
    known = f" Evidence: {rule.evidence}." if rule.evidence else ""
    affected = f" Affected: {rule.systems}." if rule.systems else ""
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": f"{rule.why}{known}{affected}"},
        "help": {"text": rule.remedy},
        "defaultConfiguration": {"level": rule.severity},
        "properties": {"tags": [rule.id.partition(".")[0]]},
    }


def _sarif_result(finding: Finding, index: int) -> dict[str, Any]:
    from urllib.parse import quote

    known = f" ({finding.evidence})" if finding.evidence else ""
    artifact = {"uri": quote(finding.file), "uriBaseId": BASE} if finding.file else {"uriBaseId": BASE, "uri": "."}
    return {
        "ruleId": finding.rule,
        "ruleIndex": index,
        "level": finding.severity,
        "message": {"text": f"{finding.message}{known}. {finding.remedy}."},
        "locations": [{"physicalLocation": {"artifactLocation": artifact}}],
    }


def rules_text(rules: Sequence[Rule], explained: bool = True) -> str:
    """Every rule: what must hold, why, how that is known, where it matters, and the way out."""
    if not explained:
        return columns([(rule.severity, rule.id, rule.title) for rule in rules])
    blocks = []
    for rule in rules:
        lines = [f"{paint(rule.id, 'bold')} ({paint(rule.severity, _STYLES[rule.severity])}): {rule.title}."]
        lines.append(f"  {rule.why}")
        if rule.systems:
            lines.append(f"  Affected: {rule.systems}.")
        if rule.evidence:
            lines.append(f"  Evidence: {rule.evidence}.")
        lines.append(f"  {paint('->', 'cyan')} {rule.remedy}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def rules_json(rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """Every rule, for programs."""
    return [
        {
            "rule": rule.id,
            "severity": rule.severity,
            "title": rule.title,
            "why": rule.why,
            "evidence": rule.evidence or None,
            "systems": rule.systems or None,
            "remedy": rule.remedy,
        }
        for rule in rules
    ]
