"""From an entry to the steps that make it. Pure.

A shared component is the *origin's* step, with the origin's parameters: the multimodal entry's chunk1 is the text
entry's step, under the same key, from the same cached output, byte for byte.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from zoo.build.recipes import FindFamily, find_recipe, load_family
from zoo.catalog import Catalog, Entry, Part
from zoo.errors import InvalidDocument
from zoo.manifest import Component, Parameter
from zoo.paths import MODEL_SUFFIXES

if TYPE_CHECKING:
    from converters.recipe import Recipe


CONTEXT_LENGTH = "context_length"
"""The parameter that all components of a bundle which have it must agree on."""


@dataclass(frozen=True, slots=True)
class Step:
    """One component to be made, as its origin's manifest describes it.

    Attributes:
        entry, component: the origin.
        recipe: what makes it.
        path: where it lies in the origin's bundle without a model suffix; for sidecar files the folder that all
            of them are in, empty at the top.
        parameters: every parameter of the recipe.
        model: the model folder without suffix; None for sidecar files.
        files: the sidecar files; empty for a model.
    """

    entry: str
    component: str
    recipe: Recipe
    path: str
    parameters: Mapping[str, Parameter]
    model: str | None
    files: tuple[str, ...]

    @property
    def id(self) -> str:
        """`entry/component`, unique in a zoo."""
        return f"{self.entry}/{self.component}"


@dataclass(frozen=True, slots=True)
class Placement:
    """A component of the entry and the step whose output it is."""

    part: Part
    step: Step

    def place(self, path: str) -> str:
        """Where `path` of the step's output lies in the entry's bundle (a share may rename it)."""
        if self.step.model is not None and self.part.model is not None:
            return self.part.model + path.removeprefix(self.step.model)
        return self.part.files[self.step.files.index(path)]


@dataclass(frozen=True, slots=True)
class NotBuilt:
    """A component that this checkpoint does not make, and why."""

    part: Part
    reason: str


@dataclass(frozen=True)
class Graph:
    """Everything that makes up an entry."""

    entry: Entry
    placements: tuple[Placement, ...]
    not_built: tuple[NotBuilt, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        """Each step once, in manifest order."""
        return tuple({placement.step.id: placement.step for placement in self.placements}.values())

    def components_of(self, step: Step) -> tuple[str, ...]:
        """The entry's components that are this step's output."""
        return tuple(placement.part.name for placement in self.placements if placement.step.id == step.id)


def make_graph(catalog: Catalog, entry_id: str, find_family: FindFamily = load_family) -> Graph:
    """The steps and placements of an entry.

    Raises:
        UnknownEntry: no such entry.
        InvalidDocument: an unknown recipe, an unknown parameter or one of another type, a share that does not fit
            its origin, components with different context lengths: file, component, key.
    """
    entry = catalog.get(entry_id)
    placements: list[Placement] = []
    not_built: list[NotBuilt] = []
    for part in entry.parts:
        origin = catalog.get(part.origin_entry)
        reason = _why_not_built(part, origin, entry)
        if reason is not None:
            not_built.append(NotBuilt(part, reason))
            continue
        step = _make_step(origin, part.origin_name, catalog, find_family)
        _check_fits(part, step, f"{catalog.directory / entry.id}.toml: component {part.name}")
        placements.append(Placement(part, step))
    graph = Graph(entry, tuple(placements), tuple(not_built))
    lengths = context_lengths(graph)
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} {length}" for name, length in sorted(lengths.items()))
        raise InvalidDocument(f"{catalog.directory / entry.id}.toml: components disagree on {CONTEXT_LENGTH}: {said}")
    return graph


def context_lengths(graph: Graph) -> dict[str, Parameter]:
    """The context length of every step that has one, by step id."""
    return {step.id: step.parameters[CONTEXT_LENGTH] for step in graph.steps if CONTEXT_LENGTH in step.parameters}


def _why_not_built(part: Part, origin: Entry, entry: Entry) -> str | None:
    if part.recipe is None:
        return "exists only on the Hub; `zoo pull` brings it"
    mine, theirs = entry.manifest.checkpoint, origin.manifest.checkpoint
    if mine is not None and theirs is not None and mine.repo != theirs.repo:
        return f"made from {theirs.repo}; it comes with {origin.id}"
    return None


def _make_step(origin: Entry, name: str, catalog: Catalog, find_family: FindFamily) -> Step:
    component = origin.manifest.part(name)
    if component is None or component.recipe is None:
        raise AssertionError("the catalog resolved the share to a component with a recipe")
    file = f"{catalog.directory / origin.id}.toml"
    where = f"{file}: component {name}"
    recipe = find_recipe(component.recipe, where, find_family)
    return Step(
        entry=origin.id,
        component=name,
        recipe=recipe,
        path=_step_path(component),
        parameters=merge_parameters(recipe, origin.manifest.parameters, component.parameters, file, name),
        model=component.model,
        files=component.files,
    )


def _step_path(component: Component) -> str:
    if component.model is not None:
        return component.model
    folders = {str(PurePosixPath(path).parent) for path in component.files}
    only = folders.pop() if len(folders) == 1 else "."
    return "" if only == "." else only


def merge_parameters(
    recipe: Recipe, manifest: Mapping[str, Parameter], component: Mapping[str, Parameter], file: str, name: str
) -> dict[str, Parameter]:
    """The recipe's defaults, overridden by the manifest's parameters it has, overridden by the component's.

    Raises:
        InvalidDocument: a component parameter the recipe does not have, or a value of another type.
    """
    merged: dict[str, Parameter] = dict(recipe.parameters)
    for where, given in ((f"{file}: parameters", manifest), (f"{file}: component {name}: parameters", component)):
        for key, value in given.items():
            if key in merged:
                merged[key] = _as_type_of(recipe.parameters[key], value, f"{where}.{key}")
            elif given is component:
                known = ", ".join(sorted(recipe.parameters)) or "it has none"
                raise InvalidDocument(f"{where}.{key}: {recipe.name} has no such parameter", hint=f"known: {known}")
    return merged


def _as_type_of(default: Parameter, value: Parameter, where: str) -> Parameter:
    if type(default) is float and type(value) is int:
        return float(value)
    if type(default) is not type(value):
        raise InvalidDocument(f"{where}: expected {type(default).__name__}, found {type(value).__name__} {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidDocument(f"{where}: {value} is no number a recipe can use")
    return value


def _check_fits(part: Part, step: Step, where: str) -> None:
    if (part.model is None) != (step.model is None) or len(part.files) != len(step.files):
        raise InvalidDocument(
            f"{where}: share: {step.id} is {_shape(step.model, step.files)}, not {_shape(part.model, part.files)}"
        )


def _shape(model: str | None, files: tuple[str, ...]) -> str:
    return f"{len(files)} sidecar files" if model is None else "a model folder"


def is_model_file(path: str, model: str) -> bool:
    """Whether `path` lies in the model folder called `model` (without suffix)."""
    return path.startswith(tuple(f"{model}{suffix}/" for suffix in MODEL_SUFFIXES))
