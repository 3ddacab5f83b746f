"""Checked access to recipe parameters, which come from manifests and may hold anything."""

from __future__ import annotations

from collections.abc import Collection

from converters.errors import RecipeError
from converters.recipe import Parameters

MOST_DIGITS = 10
"""A longer number is no number of tokens, and Python refuses to read very long ones."""


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


def whole_numbers(parameters: Parameters, key: str, low: int, high: int) -> tuple[int, ...]:
    """Whole numbers from `low` to `high` in ascending order, written with commas between; none for an empty text.

    Raises:
        RecipeError: missing, not such a text, a number outside the range, or one twice.
    """
    value = parameters.get(key)
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) and value else []
    numbers = [int(part) for part in parts if part.isascii() and part.isdecimal() and len(part) < MOST_DIGITS]
    if not isinstance(value, str) or len(numbers) < len(parts) or not all(low <= each <= high for each in numbers):
        raise RecipeError(
            f"parameter {key} is {value!r}, expected whole numbers from {low} to {high} with commas between, or ''"
        )
    if len(set(numbers)) < len(numbers):
        raise RecipeError(f"parameter {key} is {value!r}, which has a number twice")
    return tuple(sorted(numbers))
