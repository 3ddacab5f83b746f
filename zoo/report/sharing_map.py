"""Where everything lies on the sharing map: one panel per family, one row per holder, one column per content.

A panel's width is all different bytes of its family, each once. A row is filled where its holder keeps the bytes that
the column stands for, so that what two holders share is one above the other. Bytes without a digest get columns of
their own at the end: nobody knows whether they are shared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from zoo.plan.sharing import Content, Held, Holder, Sharing

KINDS = ("decoder", "embeddings", "other", "image", "video", "audio", "unknown")
"""Colours of the map, in the order of columns."""

SMALL = 0.002
"""A column narrower than this part of its panel is put together with others of its kind: nobody could see it."""


@dataclass(frozen=True, slots=True)
class Column:
    """Contents that the same holders keep, of one component.

    Attributes:
        label: the component, or how many small ones there are.
        kind: one of `KINDS`.
        holders: everybody who keeps them, also in other families; empty for unknown bytes of one holder.
        start, size: bytes from the left edge, and bytes.
        contents: how many.
        copies: how many physical copies of the contents there are in all.
        wasted: bytes stored beyond the first copies.
        rows: names of the holders of this panel that are filled here.
        repeated_in: those of them that keep some of the contents several times.
    """

    label: str
    kind: str
    holders: tuple[str, ...]
    start: int
    size: int
    contents: int
    copies: int
    wasted: int
    rows: tuple[str, ...]
    repeated_in: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """One family.

    Attributes:
        family: its name.
        holders: rows, in order.
        size: bytes from the left edge to the right one.
        columns: from left to right, without gaps.
    """

    family: str
    holders: tuple[str, ...]
    size: int
    columns: tuple[Column, ...]


def panels(sharing: Sharing) -> tuple[Panel, ...]:
    """The panels of a map, families in the order of their first holders."""
    families: dict[str, list[Holder]] = {}
    for holder in sharing.holders:
        families.setdefault(holder.family, []).append(holder)
    family_of = {holder.name: holder.family for holder in sharing.holders}
    contents: dict[str, list[Content]] = {family: [] for family in families}
    for content in sharing.contents:
        for family in {family_of[name] for name in content.holders} if content.size else ():
            contents[family].append(content)
    return tuple(_panel(family, holders, contents[family]) for family, holders in families.items())


def _panel(family: str, holders: list[Holder], contents: list[Content]) -> Panel:
    names = tuple(holder.name for holder in holders)
    unknown = [(holder.name, file) for holder in holders for file in holder.files if file.sha256 is None and file.size]
    size = sum(content.size for content in contents) + sum(file.size for _, file in unknown)
    columns = [*_known(contents, names, size * SMALL), *_unknown(unknown, size * SMALL)]
    placed = []
    start = 0
    for column in columns:
        placed.append(replace(column, start=start))
        start += column.size
    return Panel(family, names, start, tuple(placed))


def _known(contents: list[Content], names: tuple[str, ...], small: float) -> list[Column]:
    grouped: dict[tuple[tuple[str, ...], str, str], list[Content]] = {}
    for content in contents:
        grouped.setdefault((content.holders, _kind(content.kind), content.label), []).append(content)
    large = {key: found for key, found in grouped.items() if sum(content.size for content in found) >= small}
    rest: dict[tuple[tuple[str, ...], str], list[Content]] = {}
    for (holders, kind, label), found in grouped.items():
        if (holders, kind, label) not in large:
            rest.setdefault((holders, kind), []).extend(found)
    columns = [_column(label, kind, holders, found, names) for (holders, kind, label), found in large.items()]
    columns += [
        _column(f"{len({content.label for content in found})} small components", kind, holders, found, names)
        for (holders, kind), found in rest.items()
    ]
    # What most rows have comes first; equal sets of rows stay together.
    return sorted(
        columns,
        key=lambda column: (
            -len(column.rows),
            [names.index(row) for row in column.rows],
            column.holders,
            KINDS.index(column.kind),
            column.label,
        ),
    )


def _kind(kind: str) -> str:
    return kind if kind in KINDS else "other"


def _column(
    label: str, kind: str, holders: tuple[str, ...], contents: list[Content], names: tuple[str, ...]
) -> Column:
    return Column(
        label=label,
        kind=kind,
        holders=holders,
        start=0,
        size=sum(content.size for content in contents),
        contents=len(contents),
        copies=sum(content.places for content in contents),
        wasted=sum(content.wasted for content in contents),
        rows=tuple(name for name in names if name in holders),
        repeated_in=tuple(name for name in names if any(name in content.repeated_in for content in contents)),
    )


def _unknown(files: list[tuple[str, Held]], small: float) -> list[Column]:
    grouped: dict[tuple[str, str], list[Held]] = {}
    for name, file in files:
        grouped.setdefault((name, file.label), []).append(file)
    columns = []
    rest: dict[str, list[Held]] = {}
    for (name, label), found in grouped.items():
        if sum(file.size for file in found) >= small:
            columns.append(_unknown_column(label, name, found))
        else:
            rest.setdefault(name, []).extend(found)
    columns += [_unknown_column("small components", name, found) for name, found in rest.items()]
    order = list(dict.fromkeys(name for name, _ in files))
    return sorted(columns, key=lambda column: (order.index(column.rows[0]), column.label))


def _unknown_column(label: str, name: str, files: list[Held]) -> Column:
    size = sum(file.size for file in files)
    return Column(label, "unknown", (), 0, size, len(files), len(files), 0, (name,))
