"""What of a folder is run, and whether something that does not belong there decides it.

Looks at the folder and leaves the decision to `zoo.run.routing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo.errors import DiskError, UnusableBundle
from zoo.folder import list_folder
from zoo.lock import load_lock
from zoo.receipt import load_receipt
from zoo.run.routing import (
    FOUR_CHUNKS,
    STATEFUL_FOLDER,
    THREE_CHUNKS,
    EngineKind,
    Listing,
    Rerouting,
    Role,
    Route,
    RoutedModel,
    Switches,
    asks_for_outputs,
    model_path,
    reroutings,
    route,
)
from zoo.tools import load_tool

LOCK_SUFFIX = ".lock.json"
"""Of the lock beside a build."""

DRIVEN = frozenset({EngineKind.chunked, EngineKind.stateful, EngineKind.stateful_multimodal})
"""Engines of the app that have a counterpart here."""

CHUNK_TOTALS = (3, 4)

OutputsOf = Callable[[Path], Iterable[str]]
"""Names of the outputs of a model's default function."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the app would do with a folder.

    Attributes:
        folder: which.
        route: what it loads.
        owners: what says which files belong there: `receipt`, `lock`, or None if nothing does.
        strays: bundle paths of files that nobody owns; empty if nothing says who owns them.
        reroutings: those of them that change the route.
    """

    folder: Path
    route: Route
    owners: str | None
    strays: tuple[str, ...]
    reroutings: tuple[Rerouting, ...]

    @property
    def base(self) -> Path:
        """Where the sidecars are."""
        return self.folder / self.route.base if self.route.base else self.folder

    def paths(self, role: Role) -> dict[str, Path]:
        """Folders of the models that are loaded for one purpose, by name, in the order of their use."""
        return {model.name: self.folder / model.path for model in self.route.of_role(role)}

    def to_json(self) -> dict[str, Any]:
        """For programs."""

        def described(model: RoutedModel) -> dict[str, Any]:
            return {"path": model.path, "role": str(model.role), "function": model.function}

        return {
            "folder": str(self.folder),
            "engine": str(self.route.engine),
            "models": [described(model) for model in self.route.models],
            "missing": list(self.route.missing),
            "notes": list(self.route.notes),
            "strays": list(self.strays),
            "rerouted_by": [{"path": item.path, "changes": list(item.changes)} for item in self.reroutings],
        }


def decide(folder: Path, outputs_of: OutputsOf, *, switches: Switches | None = None) -> Decision:
    """Looks what lies in a folder and what the app would load.

    Args:
        folder: installed, or a build, or any other copy of a bundle.
        outputs_of: asked about a stateful bundle's third chunk if it matters.
        switches: the app's environment.

    Raises:
        UnusableBundle: there is no such folder.
        DiskError: it cannot be read.
        InvalidDocument: its receipt, or the lock beside it, is damaged.
    """
    if not folder.is_dir():
        raise UnusableBundle(f"{folder}: no such folder", hint="give a build (build/ENTRY) or an installed folder")
    listing = _visible(folder)
    ends = False
    if asks_for_outputs(listing):
        third = model_path(listing, f"{STATEFUL_FOLDER}/chunk_3")
        ends = third is not None and "token_id" in outputs_of(folder / third)
    owners, owned = _owned(folder)
    strays = tuple(sorted(list_folder(folder)[0].keys() - owned)) if owners else ()
    return Decision(
        folder,
        route(listing, ends_with_token=ends, switches=switches),
        owners,
        strays,
        reroutings(listing, strays, ends_with_token=ends, switches=switches),
    )


def split_of(decision: Decision) -> Decision | None:
    """The same folder run with its four chunks, where the app prefers three; None if they are not all there."""
    if decision.route.decoder != THREE_CHUNKS:
        return None
    listing = _visible(decision.folder)
    paths = {name: model_path(listing, name, whole=True) for name in FOUR_CHUNKS}
    four = tuple(RoutedModel(name, path, Role.decoder) for name, path in paths.items() if path is not None)
    if len(four) < len(FOUR_CHUNKS):
        return None
    others = tuple(model for model in decision.route.models if model.role is not Role.decoder)
    return replace(decision, route=replace(decision.route, models=(*four, *others)))


def require_driven(decision: Decision) -> None:
    """Refuses what cannot be run, or would not run in the app.

    Raises:
        UnusableBundle: the engine is another one, or something it needs is missing.
    """
    found = decision.route
    if found.engine not in DRIVEN and found.missing:
        raise UnusableBundle(
            f"{decision.folder}: not a bundle, the app would look for {found.missing[0]}",
            hint="name the folder that holds model_config.json or gemma4_e2b_stateful_chunks/",
        )
    if found.engine not in DRIVEN or len(found.decoder) not in CHUNK_TOTALS:
        if found.missing:
            _refuse_missing(decision, found.missing)
        what = f"{found.engine}, {', '.join(model.path for model in found.of_role(Role.decoder))}"
        raise UnusableBundle(f"{decision.folder}: the app would run this with {what}; that engine is not driven here")
    fatal = [path for path in found.missing if Path(path).name not in _PREFILL_NAMES]
    if fatal:
        _refuse_missing(decision, fatal)


_PREFILL_NAMES = frozenset(f"prefill_chunk{number}" for number in (2, 3, 4))
"""Without these the app decodes prompts; everything else that it does not find is fatal, or makes nonsense."""


def _refuse_missing(decision: Decision, missing: Iterable[str]) -> None:
    names = list(missing)
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    blamed = [item.path for item in decision.reroutings if any(names[0] in line for line in item.changes)]
    hint = f"{blamed[0]} makes the app look for it" if blamed else "bring it back with `zoo repair` or `zoo build`"
    raise UnusableBundle(f"{decision.folder}: {names[0]}{more} is missing", hint=hint)


def _visible(folder: Path) -> Listing:
    """What the app sees: unlike everywhere else in zoo, links to folders are followed."""
    files, folders = list_folder(folder)
    seen = {folder.resolve()}
    links = [path for path, file in files.items() if not file.regular]
    while links:
        path = links.pop()
        target = (folder / path).resolve()
        if not target.is_dir() or target in seen:
            continue
        seen.add(target)
        inside, below = list_folder(target)
        files |= {f"{path}/{name}": file for name, file in inside.items()}
        folders |= {path} | {f"{path}/{name}" for name in below}
        links += [f"{path}/{name}" for name, file in inside.items() if not file.regular]
    return Listing.of(files, folders)


def _owned(folder: Path) -> tuple[str | None, frozenset[str]]:
    """Who says what belongs here, and the bundle paths that do."""
    owners = load_receipt(folder).owners()
    if owners:
        return "receipt", frozenset(owners)
    beside = folder.parent / f"{folder.resolve().name}{LOCK_SUFFIX}"
    try:
        is_build = beside.is_file()
    except OSError as error:
        raise DiskError(f"{beside}: cannot be read: {error.strerror}") from None
    if is_build:
        return "lock", frozenset(file.path for file in load_lock(beside).files)
    return None, frozenset()


def chosen(decision: Decision, kind: Callable[..., Any]) -> Any:
    """The decision as the converters take it.

    Args:
        decision: what `require_driven` accepted.
        kind: `converters.run.folder.Chosen`.
    """

    def only(role: Role) -> Path | None:
        return next(iter(decision.paths(role).values()), None)

    found = decision.route
    return kind(
        folder=decision.base,
        stateful=found.engine is not EngineKind.chunked,
        decoder=decision.paths(Role.decoder),
        prefill=decision.paths(Role.prefill),
        image=only(Role.image),
        video=only(Role.video),
        audio=only(Role.audio),
    )


@contextmanager
def bundle_errors() -> Iterator[None]:
    """Turns what the converters find wrong with a bundle into an error of ours."""
    failure = load_tool("errors").RecipeError
    try:
        yield
    except failure as error:
        raise UnusableBundle(str(error)) from error


def outputs_of(path: Path) -> list[str]:
    """Names of the outputs of a model's default function.

    Raises:
        UnusableBundle: the model cannot be read.
    """
    with bundle_errors():
        package = load_tool("program").load_package(path)
        return [feature.name for feature in package.interfaces[package.default].outputs]
