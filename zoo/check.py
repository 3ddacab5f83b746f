"""Checks a bundle without running it, by the rules of `converters.check` and what the app would load from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.catalog import Catalog, Entry
from zoo.errors import CONVERT_HINT, ConversionError, DiskError, MissingExtra, UsageError, ZooError
from zoo.paths import MODEL_SUFFIXES, model_folder, strip_model_suffix
from zoo.run.routing import PROBE_MARKER, STATEFUL_FOLDER, Listing, Switches, reroutings, route

if TYPE_CHECKING:
    from converters.check.facts import Bundle
    from converters.check.rule import Finding, Rule

LIBRARIES = ("numpy", "coremltools")
"""What reading models takes; torch is not among it."""

FAMILIES = frozenset({"gemma4"})
"""Families of recipes whose bundles the rules know in all their parts."""

SWITCHES = (
    Switches(),
    Switches(vision_ane=True),
    Switches(topology_one=True),
    Switches(eagle3=True),
    Switches(speculative=True),
)
"""Environments of the app that make a difference; a model that is loaded in any of them has a use."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a check.

    Attributes:
        folder: as it was given.
        entries: that the folder is known to hold.
        engine: of the app that the folder's contents choose.
        models, files: how many were looked at.
        findings: the worst first.
    """

    folder: str
    entries: tuple[str, ...]
    engine: str
    models: int
    files: int
    findings: tuple[Finding, ...]


def check_folder(folder: Path, entries: Sequence[Entry] = (), *, ignore: Collection[str] = ()) -> Report:
    """Check a bundle. Takes seconds, reads no weights but samples, and needs no checkpoint.

    Args:
        folder: the bundle, e.g. a build before it is locked.
        entries: what it is meant to hold; decides which files are strays.
        ignore: rules or groups of rules to leave out.

    Raises:
        UsageError: no such rule.
        DiskError: the folder cannot be read.
        MissingExtra: the libraries that read models are not installed.
    """
    from zoo.build.recipes import require_libraries

    require_libraries(LIBRARIES)
    from converters.check.gather import gather
    from converters.check.run import examine
    from converters.errors import RecipeError

    place = folder.parent if folder.name == STATEFUL_FOLDER else folder
    try:
        bundle = gather(place)
    except RecipeError as error:
        raise DiskError(str(error), hint="give the folder of a bundle: zoo check build/gemma4-e4b") from None
    except OSError as error:
        raise DiskError(f"{error.filename or place}: cannot be read: {error.strerror}") from None
    bundle, engine = _routed(bundle, entries)
    try:
        findings = examine(bundle, ignore=ignore)
    except RecipeError as error:
        raise UsageError(str(error), hint="zoo check --rules lists them") from None
    return Report(
        folder=str(folder),
        entries=tuple(entry.id for entry in entries),
        engine=engine,
        models=len(bundle.models),
        files=len(bundle.files),
        findings=findings,
    )


def refuse_unsound(folder: Path, entry: Entry) -> None:
    """Refuse a bundle that has errors, before it takes the place of an older one.

    Raises:
        ConversionError: naming the first error, and how many more there are.
    """
    findings = check_folder(folder, (entry,)).findings
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        first, more = errors[0], f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise ConversionError(
            f"{entry.id}: {first.rule}: {first.file}: {first.message}{more}",
            hint=f"{first.remedy}; the old build is untouched",
        )


def rules() -> tuple[Rule, ...]:
    """Every rule there is.

    Raises:
        MissingExtra: numpy, which some of them compute with, is not installed.
    """
    try:
        from converters.check.rules import RULES
    except ModuleNotFoundError as error:
        raise MissingExtra(f"the rules need the package {error.name!r}", hint=CONVERT_HINT) from None
    return RULES


def known_entries(folder: Path, catalog: Catalog) -> tuple[Entry, ...]:
    """The entries that a folder is known to hold: those of its receipt, or that of the lock beside it."""
    from zoo.lock import load_lock, lock_path
    from zoo.receipt import load_receipt

    names = tuple(load_receipt(folder).entries)
    beside = lock_path(folder.parent, folder.name)
    if not names and beside.is_file():
        try:
            names = (load_lock(beside).entry,)
        except ZooError:
            return ()
    ids = {entry.id for entry in catalog.entries}
    return tuple(catalog.get(name) for name in names if name in ids)


def _routed(bundle: Bundle, entries: Sequence[Entry]) -> tuple[Bundle, str]:
    """The bundle with what the app would make of it, and the engine's name."""
    from converters.check.facts import Routed
    from converters.check.layout import gives_token

    listing = Listing.of(bundle.files)
    third = bundle.models.get("chunk_3")
    ends = third is not None and gives_token(third)
    routes = [route(listing, ends_with_token=ends, switches=switches) for switches in SWITCHES]
    chosen = routes[0]
    strays = sorted(_strays(listing, entries, ends_with_token=ends))
    changes = {item.path: item.changes for item in reroutings(listing, strays, ends_with_token=ends)}
    forbidden = [path for path in strays if entries and all(entry.must_be_absent(path) for entry in entries)]
    routed = Routed(
        engine=str(chosen.engine),
        loaded=frozenset(model.path for found in routes for model in found.models),
        missing=chosen.missing,
        notes=chosen.notes,
        strays={path: changes.get(path, ()) for path in strays if path in changes or path in forbidden},
    )
    return dataclasses.replace(bundle, routed=routed), routed.engine


def _strays(listing: Listing, entries: Sequence[Entry], *, ends_with_token: bool) -> Iterator[str]:
    """Files and model folders that should not be there: nobody's if it is known whose the folder is.

    Otherwise what no bundle has by intention: a marker of experiments, a model for all layers beside chunks, and a
    fourth chunk behind one that already gives the token.
    """
    if entries:
        units = {model_folder(path) or path for path in listing.files}
        yield from (unit for unit in units if not any(_owns(entry, unit, listing) for entry in entries))
        return
    doubtful = [PROBE_MARKER]
    if any(listing.has(f"{STATEFUL_FOLDER}/chunk_1{suffix}") for suffix in MODEL_SUFFIXES):
        doubtful += [f"{STATEFUL_FOLDER}/model{suffix}" for suffix in MODEL_SUFFIXES]
        doubtful += [f"{STATEFUL_FOLDER}/chunk_4{suffix}" for suffix in MODEL_SUFFIXES if ends_with_token]
    yield from (path for path in doubtful if listing.has(path))


def _owns(entry: Entry, unit: str, listing: Listing) -> bool:
    """Whether a file, or a model folder in either form, is part of an entry."""
    if unit in listing.folders:
        name = strip_model_suffix(unit)
        return any(part.model == name for part in entry.parts)
    return entry.owner_of(unit) is not None
