"""A manifest: the hand-written TOML that says what a bundle is. No sizes, no digests.

A manifest lists components; each has exactly one origin: a *recipe* (built here), a *share* (the same bytes as a
component of another entry), or *prebuilt* (exists on the Hub only).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import tomli

from zoo.documents import decode, read_bytes
from zoo.errors import InvalidDocument, UnsafePath
from zoo.paths import MODEL_SUFFIXES, check_bundle_path, check_no_clashes, model_folder

MANIFEST_SCHEMA = 1
"""Raised when an older zoo would misread a manifest."""

Modality = Literal["text", "image", "video", "audio"]
Role = Literal[
    "decoder",
    "prefill",
    "encoder",
    "embeddings",
    "rope",
    "projection",
    "features",
    "tokenizer",
    "configuration",
    "drafter",
    "verifier",
]
Visibility = Literal["default", "experimental", "hidden"]

EntryId = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9.\-]*$", max_length=96)]
ComponentName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._\-]*$", max_length=96)]
FolderName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._\-]*$", max_length=96)]
RepoId = Annotated[str, msgspec.Meta(pattern=r"^[\w.\-]+/[\w.\-]+$", max_length=96)]
RecipeName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]+\.[a-z0-9\-]+$")]
ShareName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9.\-]*/[a-z0-9][a-z0-9._\-]*$")]
EnvironmentName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
ArchiveUrl = Annotated[str, msgspec.Meta(pattern=r"^https://[\w.\-]+(/[\w.~%+\-]+)+\.zip$", max_length=512)]
OsVersion = Annotated[str, msgspec.Meta(pattern=r"^[0-9]+(\.[0-9]+){0,2}$")]
Parameter = str | int | float | bool

REPO_TOP = "."
"""A component's `remote` whose files lie at the top of the repo."""


class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every table of a manifest, lock and receipt has in common."""


class Component(Struct, frozen=True, kw_only=True):
    """A named part of a bundle: one Core ML model folder, or a set of sidecar files.

    Attributes:
        name: unique in the manifest.
        share: `entry/component` whose bytes these are. Everything not said here is taken from there.
        recipe: what builds it, e.g. `gemma4.decode-chunk`.
        prebuilt: it exists on the Hub only.
        parameters: recipe parameters, over the manifest's own.
        model: the model folder in the bundle without its suffix, e.g. `chunk1`, `prefill_T288/chunk_1`.
        files: the sidecar files, exact paths in the bundle.
        optional: those of `files` that some bundles lack, e.g. `hf_model/chat_template.jinja`.
        remote: where the repo keeps it if not at the same path: the model folder without suffix, or the folder
            that holds `files`, `.` for the top of the repo.
        weights: another component of this entry, a model, whose weights this model has as well, so that the repo
            may leave them out: `zoo lock` then takes them from there.
        role: what part it plays.
        modality: what kind of input it is for; `--only` and `--without` select by it.
        required: the bundle is incomplete without it.
    """

    name: ComponentName
    share: ShareName | None = None
    recipe: RecipeName | None = None
    prebuilt: bool = False
    parameters: dict[str, Parameter] = {}
    model: str | None = None
    files: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    remote: str | None = None
    weights: ComponentName | None = None
    role: Role | None = None
    modality: Modality | None = None
    required: bool = True


class Hub(Struct, frozen=True, kw_only=True):
    """Where an entry is published. A branch moves; the lock pins the commit it pointed to."""

    repo: RepoId
    revision: str = "main"


class Archive(Struct, frozen=True, kw_only=True):
    """A published zip file that holds the whole bundle, for entries that are in no repo."""

    url: ArchiveUrl


class CheckpointSource(Struct, frozen=True, kw_only=True):
    """What an entry is converted from.

    Attributes:
        repo: the Hugging Face checkpoint, for people and for the model card.
        expect: keys of the text configuration and the values they must have, so that a checkpoint of another
            model size is refused before anything is converted.
    """

    repo: RepoId
    expect: dict[str, Parameter] = {}


class MinimumOs(Struct, frozen=True, kw_only=True):
    """The oldest systems the packages load on."""

    ios: OsVersion | None = None
    macos: OsVersion | None = None


class Blocked(Struct, frozen=True, kw_only=True):
    """Why an entry does not run on a kind of device, in words for the person who wants it to."""

    ios: str | None = None
    macos: str | None = None


class Manifest(Struct, frozen=True, kw_only=True):
    """One entry of the zoo.

    Attributes:
        schema: the form of this file, `MANIFEST_SCHEMA`.
        id: unique in the zoo; also the file's name.
        name: what the picker shows.
        family: entries that are published together.
        folder: the directory on a device; two entries may share one.
        order: position in the picker, lowest first.
        visibility: `experimental` entries are shown only where the app asks for them; `hidden` ones never.
        description: one or two sentences for the picker and the model card.
        license: SPDX identifier or the Hub's licence tag.
        minimum_os: oldest systems.
        environment: environment variables the app must set for this entry.
        blocked: where it is known not to run, and why.
        absent: what must not lie in the folder, because the app's engine would take it: sidecar files, and model
            folders without suffix; `*` stands for anything but `/`.
        hub: where it is published; None for entries that are only sideloaded.
        archive: where it is published if not in a repo.
        checkpoint: what it is converted from.
        parameters: recipe parameters for every component whose recipe has them.
        component: the parts, in the order they are shown.
    """

    schema: int
    id: EntryId
    name: str
    family: EntryId
    folder: FolderName
    order: int
    description: str
    license: str
    visibility: Visibility = "default"
    minimum_os: MinimumOs = MinimumOs()
    environment: dict[EnvironmentName, str] = {}
    blocked: Blocked = Blocked()
    absent: tuple[str, ...] = ()
    hub: Hub | None = None
    archive: Archive | None = None
    checkpoint: CheckpointSource | None = None
    parameters: dict[str, Parameter] = {}
    component: tuple[Component, ...]

    def part(self, name: str) -> Component | None:
        """The component called `name`, or None."""
        return next((component for component in self.component if component.name == name), None)


def load_manifest(path: Path) -> Manifest:
    """Read and check one manifest file.

    Raises:
        InvalidDocument: malformed TOML (file, line, reason) or content (file, key, reason).
        UnsafePath: a path that could leave the bundle's folder.
        DiskError: the file cannot be read.
    """
    manifest = parse_manifest(read_bytes(path), where=str(path))
    if path.name != f"{manifest.id}.toml":
        raise InvalidDocument(f"{path}: id: {manifest.id!r} must be in a file called {manifest.id}.toml")
    return manifest


def parse_manifest(text: bytes, *, where: str) -> Manifest:
    """Parse and check the text of a manifest; see `load_manifest`."""
    try:
        data: dict[str, Any] = tomli.loads(text.decode("utf-8"))
    except UnicodeDecodeError:
        raise InvalidDocument(f"{where}: not UTF-8 text") from None
    except tomli.TOMLDecodeError as error:
        raise InvalidDocument(f"{where}: {error}") from None
    manifest = decode(data, Manifest, where=where, schema=MANIFEST_SCHEMA)
    _check(manifest, where)
    return manifest


def manifest_digest(manifest: Manifest) -> str:
    """sha256 of the manifest's meaning: comments, spelling and key order do not change it."""
    import hashlib  # here, because `zoo ls` digests nothing and should not wait for its imports

    return hashlib.sha256(msgspec.json.encode(manifest, order="sorted")).hexdigest()


def _check(manifest: Manifest, where: str) -> None:
    if manifest.schema != MANIFEST_SCHEMA:
        raise InvalidDocument(f"{where}: schema: expected {MANIFEST_SCHEMA}, found {manifest.schema}")
    if not manifest.component:
        raise InvalidDocument(f"{where}: component: a manifest needs at least one component")
    seen: set[str] = set()
    for index, component in enumerate(manifest.component):
        at = f"{where}: component[{index}] ({component.name})"
        if component.name in seen:
            raise InvalidDocument(f"{at}: name: two components have this name")
        seen.add(component.name)
        _check_component(component, at)
    check_no_clashes(declared_paths(manifest.component), where=where)
    for index, component in enumerate(manifest.component):
        if component.weights is not None and component.weights not in seen - {component.name}:
            raise InvalidDocument(
                f"{where}: component[{index}] ({component.name}): weights: no other component is called"
                f" {component.weights!r}"
            )
    if manifest.hub is not None and manifest.archive is not None:
        raise InvalidDocument(f"{where}: give `hub` or `archive`, not both")
    for pattern in manifest.absent:
        _check_absent(pattern, where)


def _check_absent(pattern: str, where: str) -> None:
    try:
        check_bundle_path(pattern.replace("*", "x"), where=f"{where}: absent")
    except UnsafePath as error:
        raise InvalidDocument(error.message) from None
    if pattern.endswith(MODEL_SUFFIXES):
        raise InvalidDocument(f"{where}: absent: {pattern}: leave out the suffix; both kinds of model are meant")


def _check_component(component: Component, at: str) -> None:
    if (component.share is not None) + (component.recipe is not None) + component.prebuilt != 1:
        raise InvalidDocument(f"{at}: give exactly one of `recipe`, `share` and `prebuilt = true`")
    if component.model is not None and component.files:
        raise InvalidDocument(f"{at}: give `model` or `files`, not both")
    if component.parameters and component.recipe is None:
        raise InvalidDocument(f"{at}: parameters: only a recipe has parameters")
    if component.share is None:
        if component.model is None and not component.files:
            raise InvalidDocument(f"{at}: give `model` (a model folder) or `files` (sidecar files)")
        for key in ("role", "modality"):
            if getattr(component, key) is None:
                raise InvalidDocument(f"{at}: {key}: missing")
    _check_component_paths(component, at)


def _check_component_paths(component: Component, at: str) -> None:
    try:
        for path in declared_paths([component]):
            check_bundle_path(path, where=at)
        if component.remote is not None and not (component.model is None and component.remote == REPO_TOP):
            check_bundle_path(component.remote, where=f"{at}: remote")
    except UnsafePath as error:
        raise InvalidDocument(error.message) from None
    if component.model is not None and component.model.endswith(MODEL_SUFFIXES):
        raise InvalidDocument(f"{at}: model: leave out the suffix; it depends on the build")
    if any(model_folder(path) for path in component.files):
        raise InvalidDocument(f"{at}: files: a model folder is given with `model`")
    strangers = sorted(set(component.optional).difference(component.files))
    if strangers:
        raise InvalidDocument(f"{at}: optional: {', '.join(strangers)} must be in `files` too")
    if component.weights is not None and component.files:
        raise InvalidDocument(f"{at}: weights: only a model has weights")


def declared_paths(components: Iterable[Component]) -> list[str]:
    """Paths the components name: sidecar files as they are, model folders without suffix."""
    paths: list[str] = []
    for component in components:
        paths.extend(component.files)
        if component.model is not None:
            paths.append(component.model)
    return paths
