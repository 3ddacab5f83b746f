"""The page of `zoo shared --html`: a map of who keeps which bytes, a matrix of pairs, and the numbers as tables.

One file without anything from elsewhere: no fonts, no scripts or pictures from a network. The same zoo gives the same
bytes. Everything that comes from a lock is escaped. What the map shows by colour and position, the tables say.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from html import escape

from zoo.plan.published import Unpublished
from zoo.plan.sharing import Content, Sharing
from zoo.report.sharing import Section, size, unpublished_facts
from zoo.report.sharing_map import KINDS, Column, Panel, panels
from zoo.report.sharing_page import SCRIPT, STYLE
from zoo.report.sizes import human_bytes
from zoo.report.text import plural

MOST_ROWS = 200
"""Rows of a table on the page; `--format json` has all."""

LARGEST_MATRIX = 40
"""Holders in the matrix of pairs; more columns than that cannot be read."""

NARROW = 0.03
"""A block narrower than this part of its row gets no label: a letter of it would be seen."""

KIND_NAMES = {
    "decoder": "language model",
    "embeddings": "embeddings",
    "other": "other text files",
    "image": "image",
    "video": "video",
    "audio": "audio",
    "unknown": "no digest: not known",
}


def shared_html(sections: Sequence[Section], waiting: Sequence[Unpublished]) -> str:
    """The whole page.

    Args:
        sections: what to show, each on its own.
        waiting: entries that are not on the Hub.
    """
    script = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{script}'"
    body = "\n".join(_section(section) for section in sections)
    if waiting:
        facts = "".join(f"<li>{_prose(fact)}</li>" for fact in unpublished_facts(waiting))
        body += f'\n<section aria-labelledby="waiting"><h2 id="waiting">Not published</h2><ul>{facts}</ul></section>'
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>What the zoo stores twice</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>What the zoo stores twice</h1>
<p>Bytes are the same if their sha256 is. Names and sizes prove nothing.</p>
</header>
<main>
{body}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _section(section: Section) -> str:
    sharing = section.sharing
    name = section.where
    facts = "".join(f"<li>{_prose(fact)}</li>" for fact in section.facts())
    parts = [
        f'<section aria-labelledby="{name}">',
        f'<h2 id="{name}">{escape(section.title)}</h2>',
        f'<ul class="facts">{facts}</ul>',
    ]
    if sharing.stored:
        drawn = panels(sharing)
        parts += [_overview(sharing), _map(section, drawn), _matrix(section), _holders(section)]
        parts += [_groups(sharing), _duplicates(sharing), _columns(drawn)]
    parts.append("</section>")
    return "\n".join(part for part in parts if part)


def _prose(sentence: str) -> str:
    """A sentence as HTML; what stands between backticks is code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(sentence))


def _overview(sharing: Sharing) -> str:
    """One bar: what is different, what is there again, what nobody knows."""
    pieces = [
        ("distinct", "different bytes, each once", sharing.distinct),
        ("again", "the same bytes again", sharing.duplicated),
        ("unknown", "no digest: not known", sharing.unknown),
    ]
    present = [(kind, words, count) for kind, words, count in pieces if count]
    bar = "".join(
        f'<span class="piece {kind}" style="width:{_percent(count, sharing.stored)}"></span>'
        for kind, _, count in present
    )
    legend = "".join(
        f'<li><span class="key {kind}"></span>{words}: <b>{human_bytes(count)}</b></li>'
        for kind, words, count in present
    )
    words = ", ".join(f"{words}: {human_bytes(count)}" for _, words, count in present)
    return (
        f'<div class="overview" role="img" aria-label="{escape(words)}">{bar}</div>\n<ul class="legend">{legend}</ul>'
    )


def _percent(part: int, whole: int) -> str:
    """A length in per cent, four digits after the point: a page of the same zoo is the same page."""
    return f"{100 * part / whole:.4f}%" if whole else "0%"


def _map(section: Section, drawn: Sequence[Panel]) -> str:
    present = {column.kind for panel in drawn for column in panel.columns}
    legend = "".join(
        f'<li><span class="key k-{kind}"></span>{KIND_NAMES[kind]}</li>' for kind in KINDS if kind in present
    )
    pale = (
        "" if present == {"unknown"} else f'<li><span class="key pale"></span>pale: in one {section.holder} only</li>'
    )
    if any(column.repeated_in for panel in drawn for column in panel.columns):
        pale += '<li><span class="key k-other twice"></span>underlined: several times in the same row</li>'
    shown = "\n".join(_panel(panel, section) for panel in drawn if panel.size)
    return f"""<h3>The map</h3>
<p>Each row is {"an entry" if section.where == "hub" else "a folder"}, each column the same bytes: what is filled in
two rows, one above the other, both have. The width of a family is all its different bytes.</p>
<ul class="legend">{legend}{pale}</ul>
<div class="maps">
{shown}
<p class="detail" aria-live="polite" data-empty="Point at a block to see what it is.">Point at a block to see what it
is. The table of blocks below says the same.</p>
</div>"""


def _panel(panel: Panel, section: Section) -> str:
    rows = "\n".join(_row(name, panel, section) for name in panel.holders)
    label = f"{panel.family}: {plural(len(panel.holders), 'row')}, {human_bytes(panel.size)} of different bytes"
    return f"""<figure>
<figcaption>{escape(panel.family)} <span>{human_bytes(panel.size)}</span></figcaption>
<div class="panel" role="img" aria-label="{escape(label)}">
{rows}
</div>
</figure>"""


def _row(name: str, panel: Panel, section: Section) -> str:
    blocks = "".join(
        _block(number, column, panel.size, name, section)
        for number, column in enumerate(panel.columns)
        if name in column.rows
    )
    return f'<div class="name">{escape(name)}</div><div class="row">{blocks}</div>'


def _block(number: int, column: Column, whole: int, row: str, section: Section) -> str:
    classes = f"block k-{column.kind}"
    if len(column.holders) == 1:
        classes += " own"
    twice = row in column.repeated_in
    if twice:
        classes += " twice"
    place = f"left:{_percent(column.start, whole)};width:{_percent(column.size, whole)}"
    text = escape(_describe(column, section))
    label = f"{column.label}, twice" if twice else column.label
    if column.size < whole * NARROW:
        label = ""
    return f'<span class="{classes}" data-column="{number}" style="{place}" title="{text}">{escape(label)}</span>'


def _describe(column: Column, section: Section) -> str:
    """A column in a sentence."""
    words = f"{column.label} ({KIND_NAMES[column.kind]}): {human_bytes(column.size)}"
    if column.kind == "unknown":
        return f"{words} in {plural(column.contents, 'file')} of {column.rows[0]}"
    words += f" in {plural(column.contents, 'file')}, kept by {_names(column.holders)}"
    if column.repeated_in:
        words += f", several times by {_names(column.repeated_in)}"
    if column.wasted:
        return f"{words}; {human_bytes(column.wasted)} stored again"
    return words if len(column.holders) == 1 else f"{words}; stored once for this {section.holder} and the others"


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _matrix(section: Section) -> str:
    """Who has how much in common with whom."""
    sharing = section.sharing
    totals = {total.name: total for total in sharing.totals}
    names = [total.name for total in sharing.totals if total.shared]
    if not names:
        return ""
    left = len(names) - LARGEST_MATRIX
    names = names[:LARGEST_MATRIX]
    head = "".join(
        f'<th scope="col"><abbr title="{escape(name)}">{number}</abbr></th>' for number, name in enumerate(names, 1)
    )
    rows = []
    for number, one in enumerate(names, 1):
        cells = "".join(_pair(one, other, sharing, totals[one].distinct, totals[other].distinct) for other in names)
        rows.append(f'<tr><th scope="row">{number} {escape(one)}</th>{cells}</tr>')
    caption = f"Bytes that two {'entries' if section.where == 'hub' else 'folders'} have in common, each content once"
    if left > 0:
        caption += f" ({left} more are in the tables only)"
    return f"""<h3>Pairs</h3>
<div class="scroll"><table class="matrix"><caption>{caption}</caption>
<thead><tr><td></td>{head}</tr></thead>
<tbody>{"".join(rows)}</tbody></table></div>"""


def _pair(one: str, other: str, sharing: Sharing, of_one: int, of_other: int) -> str:
    common = sharing.common(one, other)
    if one == other:
        return f'<td class="self" title="{escape(one)}: {human_bytes(common)} of different bytes">{size(common)}</td>'
    if not common:
        return f'<td class="none" title="{escape(one)} and {escape(other)}: nothing in common">-</td>'
    words = (
        f"{one} and {other} have {human_bytes(common)} in common: {common / of_one:.0%} of {one},"
        f" {common / of_other:.0%} of {other}"
    )
    return f'<td style="--part:{_percent(common, of_one)}" title="{escape(words)}">{human_bytes(common)}</td>'


def _table(
    title: str, caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], words: int, *, long: bool = False
) -> str:
    """A table whose cells are HTML already; its first `words` columns are words, the others numbers.

    A `long` one is closed until somebody opens it.
    """
    listed = list(rows)
    if not listed:
        return ""
    number = ' class="number"'
    cut = len(listed) - MOST_ROWS
    more = f" ({cut:,} more with `--format json`)" if cut > 0 else ""
    head = "".join(f'<th scope="col"{"" if n < words else number}>{cell}</th>' for n, cell in enumerate(header))
    body = "".join(
        "<tr>" + "".join(f"<td{'' if n < words else number}>{cell}</td>" for n, cell in enumerate(row)) + "</tr>"
        for row in listed[:MOST_ROWS]
    )
    return (
        f"<details{'' if long else ' open'}><summary>{title} ({len(listed):,})</summary>"
        f'<div class="scroll"><table><caption>{caption}{more}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div></details>"
    )


def _holders(section: Section) -> str:
    rows = [
        (
            escape(total.name),
            f"{total.files:,}",
            *(size(n) for n in (total.size, total.shared, total.own, total.twice, total.unknown)),
        )
        for total in section.sharing.totals
    ]
    holder = section.holder.capitalize()
    header = (holder, "Files", "Size", "Shared", "Only here", "Twice here", "Not known")
    caption = "Shared: what another one keeps too. Twice here: the same bytes again at another path."
    return _table("Everybody", caption, header, rows, 1)


def _groups(sharing: Sharing) -> str:
    rows = [
        (escape(", ".join(group.holders)), f"{group.contents:,}", size(group.size))
        for group in sharing.groups
        if len(group.holders) > 1
    ]
    return _table("Who shares", "Bytes that exactly these keep", ("Kept by", "Files", "Same bytes"), rows, 1)


def _duplicates(sharing: Sharing) -> str:
    rows = [
        (
            _places(content),
            f"<code>{content.sha256[:16]}</code>",
            f"{content.places:,}",
            size(content.size),
            size(content.wasted),
        )
        for content in sharing.contents
        if content.wasted
    ]
    header = ("Where", "SHA-256", "Copies", "Size", "Too much")
    return _table("Stored more than once", "The most wasteful first", header, rows, 2, long=True)


def _places(content: Content) -> str:
    lines = [f"{escape(holder)}: <code>{escape(path)}</code>" for holder, path in content.files[:4]]
    if len(content.files) > len(lines):
        lines.append(f"and {len(content.files) - len(lines)} more")
    return "<br>".join(lines)


def _columns(drawn: Sequence[Panel]) -> str:
    rows = [
        (
            escape(panel.family),
            escape(column.label),
            KIND_NAMES[column.kind],
            escape(", ".join(column.holders or column.rows)),
            f"{column.contents:,}",
            size(column.size),
            size(column.wasted),
        )
        for panel in drawn
        for column in panel.columns
    ]
    header = ("Family", "Block", "Colour", "Kept by", "Files", "Size", "Stored again")
    return _table("Blocks of the map", "What the map shows, from left to right", header, rows, 4, long=True)
