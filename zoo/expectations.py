"""What is expected of entries that nobody has a file list for: which files, of what size, and how that is known.

Which files there are says the manifest. A size comes from the component of another entry that has the same bytes (a
`share`), from one that the data says is like it, or from the data itself (`tests/data/expected_sizes.toml`). A
required component of which nothing is known is an error, so that no provisional lock is a part of the truth.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from zoo.catalog import Entry, Part
from zoo.documents import read_bytes
from zoo.errors import InvalidDocument
from zoo.lock import Lock, LockedFile
from zoo.plan.lock import is_weights

MODEL_FILES = {
    "mlmodelc": {
        "weights": "weights/weight.bin",
        "program": "model.mil",
        "description": "coremldata.bin",
        "metadata": "metadata.json",
        "analytics": "analytics/coremldata.bin",
    },
    "mlpackage": {
        "weights": "Data/com.apple.CoreML/weights/weight.bin",
        "program": "Data/com.apple.CoreML/model.mlmodel",
        "manifest": "Manifest.json",
    },
}
"""What a model folder of each form holds, by what the data calls it."""


class Expectation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is expected of some components. Just one of `like`, `model` and `files` is given.

    Attributes:
        entries: of which entries.
        components: of which of their components.
        like: `entry/component` whose files have the sizes, `*` for the component of the same name.
        model: sizes of the files of a model folder, by the names in `MODEL_FILES`.
        files: sizes of other files, by path in the bundle.
        reason: how it is known.
    """

    entries: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    components: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    reason: str
    like: str | None = None
    model: dict[str, int] | None = None
    files: dict[str, int] | None = None


class ExpectedArchive(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The size of the zip file that an entry is published as.

    Attributes:
        entry: which one.
        size: bytes.
        reason: how it is known.
    """

    entry: str
    size: int
    reason: str


class Expectations(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that is expected of entries without a list."""

    expected: tuple[Expectation, ...] = ()
    archive: tuple[ExpectedArchive, ...] = ()

    def entries(self) -> frozenset[str]:
        """The entries it is about."""
        return frozenset(name for expectation in self.expected for name in expectation.entries)

    def archive_of(self, entry: str) -> ExpectedArchive | None:
        """The zip file of an entry, or None."""
        return next((archive for archive in self.archive if archive.entry == entry), None)


@dataclass(frozen=True, slots=True)
class ExpectedPart:
    """One component of an entry without a list.

    Attributes:
        component: its name.
        sizes: bytes by path in the bundle.
        reason: how they are known.
    """

    component: str
    sizes: Mapping[str, int]
    reason: str

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(self.sizes.values())


LockOf = Callable[[str], tuple[Entry, Lock | None]]
"""An entry and its lock (provisional or not; None without one), by id."""


def load_expectations(path: Path) -> Expectations:
    """Read the data.

    Raises:
        InvalidDocument: malformed TOML or content.
    """
    try:
        data: dict[str, Any] = tomllib.loads(read_bytes(path).decode("utf-8"))
        found = msgspec.convert(data, Expectations)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise InvalidDocument(f"{path}: {error}") from None
    for one in found.expected:
        if sum(given is not None for given in (one.like, one.model, one.files)) != 1:
            raise InvalidDocument(f"{path}: {', '.join(one.components)}: give one of `like`, `model` and `files`")
    return found


def expected_parts(entry: Entry, expectations: Expectations, lock_of: LockOf) -> tuple[ExpectedPart, ...]:
    """What is expected of every component of an entry; optional ones of which nothing is known are left out.

    Args:
        entry: the entry.
        expectations: the data.
        lock_of: locks of other entries, for shares and for `like`.

    Raises:
        InvalidDocument: nothing is known of a required component, or the data does not fit the manifest.
    """
    ours = [one for one in expectations.expected if entry.id in one.entries]
    for one in ours:
        for name in one.components:
            entry.part(name)  # a name that is not there is an error
    found = []
    for part in entry.parts:
        said = [one for one in ours if part.name in one.components]
        if len(said) > 1:
            raise InvalidDocument(f"{entry.id}: {part.name}: {len(said)} expectations, one is enough")
        expected = _said(entry, part, said[0], lock_of) if said else _shared(entry, part, lock_of)
        if expected is not None:
            found.append(expected)
        elif part.required:
            raise InvalidDocument(f"{entry.id}: {part.name}: nothing is known of its size")
    return tuple(found)


def expected_files(parts: Iterable[ExpectedPart]) -> tuple[LockedFile, ...]:
    """The files of a provisional lock."""
    return tuple(
        LockedFile(path=path, component=part.component, size=size)
        for part in parts
        for path, size in part.sizes.items()
    )


def _said(entry: Entry, part: Part, one: Expectation, lock_of: LockOf) -> ExpectedPart:
    if one.like is not None:
        other, _, name = one.like.partition("/")
        sizes = _as_of(part, *lock_of(other), part.name if name == "*" else name)
        if sizes is None:
            raise InvalidDocument(f"{entry.id}: {part.name}: like {one.like}: that has no lock, or no such component")
        return ExpectedPart(part.name, sizes, one.reason)
    if one.model is not None:
        if part.model is None:
            raise InvalidDocument(f"{entry.id}: {part.name}: is not a model")
        return ExpectedPart(part.name, _model_sizes(entry, part, one.model), one.reason)
    sizes = dict(one.files or {})
    strangers = sorted(path for path in sizes if not part.owns(path))
    lacking = sorted(path for path in part.files if path not in sizes and path not in part.optional)
    if strangers or lacking:
        raise InvalidDocument(f"{entry.id}: {part.name}: the sizes do not fit: {', '.join([*strangers, *lacking])}")
    return ExpectedPart(part.name, sizes, one.reason)


def _model_sizes(entry: Entry, part: Part, sizes: Mapping[str, int]) -> dict[str, int]:
    form = "mlpackage" if "manifest" in sizes else "mlmodelc"
    names = MODEL_FILES[form]
    if unknown := sorted(sizes.keys() - names.keys()):
        raise InvalidDocument(f"{entry.id}: {part.name}: a .{form} has no {', '.join(unknown)}")
    return {f"{part.model}.{form}/{names[name]}": size for name, size in sizes.items()}


def _shared(entry: Entry, part: Part, lock_of: LockOf) -> ExpectedPart | None:
    if part.origin_entry == entry.id:
        return None
    sizes = _as_of(part, *lock_of(part.origin_entry), part.origin_name)
    return None if sizes is None else ExpectedPart(part.name, sizes, f"shared: {part.origin_entry}/{part.origin_name}")


def _as_of(part: Part, other: Entry, lock: Lock | None, name: str) -> dict[str, int] | None:
    """Sizes of another entry's component at this component's paths; weights that `part` borrows are left to that."""
    files: Sequence[LockedFile] = () if lock is None else [file for file in lock.files if file.component == name]
    if not files:
        return None
    origin = other.part(name)
    if part.model is not None and origin.model is not None:
        inside = {file.path.removeprefix(origin.model): file.size for file in files}
        if part.weights is not None:
            inside = {rest: size for rest, size in inside.items() if not is_weights(rest)}
        return {part.model + rest: size for rest, size in inside.items()}
    places = {path.rsplit("/", 1)[-1]: path for path in part.files}
    sizes = {places[base]: file.size for file in files if (base := file.path.rsplit("/", 1)[-1]) in places}
    return sizes if all(path in sizes or path in part.optional for path in part.files) else None
