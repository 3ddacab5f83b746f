"""What `zoo diff` says."""

from __future__ import annotations

from typing import Any

from zoo.plan.diff import RELATIONS, Compared, Diff, Missing, Relation, Row
from zoo.report.sizes import human_bytes
from zoo.report.text import columns, paint, plural
from zoo.sides import Side

WORDS: dict[Relation, str] = {
    "shared": "shared",
    "renamed": "shared, other path",
    "changed": "changed",
    "only_here": "only here",
    "only_there": "only there",
    "unknown": "not known",
}


def diff_json(here: Side, there: Side, found: Diff) -> dict[str, Any]:
    """`zoo diff --format json`; see docs/diff.md."""
    return {
        "here": _side_json(here),
        "there": _side_json(there),
        "same": found.same,
        "totals": {
            relation: {"files": total.files, "here_bytes": total.here, "there_bytes": total.there}
            for relation, total in found.totals().items()
        },
        "to_there": _missing_json(found.to_there),
        "to_here": _missing_json(found.to_here),
        "files": [
            {
                "path": row.path,
                "unit": row.unit,
                "relation": row.relation,
                "here": _file_json(row.here),
                "there": _file_json(row.there),
                "elsewhere": list(row.elsewhere),
            }
            for row in found.rows
        ],
    }


def _side_json(side: Side) -> dict[str, Any]:
    return {"name": side.name, "kind": side.kind, "files": len(side.files), "bytes": side.size}


def _missing_json(missing: Missing) -> dict[str, int]:
    return {"bytes": missing.known, "unknown_bytes": missing.unknown}


def _file_json(file: Compared | None) -> dict[str, Any] | None:
    return None if file is None else {"bytes": file.size, "sha256": file.sha256}


def diff_text(here: Side, there: Side, found: Diff, *, files: bool) -> str:
    """The comparison for people: sums, what differs by component, and (with `files`) every path that differs."""
    blocks = [_sides_text(here, there), _totals_text(found)]
    if units := _units_text(found):
        blocks.append(units)
    different = [row for row in found.rows if row.relation != "shared"]
    if files and different:
        blocks.append(columns([_row(row) for row in different], header=_HEADER, align="<<>>"))
    blocks.append(_conclusion(here, there, found))
    return "\n\n".join(blocks)


_HEADER = ("PATH", "", "HERE", "THERE")


def _sides_text(here: Side, there: Side) -> str:
    rows = [
        (
            paint(word, "dim"),
            paint(side.name, "bold"),
            side.kind,
            plural(len(side.files), "file"),
            human_bytes(side.size),
        )
        for word, side in (("here", here), ("there", there))
    ]
    return columns(rows, align="<<<>>")


def _totals_text(found: Diff) -> str:
    totals = found.totals()
    rows = [
        (WORDS[relation], f"{totals[relation].files:,}", _size(totals[relation].here), _size(totals[relation].there))
        for relation in RELATIONS
        if totals[relation].files
    ]
    return columns(rows or [("no files", "0", "-", "-")], header=("", "FILES", "HERE", "THERE"), align="<>>>")


def _size(size: int) -> str:
    return human_bytes(size) if size else "-"


def _units_text(found: Diff) -> str:
    rows = []
    same = 0
    for unit, totals in found.by_unit().items():
        different = [relation for relation in RELATIONS if relation != "shared" and totals[relation].files]
        same += not different
        rows += [
            (unit, WORDS[relation], f"{total.files:,}", _size(total.here), _size(total.there))
            for relation in different
            for total in (totals[relation],)
        ]
    if not rows:
        return ""
    table = columns(rows, header=("COMPONENT", "", "FILES", "HERE", "THERE"), align="<<>>>")
    return f"{table}\n{paint(f'and {same} the same on both sides', 'dim')}" if same else table


def _row(row: Row) -> tuple[str, str, str, str]:
    word = WORDS[row.relation]
    if row.elsewhere:
        more = f" and {len(row.elsewhere) - 1} more" if len(row.elsewhere) > 1 else ""
        word = f"same bytes as {row.elsewhere[0]}{more}"
    return (row.path, word, f"{row.here.size:,}" if row.here else "-", f"{row.there.size:,}" if row.there else "-")


def _conclusion(here: Side, there: Side, found: Diff) -> str:
    if found.same:
        return f"{paint('the same', 'green')}: every path and every byte"
    lines = [
        f"{other.name} needs {_missing_text(missing)} beyond {one.name}"
        for one, other, missing in ((here, there, found.to_there), (there, here, found.to_here))
    ]
    if any(row.relation == "unknown" for row in found.rows):
        note = "a lock without digests cannot be compared: `zoo lock ENTRY --from-hub` takes them from the Hub"
        lines.append(f"{paint('note:', 'yellow')} {note}")
    return "\n".join(lines)


def _missing_text(missing: Missing) -> str:
    if not missing.unknown:
        return human_bytes(missing.known) if missing.known else "nothing"
    if not missing.known:
        return f"up to {human_bytes(missing.unknown)}"
    return f"{human_bytes(missing.known)}, and up to {human_bytes(missing.unknown)} more"
