"""Checked access to recipe parameters, which come from manifests and may hold anything."""

from __future__ import annotations

from collections.abc import Collection

from converters.errors import RecipeError
from converters.recipe import Parameters


def whole(parameters: Parameters, key: str, low: int, high: int) -> int:
    """A whole number from `low` to `high`.

    Raises:
        RecipeError: missing, not a whole number, or outside the range.
    """
    value = parameters.get(key)
    if type(value) is not int or not low <= value <= high:
        raise RecipeError(f"parameter {key} is {value!r}, expected a whole number from {low} to {high}")
    return value


def choice(parameters: Parameters, key: str, options: Collection[str]) -> str:
    """One of `options`.

    Raises:
        RecipeError: missing or another value.
    """
    value = parameters.get(key)
    if not isinstance(value, str) or value not in options:
        raise RecipeError(f"parameter {key} is {value!r}, expected one of {', '.join(options)}")
    return value


def text(parameters: Parameters, key: str) -> str:
    """A string that is not empty.

    Raises:
        RecipeError: missing, empty or no string.
    """
    value = parameters.get(key)
    if not isinstance(value, str) or not value:
        raise RecipeError(f"parameter {key} is {value!r}, expected a text that is not empty; set it in the manifest")
    return value
