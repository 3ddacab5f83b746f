"""What runs a bundle's models. The engine knows this protocol only, so that Core ML itself can take the place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from converters.mil.plan import Arithmetic
from converters.mil.runtime import Model
from converters.mil.types import Array


class Runner(Protocol):
    """One function of a model."""

    @property
    def inputs(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the inputs by name."""

    def predict(self, data: Mapping[str, Array]) -> Mapping[str, Array]:
        """Outputs by name. What it gives may be given back to it as an input."""


Load = Callable[[str, str | None], Runner]
"""Opens a component (`chunk1`) of a bundle; the second argument is a function's name, None for the default one."""


class MilRunner:
    """A package executed by `converters.mil`."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._inputs = {feature.name: feature.type.static_shape() or () for feature in model.interface.inputs}

    @property
    def inputs(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the inputs by name."""
        return self._inputs

    def predict(self, data: Mapping[str, Array]) -> Mapping[str, Array]:
        """Outputs by name."""
        return self.model.predict(data)


def load_with_mil(folder: Path, arithmetic: Arithmetic = "fp32") -> Load:
    """Opens the packages of a folder; functions of one package share their weights.

    Args:
        folder: a bundle.
        arithmetic: see `Model`: `fp32` for what the program means, `fp16` for what that precision leaves of it.
    """
    opened: dict[str, Model] = {}

    def load(component: str, function: str | None) -> Runner:
        known = opened.get(component)
        if known is None:
            known = opened[component] = Model(folder / f"{component}.mlpackage", function, arithmetic=arithmetic)
        elif (function or known.package.default) != known.function_name:
            known = known.with_function(function or known.package.default)
        return MilRunner(known)

    return load
