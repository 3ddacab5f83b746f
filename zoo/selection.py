"""Which components of an entry somebody wants: `--only text`, `--without audio`, `--only chunk1`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from zoo.catalog import Entry, Part, unknown


@dataclass(frozen=True, slots=True)
class Selection:
    """A choice by modality or component name; empty means everything.

    Attributes:
        only: keep just these; text components that the others cannot work without are kept when a modality
            is named, because an image encoder alone answers nothing.
        without: then leave these out.
    """

    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    @property
    def everything(self) -> bool:
        """True when nothing was left out on purpose."""
        return not self.only and not self.without


def select(entry: Entry, selection: Selection) -> tuple[Part, ...]:
    """The components of `entry` that `selection` keeps, in manifest order.

    Raises:
        UnknownEntry: a name that is neither a modality nor a component of the entry.
    """
    chosen = set(_names(entry, selection.only)) if selection.only else {part.name for part in entry.parts}
    if any(name in entry.modalities() for name in selection.only):
        chosen |= {part.name for part in entry.parts if part.modality == "text"}
    chosen -= set(_names(entry, selection.without))
    return tuple(part for part in entry.parts if part.name in chosen)


def _names(entry: Entry, wanted: Iterable[str]) -> Iterable[str]:
    modalities = entry.modalities()
    names = [part.name for part in entry.parts]
    for word in wanted:
        if word in modalities:
            yield from (part.name for part in entry.parts if part.modality == word)
        elif word in names:
            yield word
        else:
            raise unknown(f"modality or component of {entry.id}", word, [*modalities, *names])
