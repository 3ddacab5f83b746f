"""Typed reading of a JSON object, with errors that name the key by its full path."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, overload

from converters.errors import RecipeError


class _Missing(Enum):
    MISSING = "no default: the key is required"


_MISSING = _Missing.MISSING
MAX_COUNT = 1 << 31


@dataclass(frozen=True, slots=True)
class Fields:
    """One JSON object and the path that leads to it, e.g. `config.json: text_config`.

    `null` counts as missing everywhere: transformers writes it for unset keys.
    """

    raw: Mapping[str, Any]
    where: str

    def path(self, key: str) -> str:
        """How messages name a key of this object."""
        return f"{self.where}.{key}" if ": " in self.where else f"{self.where}: {key}"

    def get(self, key: str, default: Any = None) -> Any:
        """The unchecked value."""
        value = self.raw.get(key)
        return default if value is None else value

    def child(self, key: str) -> Fields | None:
        """A nested object, or None when missing."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise RecipeError(f"{self.path(key)} is not an object")
        return Fields(value, self.path(key))

    @overload
    def count(self, key: str, default: int | _Missing = ...) -> int: ...
    @overload
    def count(self, key: str, default: None) -> int | None: ...
    def count(self, key: str, default: int | _Missing | None = _MISSING) -> int | None:
        """A whole number from 1 up."""
        value = self._value(key, default)
        if value is None:
            return None
        if type(value) is not int or not 1 <= value < MAX_COUNT:
            raise RecipeError(f"{self.path(key)} is {value!r}, expected a whole number above 0")
        return value

    def index(self, key: str, size: int, default: int | _Missing = _MISSING) -> int:
        """A whole number from 0 up and below `size`."""
        return self._index(self._value(key, default), key, size)

    def indices(self, key: str, size: int) -> tuple[int, ...]:
        """One index or a list of at least one, each below `size`."""
        value = self._value(key, _MISSING)
        values = value if isinstance(value, list) and value else [value]
        return tuple(self._index(item, key, size) for item in values)

    def number(self, key: str, default: float | _Missing = _MISSING) -> float:
        """A finite number."""
        value = self._value(key, default)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise RecipeError(f"{self.path(key)} is {value!r}, expected a number")
        return float(value)

    def positive(self, key: str, default: float | _Missing = _MISSING) -> float:
        """A finite number above 0."""
        value = self.number(key, default)
        if value <= 0:
            raise RecipeError(f"{self.path(key)} is {value!r}, expected a number above 0")
        return value

    def flag(self, key: str, default: bool | _Missing = _MISSING) -> bool:
        """True or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise RecipeError(f"{self.path(key)} is {value!r}, expected true or false")
        return value

    def text(self, key: str, default: str | _Missing = _MISSING) -> str:
        """A string."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise RecipeError(f"{self.path(key)} is {value!r}, expected a text")
        return value

    def _index(self, value: object, key: str, size: int) -> int:
        if type(value) is not int or not 0 <= value < size:
            raise RecipeError(f"{self.path(key)} is {value!r}, expected a whole number from 0 to {size - 1}")
        return value

    def _value(self, key: str, default: int | float | bool | str | _Missing | None) -> Any:
        value = self.get(key, default)
        if value is _MISSING:
            raise RecipeError(f"{self.path(key)} is missing")
        return value
