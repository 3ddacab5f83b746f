"""What `zoo shared` says: who keeps the same bytes, on the Hub and on this disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from zoo.plan.published import Unpublished
from zoo.plan.sharing import Content, Sharing
from zoo.report.sizes import human_bytes
from zoo.report.text import columns, elide, paint, plural

Where = Literal["hub", "disk"]

MOST_GROUPS = 12
MOST_CONTENTS = 12
"""Lines of a table for people; JSON and the page have more or all."""

LONGEST_PATH = 64
"""Characters of a path in a table for people."""


@dataclass(frozen=True)
class Section:
    """One scope of the report.

    Attributes:
        where: the Hub or this disk.
        sharing: who keeps what there.
    """

    where: Where
    sharing: Sharing

    @property
    def title(self) -> str:
        """A heading."""
        return "On the Hub" if self.where == "hub" else "On this disk"

    @property
    def holder(self) -> str:
        """What a holder is called there."""
        return "entry" if self.where == "hub" else "folder"

    @property
    def holders(self) -> str:
        """How many there are, in words."""
        count = len(self.sharing.holders)
        return plural(count, "entry", "entries") if self.where == "hub" else plural(count, "folder")

    def facts(self) -> list[str]:
        """What it adds up to, and what could be saved, in sentences."""
        sharing = self.sharing
        if not sharing.holders:
            return ["nothing is published yet" if self.where == "hub" else "nothing is installed or built"]
        unknown = f", of which {human_bytes(sharing.unknown)} have no digest and cannot be compared"
        lines = [f"{self.holders} keep {human_bytes(sharing.stored)}{unknown if sharing.unknown else ''}"]
        if sharing.duplicated:
            share = f"{sharing.duplicated / sharing.stored:.0%}"
            lines.append(f"{human_bytes(sharing.duplicated)} of them ({share}) are stored more than once")
            lines.append(self._saving())
        else:
            lines.append("no content is stored twice" + (", as far as is known" if sharing.unknown else ""))
        if sharing.unknown and self.where == "hub":
            lines.append("`zoo lock ENTRY --from-hub` takes digests from the Hub without fetching the models")
        elif sharing.unknown:
            lines.append("`zoo shared --full` reads what has no digest yet")
        return lines

    def _saving(self) -> str:
        sharing = self.sharing
        if self.where == "hub":
            return f"server-side copies spare uploading {human_bytes(sharing.duplicated)}; `zoo push` makes them"
        if not sharing.linkable:
            return "the copies lie on different disks and cannot be linked"
        saving = f"linking would free up to {human_bytes(sharing.linkable)}"
        if sharing.hard_linkable < sharing.linkable:
            saving += f", {human_bytes(sharing.hard_linkable)} of it on disks without clones"
        return f"{saving}; clones count as copies here"


def unpublished_facts(waiting: Sequence[Unpublished]) -> list[str]:
    """A sentence per entry that is not on the Hub, or not whole."""
    return [
        f"{one.entry}: {human_bytes(one.size)} are not on the Hub yet"
        + (f"; it can copy {human_bytes(one.copied)} of them from other repos" if one.copied else "")
        for one in waiting
    ]


def shared_json(sections: Sequence[Section], waiting: Sequence[Unpublished], notes: Sequence[str]) -> dict[str, Any]:
    """`zoo shared --format json`; see docs/shared.md."""
    return {
        **{section.where: _section_json(section.sharing) for section in sections},
        "unpublished": [
            {"entry": one.entry, "files": one.files, "bytes": one.size, "copied_bytes": one.copied} for one in waiting
        ],
        "notes": list(notes),
    }


def _section_json(sharing: Sharing) -> dict[str, Any]:
    return {
        "stored_bytes": sharing.stored,
        "distinct_bytes": sharing.distinct,
        "duplicated_bytes": sharing.duplicated,
        "unknown_bytes": sharing.unknown,
        "linkable_bytes": sharing.linkable,
        "hard_linkable_bytes": sharing.hard_linkable,
        "holders": [
            {
                "name": total.name,
                "family": total.family,
                "files": total.files,
                "bytes": total.size,
                "distinct_bytes": total.distinct,
                "shared_bytes": total.shared,
                "own_bytes": total.own,
                "twice_bytes": total.twice,
                "unknown_bytes": total.unknown,
            }
            for total in sharing.totals
        ],
        "pairs": [{"holders": [one, other], "bytes": common} for one, other, common in sharing.pairs],
        "groups": [
            {"holders": list(group.holders), "contents": group.contents, "bytes": group.size}
            for group in sharing.groups
        ],
        "duplicates": [
            {
                "sha256": content.sha256,
                "bytes": content.size,
                "copies": content.places,
                "files": [{"holder": holder, "path": path} for holder, path in content.files],
            }
            for content in sharing.contents
            if content.places > 1
        ],
    }


def shared_text(sections: Sequence[Section], waiting: Sequence[Unpublished]) -> str:
    """The report for people."""
    blocks = []
    for section in sections:
        blocks.append("\n".join([paint(section.title, "bold"), *(f"  {line}" for line in section.facts())]))
        if section.sharing.holders:
            blocks += [table for table in (_holders(section), _groups(section), _contents(section)) if table]
    if waiting:
        lines = [paint("Not published", "bold"), *(f"  {line}" for line in unpublished_facts(waiting))]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def size(count: int) -> str:
    """Bytes in a table; a dash for none."""
    return human_bytes(count) if count else "-"


def _holders(section: Section) -> str:
    rows = [
        (
            total.name,
            f"{total.files:,}",
            size(total.size),
            size(total.shared),
            size(total.own),
            size(total.twice),
            size(total.unknown),
        )
        for total in section.sharing.totals
    ]
    header = (section.holder.upper(), "FILES", "SIZE", "SHARED", "ONLY HERE", "TWICE HERE", "NOT KNOWN")
    return columns(rows, header=header, align="<>>>>>>", indent=2)


def _groups(section: Section) -> str:
    groups = [group for group in section.sharing.groups if len(group.holders) > 1]
    groups.sort(key=lambda group: (-group.size * (len(group.holders) - 1), group.holders))
    rows = [(size(group.size), f"{group.contents:,}", ", ".join(group.holders)) for group in groups[:MOST_GROUPS]]
    if not rows:
        return ""
    table = columns(rows, header=("SAME BYTES", "FILES", "KEPT BY"), align=">><", indent=2)
    return table + _more(len(groups) - MOST_GROUPS, "group")


def _contents(section: Section) -> str:
    found = [content for content in section.sharing.contents if content.wasted]
    rows = [(size(content.wasted), str(content.places), _where(content)) for content in found[:MOST_CONTENTS]]
    if not rows:
        return ""
    table = columns(rows, header=("TOO MUCH", "COPIES", "FILE"), align=">><", indent=2)
    return table + _more(len(found) - MOST_CONTENTS, "file")


def _where(content: Content) -> str:
    """The path, if all copies have the same; else the first and how many others."""
    holder, path = content.files[0]
    others = {other for _, other in content.files} - {path}
    place = elide(path, LONGEST_PATH)
    if others:
        return f"{holder}: {place}, also as {elide(min(others), LONGEST_PATH)}"
    return place


def _more(count: int, noun: str) -> str:
    return f"\n  and {plural(count, 'more ' + noun)}" if count > 0 else ""
