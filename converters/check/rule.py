"""What a rule is, and what it says about a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from converters.check.facts import Bundle

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""An `error` breaks the bundle or makes it silently wrong, a `warning` does so on some system or in some use, a `note`
is good to know."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One place where a rule does not hold.

    Attributes:
        file: bundle path of the file or model folder; empty for the bundle as a whole.
        message: what is wrong, in one line.
        evidence: what was found that shows it, and where; empty if the message says all.
        severity: if it is another one than the rule's.
        remedy: if it is another one than the rule's.
    """

    file: str
    message: str
    evidence: str = ""
    severity: Severity | None = None
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that holds in a good bundle.

    Attributes:
        id: `group.name`; never changes its meaning.
        severity: of a finding, unless it says otherwise.
        title: what must hold, in one line.
        why: what goes wrong otherwise.
        remedy: the way out.
        check: the places where it does not hold.
        evidence: how it is known that this goes wrong, for what cannot be derived from the files.
        systems: where it goes wrong; empty for everywhere.
    """

    id: str
    severity: Severity
    title: str
    why: str
    remedy: str
    check: Callable[[Bundle], Iterable[Hit]]
    evidence: str = ""
    systems: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that does not hold in a bundle.

    Attributes:
        rule: its id.
        severity: how bad it is here.
        file: bundle path of the file or model folder; empty for the bundle as a whole.
        message: what is wrong.
        evidence: what shows it.
        remedy: the way out.
    """

    rule: str
    severity: Severity
    file: str
    message: str
    evidence: str
    remedy: str
