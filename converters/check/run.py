"""Applies the rules to a bundle."""

from __future__ import annotations

from collections.abc import Collection

from converters.check.facts import Bundle
from converters.check.rule import SEVERITIES, Finding, Hit, Rule
from converters.check.rules import RULES
from converters.errors import RecipeError


def examine(bundle: Bundle, *, ignore: Collection[str] = ()) -> tuple[Finding, ...]:
    """Every finding, the worst first, and in the order of the rules.

    Args:
        bundle: what was gathered.
        ignore: rules that are left out: ids, or groups (`device`).

    Raises:
        RecipeError: there is no such rule or group.
    """
    known = {rule.id for rule in RULES} | {group_of(rule.id) for rule in RULES}
    unknown = sorted(set(ignore) - known)
    if unknown:
        raise RecipeError(f"no rule or group {unknown[0]!r}; there are {', '.join(sorted(known))}")
    found = [
        _finding(rule, hit)
        for rule in RULES
        if rule.id not in ignore and group_of(rule.id) not in ignore
        for hit in rule.check(bundle)
    ]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


def _finding(rule: Rule, hit: Hit) -> Finding:
    return Finding(
        rule=rule.id,
        severity=hit.severity or rule.severity,
        file=hit.file,
        message=hit.message,
        evidence=hit.evidence,
        remedy=hit.remedy or rule.remedy,
    )


def group_of(rule: str) -> str:
    """The part of a rule's id before the dot."""
    return rule.partition(".")[0]
