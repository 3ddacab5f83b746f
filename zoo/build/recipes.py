"""The static table of recipe families: the only way from `zoo` to the converters.

A family's module is imported when one of its recipes is asked for. Declaring modules import neither torch nor
coremltools (see `converters.recipe`), so planning a build works without the `[convert]` extra.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from zoo.catalog import unknown
from zoo.errors import CONVERT_HINT, InvalidDocument, MissingExtra

if TYPE_CHECKING:
    from converters.checkpoint import Checkpoint, KnownUnused
    from converters.recipe import Recipe

FAMILIES: Mapping[str, str] = {"gemma4": "converters.gemma4.family"}
"""The part of a recipe's name before the dot -> the module that declares the family: `RECIPES`,
`check_checkpoint` and `known_unused`."""


@dataclass(frozen=True, slots=True)
class Family:
    """What the converters of one model family offer.

    Attributes:
        recipes: by full name, e.g. `gemma4.rope`.
        check_checkpoint: (checkpoint, manifest's `expect`, entry) -> None; raises `RecipeError` for a checkpoint of
            another architecture or size.
        known_unused: modalities of the entry -> tensors that no component of such an entry reads, and why.
    """

    recipes: Mapping[str, Recipe]
    check_checkpoint: Callable[[Checkpoint, Mapping[str, Any], str], None]
    known_unused: Callable[[Checkpoint, frozenset[str]], tuple[KnownUnused, ...]]


FindFamily = Callable[[str], Family]


@cache
def load_family(prefix: str) -> Family:
    """The family whose recipes are called `prefix.something`.

    Raises:
        UnknownEntry: no such family.
        MissingExtra: the converters are not part of this installation.
    """
    if prefix not in FAMILIES:
        raise unknown("recipe family", prefix, FAMILIES)
    try:
        module = importlib.import_module(FAMILIES[prefix])
    except ModuleNotFoundError as error:
        raise MissingExtra(f"recipes of {prefix} need the package {error.name!r}", hint=CONVERT_HINT) from None
    return Family(module.RECIPES, module.check_checkpoint, module.known_unused)


def find_recipe(name: str, where: str, find_family: FindFamily = load_family) -> Recipe:
    """The recipe that a manifest calls `name`.

    Args:
        name: `family.what`.
        where: the manifest's file and component, for the message.
        find_family: looks families up; another one than the static table in tests.

    Raises:
        InvalidDocument: no such recipe; the hint has the nearest names.
    """
    from zoo.errors import UnknownEntry

    try:
        recipes = find_family(name.partition(".")[0]).recipes
        if name not in recipes:
            raise unknown("recipe", name, recipes)
    except UnknownEntry as error:
        raise InvalidDocument(f"{where}: recipe: {error.message}", hint=error.hint) from None
    return recipes[name]


def require_libraries(distributions: Iterable[str]) -> None:
    """Refuse to start work that needs packages which are not installed. Imports none of them.

    Raises:
        MissingExtra: naming the missing packages.
    """
    missing = sorted({name for name in distributions if library_version(name) is None})
    if missing:
        raise MissingExtra(f"not installed, but needed to convert: {', '.join(missing)}", hint=CONVERT_HINT)


@cache
def library_version(distribution: str) -> str | None:
    """The installed version of a distribution, read from its metadata without importing it; None if absent."""
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
