"""What runs a bundle's models. The engine knows this protocol only, so that Core ML itself can take the place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, Protocol

from converters.errors import RecipeError
from converters.mil.plan import Arithmetic
from converters.mil.runtime import Model, State
from converters.mil.types import Array
from converters.mil.weights import Policy

Units = Literal["any", "cpu", "cpu-gpu", "cpu-ane"]
"""Units of an Apple machine that a model may be put on."""


class Runner(Protocol):
    """One function of a model."""

    @property
    def inputs(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the inputs by name."""

    def predict(self, data: Mapping[str, Array]) -> Mapping[str, Array]:
        """Outputs by name. What it gives may be given back to it as an input."""


class States(Protocol):
    """The states of one conversation with a model."""

    def read_state(self, name: str) -> Array:
        """A copy of a state's value."""

    def write_state(self, name: str, value: Array) -> None:
        """Replaces a state's value."""


class StatefulRunner(Protocol):
    """One function of a model that may have states."""

    @property
    def inputs(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the inputs by name."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the states."""

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of all functions of the model."""

    def make_states(self) -> States:
        """What a conversation starts with: zeros. Serves the other functions of the model, too."""

    def predict_with(self, data: Mapping[str, Array], states: States) -> Mapping[str, Array]:
        """Outputs by name; changes the states."""


Load = Callable[[str, str | None], Runner]
"""Opens a component (`chunk1`) of a bundle; the second argument is a function's name, None for the default one."""


def inputs_of(name: str, wanted: Iterable[str], given: Mapping[str, Array]) -> dict[str, Array]:
    """What a chunk takes, out of what there is.

    Raises:
        RecipeError: something is not there.
    """
    missing = next((item for item in wanted if item not in given), None)
    if missing is not None:
        raise RecipeError(f"{name} takes {missing}, which no chunk before it gives")
    return {item: given[item] for item in wanted}


class MilRunner:
    """A package executed by `converters.mil`."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._inputs = {feature.name: feature.type.static_shape() or () for feature in model.interface.inputs}

    @property
    def inputs(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the inputs by name."""
        return self._inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return self.model.output_names

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the states."""
        return tuple(feature.name for feature in self.model.interface.states)

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of all functions of the model."""
        return tuple(self.model.package.interfaces)

    def make_states(self) -> State:
        """What a conversation starts with: zeros."""
        return self.model.make_state()

    def predict(self, data: Mapping[str, Array]) -> Mapping[str, Array]:
        """Outputs by name."""
        return self.model.predict(data)

    def predict_with(self, data: Mapping[str, Array], states: States) -> Mapping[str, Array]:
        """Outputs by name; changes the states, which `make_states` gave."""
        assert isinstance(states, State)
        return self.model.predict(data, states)


LoadStateful = Callable[[str, str | None], StatefulRunner]
"""As `Load`, for models that may have states."""


class AnyRunner(StatefulRunner, Runner, Protocol):
    """One function of a model, with or without states, as backends give it."""


class OpenModel(Protocol):
    """A backend: opens models."""

    def __call__(self, path: Path, function: str | None = None, units: Units = "any") -> AnyRunner:
        """Opens one function of the `.mlpackage` or `.mlmodelc` at `path`; None for the default one.

        Args:
            path: the model's folder.
            function: its name.
            units: which of the machine's units the app has such a model use; a hint.
        """


class MilModels:
    """Opens models with `converters.mil`, each function once; functions of one package share their weights.

    Attributes:
        arithmetic: of all of them.
    """

    def __init__(self, arithmetic: Arithmetic = "fp32", weights: Policy = "keep") -> None:
        """Opens nothing yet.

        Args:
            arithmetic: see `Model`: `unrounded` for what programs mean, `fp16` for what that precision leaves.
            weights: see `Model`.
        """
        self.arithmetic: Arithmetic = arithmetic
        self._weights = weights
        self._packages: dict[Path, Model] = {}
        self._functions: dict[tuple[Path, str], Model] = {}

    def __call__(self, path: Path, function: str | None = None, units: Units = "any") -> MilRunner:
        """Opens one function; `units` do not matter here."""
        del units
        return MilRunner(self.model(path, function))

    def model(self, path: Path, function: str | None = None) -> Model:
        """The model behind a runner."""
        first = self._packages.get(path)
        if first is None:
            first = Model(path, function, arithmetic=self.arithmetic, weights=self._weights)
            self._packages[path] = self._functions[path, first.function_name] = first
        name = function or first.package.default
        known = self._functions.get((path, name))
        if known is None:
            known = self._functions[path, name] = first.with_function(name)
        return known


def load_with_mil(folder: Path, arithmetic: Arithmetic = "fp32") -> Callable[[str, str | None], MilRunner]:
    """Opens the packages of a folder by component.

    Args:
        folder: a bundle.
        arithmetic: see `MilModels`.
    """
    models = MilModels(arithmetic)
    return lambda component, function: models(folder / f"{component}.mlpackage", function)
