"""All entries of a zoo directory together: look-up, and who shares what with whom."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from zoo.errors import InvalidDocument, UnknownEntry
from zoo.lock import Lock, load_lock, lock_path
from zoo.manifest import REPO_TOP, Component, Manifest, Modality, Role, load_manifest
from zoo.paths import check_no_clashes, matches_absent


@dataclass(frozen=True, slots=True)
class Part:
    """A component with its share resolved: what it is, and whose bytes it has.

    Attributes:
        name: in the entry it is a part of.
        origin_entry, origin_name: the component that is built or prebuilt; itself unless it is shared.
        recipe: what builds the origin; None when it is prebuilt.
        parameters: the recipe's parameters as the origin's component gives them, without the manifest's own.
        optional: those of `files` that the bundle may lack.
        weights: the component of the same entry whose weights this model has where the repo keeps none for it.
    """

    name: str
    role: Role
    modality: Modality
    required: bool
    model: str | None
    files: tuple[str, ...]
    remote: str | None
    origin_entry: str
    origin_name: str
    recipe: str | None
    parameters: dict[str, str | int | float | bool]
    optional: tuple[str, ...] = ()
    weights: str | None = None

    def owns(self, path: str) -> bool:
        """Whether bundle path `path` belongs to this component."""
        if self.model is None:
            return path in self.files
        return path.startswith((f"{self.model}.mlpackage/", f"{self.model}.mlmodelc/"))

    def remote_path(self, path: str) -> str:
        """Where the repo keeps bundle path `path` of this component."""
        if self.remote is None:
            return path
        if self.model is None:
            name = path.rsplit("/", 1)[-1]
            return name if self.remote == REPO_TOP else f"{self.remote}/{name}"
        return self.remote + path.removeprefix(self.model)


@dataclass(frozen=True)
class Entry:
    """One entry of the zoo: its manifest with shares resolved, and its published lock if there is one."""

    manifest: Manifest
    parts: tuple[Part, ...]
    lock_file: Path

    @property
    def id(self) -> str:
        """The manifest's id."""
        return self.manifest.id

    @cached_property
    def lock(self) -> Lock | None:
        """The published (or provisional) lock beside the manifest, or None."""
        if not self.lock_file.is_file():
            return None
        lock = load_lock(self.lock_file)
        if lock.entry != self.id:
            raise InvalidDocument(f"{self.lock_file}: entry: expected {self.id!r}, found {lock.entry!r}")
        return lock

    @property
    def how_to_lock(self) -> str:
        """The next step for somebody who needs a lock with digests and sources."""
        if self.manifest.archive is not None:
            return f"`zoo lock {self.id} --from-hub` downloads its archive once and pins it"
        if self.manifest.hub is None:
            return f"`zoo lock {self.id} --from DIR` reads a folder that has it; it is not published on the Hub"
        return f"`zoo lock {self.id} --from-hub` takes it from the Hub; `zoo push {self.id}` publishes a build"

    def part(self, name: str) -> Part:
        """The component called `name`.

        Raises:
            UnknownEntry: with the nearest names.
        """
        for part in self.parts:
            if part.name == name:
                return part
        raise unknown(f"component of {self.id}", name, [part.name for part in self.parts])

    def owner_of(self, path: str) -> Part | None:
        """The component that bundle path `path` belongs to, or None."""
        return next((part for part in self.parts if part.owns(path)), None)

    def must_be_absent(self, path: str) -> bool:
        """Whether bundle path `path` must not lie in the entry's folder, because the app's engine would take it."""
        return matches_absent(path, self.manifest.absent)

    def modalities(self) -> tuple[Modality, ...]:
        """The kinds of input the entry takes, text first."""
        order: tuple[Modality, ...] = ("text", "image", "video", "audio")
        present = {part.modality for part in self.parts}
        return tuple(modality for modality in order if modality in present)


@dataclass(frozen=True)
class Catalog:
    """Every entry of one zoo directory, in picker order."""

    directory: Path
    entries: tuple[Entry, ...]

    def get(self, entry: str) -> Entry:
        """The entry with that id.

        Raises:
            UnknownEntry: with the nearest ids.
        """
        for candidate in self.entries:
            if candidate.id == entry:
                return candidate
        raise unknown("entry", entry, [candidate.id for candidate in self.entries])

    def family(self, family: str) -> tuple[Entry, ...]:
        """The entries of a family, in picker order.

        Raises:
            UnknownEntry: with the nearest families.
        """
        found = tuple(entry for entry in self.entries if entry.manifest.family == family)
        if not found:
            raise unknown("family", family, sorted({entry.manifest.family for entry in self.entries}))
        return found

    def in_folder(self, folder: str) -> tuple[Entry, ...]:
        """The entries that are installed in the device folder of that name."""
        return tuple(entry for entry in self.entries if entry.manifest.folder == folder)


def load_catalog(directory: Path) -> Catalog:
    """Read every manifest of a zoo directory. Locks are read when they are asked for.

    Raises:
        InvalidDocument: a malformed manifest, a share that leads nowhere or in a circle.
    """
    files = sorted(directory.glob("*.toml"))
    if not files:
        raise InvalidDocument(
            f"{directory}: no manifests here",
            hint="give the zoo directory with --zoo DIR or ZOO_DIR; it holds one <id>.toml per entry",
        )
    manifests = {manifest.id: manifest for manifest in map(load_manifest, files)}
    entries = [
        Entry(
            manifest=manifest,
            parts=_resolve(manifest, manifests, directory),
            lock_file=lock_path(directory, manifest.id),
        )
        for manifest in manifests.values()
    ]
    _check_absent(entries, directory)
    return Catalog(directory, tuple(sorted(entries, key=lambda entry: (entry.manifest.order, entry.id))))


def _check_absent(entries: Iterable[Entry], directory: Path) -> None:
    """Refuse entries that share a folder in which one has what another must not find."""
    folders: dict[str, list[Entry]] = {}
    for entry in entries:
        folders.setdefault(entry.manifest.folder, []).append(entry)
    for entry in entries:
        for partner in folders[entry.manifest.folder] if entry.manifest.absent else ():
            for part in partner.parts:
                for path in part.files if part.model is None else (part.model,):
                    if entry.must_be_absent(path):
                        raise InvalidDocument(
                            f"{directory / entry.id}.toml: absent: {path} is a component of {partner.id}, which has"
                            f" the same folder {entry.manifest.folder!r}"
                        )


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownEntry:
    """The error for a name that is not there, with the nearest ones."""
    import difflib  # only mistakes need it

    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"known: {', '.join(names[:12])}"
    return UnknownEntry(f"no {kind} called {name!r}", hint=hint)


def _resolve(manifest: Manifest, manifests: dict[str, Manifest], directory: Path) -> tuple[Part, ...]:
    where = f"{directory / manifest.id}.toml"
    parts = tuple(_resolve_part(component, manifest, manifests, where) for component in manifest.component)
    models = {part.name for part in parts if part.model is not None}
    for part in parts:
        if part.weights is not None and not {part.name, part.weights} <= models:
            raise InvalidDocument(f"{where}: component {part.name}: weights: only models have weights")
        if part.model is not None and part.remote == REPO_TOP:
            raise InvalidDocument(f"{where}: component {part.name}: remote: name the model folder in the repo")
    check_no_clashes(
        [path for part in parts for path in (part.files if part.model is None else (part.model,))],
        where=where,
    )
    return parts


def _resolve_part(component: Component, manifest: Manifest, manifests: dict[str, Manifest], where: str) -> Part:
    chain = [component]
    owner = manifest
    seen = {(manifest.id, component.name)}
    while (share := chain[-1].share) is not None:
        entry, name = share.split("/", 1)
        at = f"{where}: component {component.name}: share"
        if entry not in manifests:
            raise InvalidDocument(f"{at}: no entry called {entry!r} in this zoo")
        owner = manifests[entry]
        target = owner.part(name)
        if target is None:
            raise InvalidDocument(f"{at}: {entry} has no component called {name!r}")
        if (entry, name) in seen:
            raise InvalidDocument(f"{at}: {share} leads back to itself")
        seen.add((entry, name))
        chain.append(target)
    origin = chain[-1]
    placed = next(link for link in chain if link.model is not None or link.files)
    role = next(link.role for link in chain if link.role is not None)
    modality = next(link.modality for link in chain if link.modality is not None)
    return Part(
        name=component.name,
        role=role,
        modality=modality,
        required=component.required,
        model=placed.model,
        files=placed.files,
        remote=component.remote,
        origin_entry=owner.id,
        origin_name=origin.name,
        recipe=origin.recipe,
        parameters=dict(origin.parameters),
        optional=placed.optional,
        weights=component.weights,
    )
